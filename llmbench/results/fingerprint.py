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


def fingerprint(machine: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Facts of host, Python, torch, devices, packages and the variables that matter.

    Args:
        machine: what the interpreter under test tells of itself (``worker/measure/machine.py``).
        environ: the variables of the processes that train.
    """
    return {
        "host": _host(),
        **_driver(machine["device"]),
        **{part: machine[part] for part in ("python", "torch", "devices", "packages")},
        "variables": environment(environ),
    }


def _driver(device: str) -> dict[str, str]:
    """The version of NVIDIA's driver, where it is in use."""
    if device != "cuda":
        return {}
    try:
        text = Path("/sys/module/nvidia/version").read_text(encoding="ascii")
    except (OSError, ValueError):
        return {}
    return {"driver": text.strip()}


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
