"""Shared memory, temporary folders, the disk under the working folder, and the mounts; caches are beside it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Literal

from llmbench.doctor.checks import caches
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.folders import (
    CACHES,
    LOOKS,
    MIB,
    Look,
    cache_folders,
    family,
    here,
    home_folder,
    is_network,
    judge,
    look_of,
    space,
    texts_of,
)
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context

OTHERS = (caches,)
"""Files of this area: their checks are registered as they are imported."""
__all__ = ["CACHES"]
SHM = "/dev/shm"  # noqa: S108
_SHM_COMFORTABLE, _SHM_LEAST = 1024 * MIB, 32 * MIB
_HUNG_AFTER = 4.0
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


def _temporary_folders(context: Context) -> list[str]:
    """Where Python looks for a temporary folder, in its order."""
    named = [context.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if context.environ.get(name)]
    return [*named, "/tmp", "/var/tmp", "/usr/tmp", *([here()] if here() else [])]  # noqa: S108


@check("storage.folders", "Folders are looked at", deadline=30, needs=("python.starts",))
def folders(context: Context) -> Iterator[Finding]:
    """Asks for all folders at once; the others of this area read what came back."""
    temporary = _temporary_folders(context)
    wanted = [SHM, *temporary, home_folder(context), *cache_folders(context).values()]
    if here():  # a relative path has no meaning in a folder that was deleted
        wanted = [os.path.abspath(path) for path in wanted if path]
    asked = [path for path in wanted if path and os.path.isabs(path)]
    extensions = cache_folders(context).get("TORCH_EXTENSIONS_DIR", "")
    arguments = {
        "folders": asked,
        "sockets": [os.path.abspath(temporary[0])] if here() else [],
        "locks": [os.path.join(extensions, *below, "lock") for below in (["*"], ["*", "*"])] if extensions else [],
        "limit": _HUNG_AFTER * context.patience,
    }
    outcome = context.probe("storage", arguments)
    LOOKS[context.processes] = outcome.answer
    for path in asked:
        silent = {"path": path, "errno": errno.EIO, "error": f"looking at it {outcome.ending}", "failed": "finding it"}
        outcome.answer.setdefault(path, silent)
    places = {"shm": SHM, "temporary": temporary[0], "home": home_folder(context), "working_folder": here()}
    places["python"] = outcome.answer.get("prefix")
    kinds = {name: outcome.answer.get(path, {}).get("type") for name, path in places.items() if path}
    context.facts["storage"] = {"file_systems": kinds}
    yield passed(f"{len(set(asked))} folders looked at")


# --- mounts

HANGS = fault(
    "storage.mounts.hangs",
    "fail",
    "A folder does not answer",
    cause="its file system does not answer, as a network mount whose server is gone or unreachable: every program that "
    "touches it hangs, and cannot even be killed",
    fix="check the server and the network, then umount -f -l <mount> and mount it again; or point the variable "
    "elsewhere",
)
SHUT_DOWN = fault(
    "storage.mounts.shut-down",
    "fail",
    "The kernel made a file system read-only",
    cause="it is mounted for writing, but the kernel has made it read-only, as it does after errors of the disk: "
    "checkpoints cannot be written, and the disk may be dying",
    fix="dmesg | grep -i -e 'I/O error' -e ext4 -e xfs; save what matters, then check it unmounted: fsck <source>",
)


@check("storage.mounts", "File systems answer", needs=("storage.folders",))
def mounts(context: Context) -> Iterator[Finding]:
    looks = {path: look for path, look in LOOKS[context.processes].items() if isinstance(look, dict) and "path" in look}
    names = _names(context)
    prefix = LOOKS[context.processes].get("prefix")
    fine, told = True, set()
    for path, look in looks.items():
        name = f"{names.get(path, 'the Python environment')}={path}" if path != SHM else SHM
        where = f"{look.get('type', 'file system')} mounted at {look.get('mount', '?')} from {look.get('source', '?')}"
        if "hung" in look:
            fine = False
            yield HANGS.found(
                f"{name} gave no answer within {look['limit']:.0f} s while {look['hung']}; it is on {where}",
                mount=look.get("mount", path),
            )
        elif _was_shut_down(look) and look["mount"] not in told:
            fine = False
            told.add(look["mount"])
            yield SHUT_DOWN.found(
                f"{look['mount']} is mounted rw, but its file system is ro: {where}", source=look["source"]
            )
    if fine:
        environment = looks.get(str(prefix), {})
        remote = [f"{path} ({look['type']})" for path, look in looks.items() if is_network(look)]
        note = f"; over the network: {', '.join(sorted(remote))}" if remote else ""
        yield passed(f"all {len(looks)} answer; Python is on {environment.get('type', 'an unknown file system')}{note}")


def _names(context: Context) -> dict[str, str]:
    """The variable that names a folder, by path."""
    names = {"/tmp": "temporary folder", "/var/tmp": "temporary folder", "/usr/tmp": "temporary folder"}  # noqa: S108
    names |= {os.path.abspath(path) if here() else path: name for name, path in cache_folders(context).items()}
    names |= {context.environ[name]: name for name in ("HOME", "TMPDIR", "TEMP", "TMP") if context.environ.get(name)}
    return names | {here(): "working folder"}


def _was_shut_down(look: Look) -> bool:
    """A file system of a disk is read-only while its mount is not."""
    options, system = look.get("mount_options", "").split(","), look.get("system_options", "").split(",")
    return (
        look.get("type", "") in ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs") and "rw" in options and "ro" in system
    )


# --- shared memory

_MORE_SHM = f"docker run --shm-size=16g, or --ipc=host; Kubernetes: an emptyDir of medium Memory on {SHM}"
NO_SHM = fault(
    "storage.shm.missing",
    "fail",
    f"{SHM} does not exist",
    cause="processes cannot share memory: DataLoader workers and multiprocessing fail",
    fix=f"mkdir -p {SHM} && mount -t tmpfs -o mode=1777 tmpfs {SHM}",
)
SMALL_SHM = fault(
    "storage.shm.small",
    "warn",
    f"{SHM} is small",
    cause="DataLoader workers with large batches are killed by SIGBUS (a bus error), and NCCL cannot use shared memory",
    fix=_MORE_SHM,
    link="https://github.com/pytorch/pytorch/issues/5040",
)
SHM_ON_DISK = fault(
    "storage.shm.disk",
    "warn",
    f"{SHM} is not kept in memory",
    cause="it lies on a disk: every batch that a DataLoader worker hands over is written to it, which is slow",
    fix=f"mount -t tmpfs -o mode=1777 tmpfs {SHM}",
)
NO_SEMAPHORES = fault(
    "storage.shm.semaphores",
    "fail",
    "Processes cannot share a semaphore",
    cause="multiprocessing needs semaphores: DataLoader workers, queues and process pools fail with this error",
    fix=f"let this user write to {SHM} (mode 1777); a sandbox must allow sem_open",
    link="https://bugs.python.org/issue3770",
)
_SHM = family(
    "storage.shm",
    SHM,
    "DataLoader workers, semaphores between processes and NCCL need shared memory",
    f"mount a tmpfs: mount -t tmpfs -o mode=1777 tmpfs {SHM}",
    "fail",
)


@check(
    "storage.shm", "Shared memory is large enough", deadline=15, needs=("storage.folders",), follows=("storage.mounts",)
)
def shm(context: Context) -> Iterator[Finding]:
    look = look_of(context, SHM)
    semaphore = LOOKS[context.processes].get("semaphore")
    if not look.get("exists", True) and "hung" not in look:
        yield NO_SHM.found(f"{SHM} does not exist")
        return
    verdict = judge(look)
    if "hung" in look:
        yield _SHM["broken"].found(f"{SHM} does not answer", **texts_of(look, context))
    elif verdict and "errno" in look:
        yield _SHM[verdict[0]].found(f"{SHM} cannot be written: {verdict[1]}", **texts_of(look, context))
    elif look["total_bytes"] < _SHM_LEAST:
        yield SMALL_SHM.found(
            f"{SHM} has {space(look['free_bytes'])} free of {space(look['total_bytes'])}, which is too small",
            verdict="fail",
        )
    elif verdict and verdict[0] in ("full", "inodes") and look["free_bytes"] < _SHM_LEAST:
        fix = f"remove what dead processes left (ls -lh {SHM}), or: {_MORE_SHM}"
        yield _SHM[verdict[0]].found(f"{SHM} is full: {verdict[1]}{_left_over()}", fix=fix)
    elif verdict and verdict[0] == "inodes":
        yield _SHM["inodes"].found(f"{SHM}: {verdict[1]}{_left_over()}", **texts_of(look, context))
    elif look["total_bytes"] < _SHM_COMFORTABLE:
        yield SMALL_SHM.found(f"{SHM} has only {space(look['total_bytes'])} (docker's default is 64 MiB)")
    elif verdict:
        yield _SHM["low"].found(
            f"{SHM}: {verdict[1]}{_left_over()}", fix=f"ls -lh {SHM} shows what is left there; {_MORE_SHM}"
        )
    elif semaphore:
        yield NO_SEMAPHORES.found(f"sem_open: {semaphore}")
    elif look.get("type", "tmpfs") not in _MEMORY:
        yield SHM_ON_DISK.found(f"{SHM} is on {look['type']} ({look['mount']})")
    else:
        yield passed(f"{SHM}: {space(look['free_bytes'])} free of {space(look['total_bytes'])}")


def _left_over() -> str:
    """The largest files in shared memory."""
    try:
        with os.scandir(SHM) as entries:
            files = sorted(
                ((e.stat(follow_symlinks=False).st_size, e.name) for e in entries if e.is_file()), reverse=True
            )
    except OSError:
        return ""
    shown = ", ".join(f"{name} ({space(size)})" for size, name in files[:3])
    return f"; {len(files)} files, the largest: {shown}" if files else ""


# --- temporary files

MISSING_TEMPORARY = fault(
    "storage.temporary.missing",
    "warn",
    "TMPDIR names no folder",
    cause="Python silently uses /tmp instead, and other programs fail",
    fix="mkdir -p <path>, or unset <variable>",
)
NO_TEMPORARY = fault(
    "storage.temporary.none",
    "fail",
    "There is no writable temporary folder",
    cause="torch.compile, DataLoader workers and many libraries write temporary files: they fail with 'No usable "
    "temporary directory found'",
    fix="mount a tmpfs on /tmp (docker run --tmpfs /tmp; Kubernetes: an emptyDir), or export TMPDIR to a folder that "
    "can be written",
    link="https://docs.python.org/3/library/tempfile.html#tempfile.gettempdir",
)
LONG_TEMPORARY = fault(
    "storage.temporary.long",
    "fail",
    "The path of the temporary folder is too long for sockets",
    cause="multiprocessing makes Unix sockets below it, whose path may have 107 bytes: DataLoader workers and managers "
    "fail or hang with 'AF_UNIX path too long'",
    fix="mkdir -p /tmp/t && export TMPDIR=/tmp/t",
    link="https://github.com/python/cpython/issues/93852",
)
NO_SOCKETS = fault(
    "storage.temporary.sockets",
    "fail",
    "Sockets cannot be made in the temporary folder",
    cause="its file system knows no Unix sockets, which multiprocessing makes there: DataLoader workers fail",
    fix="export TMPDIR to a folder on a local disk, such as /tmp",
)
NOEXEC_TEMPORARY = fault(
    "storage.temporary.noexec",
    "fail",
    "Nothing in the temporary folder may be executed",
    cause="torch.compile keeps its libraries there and cannot load them: 'failed to map segment from shared object: "
    "Operation not permitted'",
    fix="mount -o remount,exec <mount>, or export TMPDIR and TORCHINDUCTOR_CACHE_DIR to a folder on another file "
    "system",
    link="https://github.com/pytorch/pytorch/issues/91005",
)
REMOTE_TEMPORARY = fault(
    "storage.temporary.network",
    "warn",
    "Temporary files go over the network",
    cause="torch.compile and DataLoader workers write many small files there: all of it is slow, removing fails with "
    "'.nfs… Device or resource busy', and locks may not work",
    fix="export TMPDIR to a folder on a local disk, such as /tmp",
)
_TEMPORARY = family(
    "storage.temporary",
    "the temporary folder",
    "torch.compile, DataLoader workers and many libraries write temporary files",
    "export TMPDIR to a folder that can be written and has space",
    "fail",
)


@check(
    "storage.temporary",
    "Temporary files can be written",
    deadline=15,
    needs=("storage.folders",),
    follows=("storage.mounts",),
)
def temporary(context: Context) -> Iterator[Finding]:
    """The folder that was asked for, and whatever Python takes instead of it."""
    names = {context.environ[n]: n for n in ("TMP", "TEMP", "TMPDIR") if context.environ.get(n)}
    candidates = [path for path in _temporary_folders(context) if os.path.isabs(path) or here()]
    used = next((path for path in candidates if _usable(look_of(context, path))), None)
    first = candidates[0]
    named = f"{names[first]}={first}" if first in names else first
    look = look_of(context, first)
    if used is None:
        shown = "; ".join(f"{path}: {_why_not(look_of(context, path))}" for path in dict.fromkeys(candidates))
        yield NO_TEMPORARY.found(f"no writable temporary folder: {shown}")
        return
    texts = texts_of(look, context)
    if "hung" in look:
        yield _TEMPORARY["broken"].found(f"{named} does not answer", **texts)
        return
    if first in names and (not look.get("exists") and "errno" not in look):
        variable, reason = names[first], "is a file, no folder" if look.get("file") == first else "does not exist"
        yield MISSING_TEMPORARY.found(f"{named} {reason}; Python uses {used}", path=first, variable=variable)
        named, look = used, look_of(context, used)
        texts = texts_of(look, context)
    verdict = judge(look)
    if verdict:
        kind, reason = verdict
        instead = f"; Python uses {used} instead" if "errno" in look else ""
        severity: Literal["warn"] | None = "warn" if instead and first not in names else None
        yield _TEMPORARY[kind].found(
            f"{named} cannot be used: {reason}{instead}" if kind != "low" else f"{named} has {reason}",
            verdict=severity,
            **texts,
        )
        return
    fine = True
    for given in _beyond_space(context, look, named):
        fine = False
        yield given
    if fine:
        yield passed(f"{named}: {space(look['free_bytes'])} free, {look.get('type', 'unknown file system')}")


def _usable(look: Look) -> bool:
    return bool(look.get("exists")) and "errno" not in look and "file" not in look and "hung" not in look


def _why_not(look: Look) -> str:
    if "error" in look:
        return str(look["error"])
    return "does not answer" if "hung" in look else "is no folder"


def _beyond_space(context: Context, look: Look, named: str) -> Iterator[Finding]:
    if "too long" in (look.get("socket") or ""):
        yield LONG_TEMPORARY.found(f"{named} has {len(os.fsencode(look['path']))} bytes: {look['socket']}")
    elif look.get("socket"):
        yield NO_SOCKETS.found(f"{named}: {look['socket']}, on {look.get('type', 'an unknown file system')}")
    if look.get("executable"):
        used = not context.environ.get("TORCHINDUCTOR_CACHE_DIR")
        yield NOEXEC_TEMPORARY.found(
            f"{named}: code in it cannot be mapped ({look['executable']}); {look.get('mount', '?')} is mounted "
            f"{look.get('mount_options', 'noexec')}",
            verdict=None if used else "warn",
            cause=None if used else "programs that build there, as pip does, and others that keep libraries there fail",
            mount=look.get("mount", look["path"]),
        )
    if is_network(look):
        yield REMOTE_TEMPORARY.found(f"{named} is on {look['type']} ({look.get('source')})")


# --- the disk under the working folder

_DISK = family(
    "storage.disk",
    "the working folder",
    "checkpoints, results and reports go to a folder below it, unless told otherwise",
    "work in another folder, or give --out",
    "warn",
)


@check(
    "storage.disk",
    "The working folder has space for results",
    deadline=15,
    needs=("environment.folder", "storage.folders"),
    follows=("storage.mounts",),
)
def disk(context: Context) -> Iterator[Finding]:
    look = look_of(context, os.getcwd())
    verdict = judge(look)
    if verdict:
        kind, reason = verdict
        yield _DISK[kind].found(f"{look['path']}: {reason}", **texts_of(look, context))
    else:
        yield passed(f"{look['path']}: {space(look['free_bytes'])} free, {look.get('type', 'unknown file system')}")


CORRUPTS = fault(
    "storage.speed.corrupts",
    "fail",
    "What is read from the disk is not what was written",
    cause="the disk, its controller or its cable is failing: checkpoints and data sets are silently wrong",
    fix="dmesg | grep -i 'I/O error'; smartctl -a <source>; do not train on this disk",
)
SLOW_DISK = fault(
    "storage.speed.slow",
    "warn",
    "The disk under the working folder is very slow",
    cause="checkpoints stop training for long: 10 GB take more than a quarter of an hour at this rate",
    fix="work on a local disk, or give --out on one",
)
_SPEED_BYTES = 16 * MIB
_SLOW = 10e6


@check("storage.speed", "The disk keeps what is written", deadline=60, needs=("storage.disk",), deep=True)
def speed(context: Context) -> Iterator[Finding]:
    """Writes random bytes to the working folder, and reads them back past the page cache."""
    outcome = context.probe("disk_speed", {"folder": os.getcwd(), "bytes": _SPEED_BYTES})
    found, look = outcome.answer, look_of(context, os.getcwd())
    if not outcome.ok:
        yield SLOW_DISK.found(f"writing {space(_SPEED_BYTES)} to {os.getcwd()} {outcome.ending}")
    elif not found["same"]:
        yield CORRUPTS.found(
            f"{os.getcwd()}: {space(_SPEED_BYTES)} read back differ from what was written",
            source=look.get("source", ""),
        )
    else:
        rate = _SPEED_BYTES / found["write_seconds"]
        text = f"{os.getcwd()}: {rate / 1e6:.0f} MB/s written and synced; the same bytes came back"
        yield SLOW_DISK.found(text) if rate < _SLOW else passed(text)
