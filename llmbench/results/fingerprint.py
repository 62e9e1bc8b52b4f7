"""The environment of a run: what must be known to compare it with another. Secrets are never in it."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from llmbench.results.redact import environment
from llmbench.results.schema import Git

_OF_THE_HOST = ("cpu", "machine", "cores", "cpus_usable")


def fingerprint(machine: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Facts of host, Python, torch, devices, packages and the variables that matter.

    Args:
        machine: what the interpreter under test tells of itself (``worker/measure/machine.py``).
        environ: the variables of the processes that train.
    """
    return {
        "host": _host(),
        **{part: machine[part] for part in ("python", "torch", "devices", "packages")},
        "variables": environment(environ),
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of two fingerprints matters to speed or losses and is not the same, as ``what: one → other``."""
    found = []
    for part, key in (("torch", "version"), ("torch", "threads"), ("torch", "cuda"), ("python", "version")):
        before, after = _part(one, part).get(key), _part(other, part).get(key)
        if before != after:
            found.append(f"{part} {key}: {before} → {after}")
    before, after = _device_names(one), _device_names(other)
    if before != after:
        found.append(f"devices: {before} → {after}")
    return found


def _part(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a fingerprint; empty if it is none, as in a damaged file."""
    found = environment.get(name)
    return found if isinstance(found, Mapping) else {}


def _device_names(environment: Mapping[str, Any]) -> list[Any]:
    listed = environment.get("devices")
    return [one.get("name") for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def hardware(device: str, environment: Mapping[str, Any]) -> dict[str, str]:
    """What a machine is made of, as far as speed hangs on it; a host of the same make has the same.

    Args:
        device: the kind that trained, as of the run.
        environment: a fingerprint; keys that are missing are left out.
    """
    host, names = _part(environment, "host"), _device_names(environment)
    found = {"device": device} | {key: str(host[key]) for key in _OF_THE_HOST if host.get(key) is not None}
    return found | ({"devices": ", ".join(map(str, names))} if names else {})


def other_hardware(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What of two machines is not the same, as ``what: one → other``; a key that one lacks tells nothing."""
    return [f"{key}: {one[key]} → {other[key]}" for key in one if key in other and one[key] != other[key]]


def git_state(folder: Path) -> Git | None:
    """Commit of the checkout that a folder lies in; None outside of one, or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return Git(commit=commit.strip(), dirty=bool(changes.strip()))


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout


def _host() -> dict[str, Any]:
    load = os.getloadavg()[0]
    return {
        "name": socket.gethostname(),
        "os": _os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_1min": round(load, 2),
    }


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
