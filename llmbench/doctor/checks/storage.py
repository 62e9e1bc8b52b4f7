"""Shared memory, temporary and cache folders, and the disk under the working folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.runner import Context

MIB = 2**20
SHM = "/dev/shm"  # noqa: S108
_SHM_COMFORTABLE, _SHM_LEAST = 1024 * MIB, 32 * MIB
_SPACE_COMFORTABLE, _SPACE_LEAST = 1024 * MIB, 64 * MIB


def _look(context: Context, folders: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What is known of each folder; one that never answered (a dead network mount) has the error that says so."""
    outcome = context.probe("storage", {"folders": folders})
    silent = {"error": f"looking at it {outcome.ending}"}
    return {name: outcome.answer.get(name, {"path": path, **silent}) for name, path in folders.items()}


def space(count: float) -> str:
    """A size in the largest unit that keeps it above 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


@check("storage.shm", "Shared memory is large enough", deadline=15, needs=("python.starts",))
def shm(context: Context) -> Iterator[Finding]:
    found = _look(context, {"shm": SHM})["shm"]
    fix = f"docker run --shm-size=16g, or --ipc=host; Kubernetes: an emptyDir of medium Memory on {SHM}"
    if not found.get("exists", True):
        yield failure(f"{SHM} does not exist", "processes cannot share memory", f"mount -t tmpfs tmpfs {SHM}")
    elif found.get("error"):
        yield failure(
            f"{SHM} cannot be written: {found['error']}",
            "DataLoader workers and locks between processes need shared memory",
            f"mount -o remount,rw {SHM}, and mode 1777",
        )
    elif found["total_bytes"] < _SHM_LEAST or found["free_bytes"] < _SHM_LEAST:
        yield failure(
            f"{SHM} has {space(found['free_bytes'])} free of {space(found['total_bytes'])}, which is too small",
            "DataLoader workers are killed by SIGBUS (a bus error) as soon as a batch does not fit",
            fix,
        )
    elif found["total_bytes"] < _SHM_COMFORTABLE:
        yield warning(
            f"{SHM} has only {space(found['total_bytes'])} (docker's default is 64 MiB)",
            "DataLoader workers with large batches are killed by SIGBUS, and NCCL cannot use shared memory",
            fix,
        )
    else:
        yield passed(f"{SHM}: {space(found['free_bytes'])} free of {space(found['total_bytes'])}")


@check("storage.temporary", "Temporary files can be written", deadline=15, needs=("python.starts",))
def temporary(context: Context) -> Iterator[Finding]:
    asked = context.environ.get("TMPDIR")
    if asked and not os.path.isdir(asked):
        yield warning(
            f"TMPDIR={asked} does not exist",
            "Python silently uses /tmp instead, and other programs fail",
            f"mkdir -p {asked}, or unset TMPDIR",
        )
    try:
        folder = asked if asked and os.path.isdir(asked) else tempfile.gettempdir()
    except OSError:
        yield failure(
            "no writable temporary folder: /tmp, /var/tmp and the working folder are read-only or full",
            "torch.compile, DataLoader workers and many libraries write temporary files",
            "mount a tmpfs on /tmp, or export TMPDIR to a folder that can be written",
        )
        return
    found = _look(context, {"tmp": folder})["tmp"]
    named = f"TMPDIR={folder}" if asked == folder else folder
    free = found.get("free_bytes", 0)
    if found.get("error") or free < _SPACE_LEAST:
        yield failure(
            f"{named} cannot be used: {found.get('error') or space(free) + ' free'}",
            "torch.compile, DataLoader workers and many libraries write temporary files",
            "free space there, or export TMPDIR to another file system",
        )
    elif free < _SPACE_COMFORTABLE:
        yield warning(
            f"{named} has only {space(free)} free",
            "a large compilation or download fills it",
            "free space there, or export TMPDIR to another file system",
        )
    else:
        yield passed(f"{named}: {space(free)} free")


# Variable that names it, where it is otherwise (below the user's cache folder), who uses it.
CACHES = (
    ("LLMBENCH_CACHE", "llmbench", "llmbench"),
    ("TORCH_HOME", "torch", "torch.hub"),
    ("HF_HOME", "huggingface", "Hugging Face"),
)
_OTHER_CACHES = (("TORCHINDUCTOR_CACHE_DIR", "torch.compile"), ("TRITON_CACHE_DIR", "Triton"))


@check("storage.caches", "Cache folders can be written", deadline=20, needs=("python.starts",))
def caches(context: Context) -> Iterator[Finding]:
    folders = _cache_folders(context)
    if not folders:
        yield skipped("no home folder, and no variable names a cache folder")
        return
    # One fault, such as a read-only home, often hits several: it is told once.
    faults: dict[str, list[str]] = {}
    for name, found in _look(context, folders).items():
        free = found.get("free_bytes", 0)
        if found.get("error") or free < _SPACE_LEAST:
            faults.setdefault(found.get("error") or f"only {space(free)} free", []).append(name)
    for reason, names in faults.items():
        variables = [name.partition(" ")[0] for name in names]
        yield warning(
            f"the cache folder of {', '.join(f'{name} ({folders[name]})' for name in names)}: {reason}",
            "it cannot be written or is full: downloads fail, and what was compiled is compiled again at every start",
            f"export {', '.join(variables)} to a folder that can be written and has space",
        )
    if not faults:
        yield passed(f"{len(folders)} folders can be written: {', '.join(sorted(set(folders.values())))}")


def _cache_folders(context: Context) -> dict[str, str]:
    home = context.environ.get("HOME") or os.path.expanduser("~")
    shared = context.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home != "~" else "")
    folders = {}
    for variable, name, user in CACHES:
        named = context.environ.get(variable)
        if named:
            folders[f"{variable} for {user}"] = named
        elif shared:
            folders[f"{variable} for {user}"] = os.path.join(shared, name)
    for variable, user in _OTHER_CACHES:
        if context.environ.get(variable):
            folders[f"{variable} for {user}"] = context.environ[variable]
    return folders


@check(
    "storage.disk",
    "The working folder has space for results",
    deadline=15,
    needs=("environment.folder", "python.starts"),
)
def disk(context: Context) -> Iterator[Finding]:
    found = _look(context, {"here": os.getcwd()})["here"]
    free = found.get("free_bytes", 0)
    if found.get("error"):
        yield warning(
            f"{found['path']} cannot be written: {found['error']}",
            "results and reports go to a folder below it, unless told otherwise",
            "work in another folder, or give --out",
        )
    elif free < _SPACE_COMFORTABLE:
        yield warning(
            f"{found['path']} has only {space(free)} free",
            "checkpoints and results fill it",
            "free space, or give --out on another file system",
        )
    else:
        yield passed(f"{found['path']}: {space(free)} free")
