"""The Triton that torch asks for, and the one that is here: from metadata and files, without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator

NAMES = ("triton", "pytorch-triton", "triton-nightly", "triton-xpu", "pytorch-triton-rocm")


def probe(arguments: dict) -> Iterator[dict]:
    yield {"required": required()}
    yield {"installed": installed()}
    spec = importlib.util.find_spec("triton")
    folder = os.path.dirname(spec.origin) if spec is not None and spec.origin else None
    yield {"folder": folder, "namespace": spec is not None and not spec.origin}
    yield {"gone": gone()}
    own = os.path.join(folder, "backends", "nvidia", "bin", "ptxas") if folder else None
    if own is not None and os.path.isdir(os.path.join(folder or "", "backends", "nvidia")):
        yield {"ptxas": tool(own)}
    named = os.environ.get("TRITON_PTXAS_PATH")
    if named:
        yield {"named_ptxas": tool(named)}


def required() -> dict | None:
    """Name and version that torch's metadata pins; None if it does not ask for Triton."""
    try:
        requirements = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9._-]*triton[A-Za-z0-9._-]*)\s*(?:\(?==\s*([^\s;)]+))?", requirement)
        if match and "extra ==" not in requirement:
            return {"name": match[1], "version": match[2]}
    return None


def installed() -> dict:
    """Versions of all distributions that provide Triton."""
    found = {}
    for name in NAMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gone() -> list:
    """Files that the installer recorded for it, and that are not there."""
    missing = []
    for name in NAMES:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = [file for file in files if file.name in ("ptxas", "libtriton.so", "driver.py", "__init__.py")]
        missing += [str(file) for file in wanted if not os.path.exists(str(file.locate()))]
    return missing


def tool(path: str) -> dict:
    """Whether a program of NVIDIA's toolkit runs, and its release."""
    found = {"path": path, "exists": os.path.isfile(path), "executable": os.access(path, os.X_OK)}
    if not found["exists"] or not found["executable"]:
        return found
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**found, "error": str(error)}
    release = re.search(r"release (\d+\.\d+)", done.stdout)
    if done.returncode != 0 or release is None:
        return {**found, "error": f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}"}
    return {**found, "release": release[1]}
