"""Shared memory, temporary, home and cache folders, the disk under the working folder, and the mounts they lie on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context

MIB = 2**20
SHM = "/dev/shm"  # noqa: S108
_SHM_COMFORTABLE, _SHM_LEAST = 1024 * MIB, 32 * MIB
_SPACE_COMFORTABLE, _SPACE_LEAST = 1024 * MIB, 64 * MIB
_INODES_LEAST = 100
_HUNG_AFTER = 4.0
_STALE_LOCK = 600.0
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_NETWORK = (
    "nfs",
    "nfs4",
    "lustre",
    "cifs",
    "smb3",
    "ceph",
    "gpfs",
    "beegfs",
    "glusterfs",
    "9p",
    "afs",
    "virtiofs",
    "wekafs",
)

Look = dict[str, Any]
_looks: WeakKeyDictionary[Processes, dict[str, Look]] = WeakKeyDictionary()
"""What each diagnosis found, by path. Free bytes are no facts that another machine could be compared with."""


def space(count: float) -> str:
    """A size in the largest unit that keeps it above 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


# --- what can be wrong with any folder

Kind = Literal["read_only", "denied", "full", "low", "inodes", "quota", "broken"]
_KINDS: dict[Kind, tuple[str, str]] = {
    "read_only": (
        "is read-only",
        "mount -o remount,rw <mount>  (Kubernetes with readOnlyRootFilesystem: mount an emptyDir there), or <elsewhere>",
    ),
    "denied": ("may not be written by this user", "sudo chown <user> <path>, or <elsewhere>"),
    "full": ("is full", "free space there (du -xh -d1 <path> | sort -h), or <elsewhere>"),
    "low": ("has little space left", "free space there (du -xh -d1 <path> | sort -h), or <elsewhere>"),
    "inodes": ("has no inodes left", "remove small files there (du --inodes -xd1 <path> | sort -n), or <elsewhere>"),
    "quota": ("is over its quota", "quota -s shows the limit: remove files of yours there, or <elsewhere>"),
    "broken": ("gives errors", "look at dmesg, then unmount and mount it again: umount -l <mount>; or <elsewhere>"),
}


def _family(check: str, it: str, effect: str, elsewhere: str, verdict: Literal["fail", "warn"]) -> Mapping[Kind, Fault]:
    """The faults that any folder can have, for one use of folders. Little space is only a warning."""
    return {
        kind: fault(
            f"{check}.{kind}",
            "warn" if kind == "low" else verdict,
            f"{it} {state}",
            cause=f"{it} {state}: {effect}",
            fix=fix.replace("<elsewhere>", elsewhere),
        )
        for kind, (state, fix) in _KINDS.items()
    }


_BY_ERRNO: dict[int, Kind] = {
    errno.EROFS: "read_only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ENOSPC: "full",
    errno.EDQUOT: "quota",
}


def judge(look: Look) -> tuple[Kind, str] | None:
    """What is wrong with a folder, and how that shows; None if nothing is."""
    inodes = f"{look.get('free_inodes')} of {look.get('inodes')} inodes free"
    few_inodes = bool(look.get("inodes")) and look["free_inodes"] < _INODES_LEAST
    if "errno" in look:
        kind = _BY_ERRNO.get(look["errno"], "broken")
        if kind == "full" and few_inodes:
            return "inodes", f"{look['error']}, {inodes}"
        free = f", {space(look['free_bytes'])} free" if kind == "full" and "free_bytes" in look else ""
        owner = f", owner uid {look['owner']}, mode {look['mode']:04o}" if kind == "denied" and "owner" in look else ""
        return kind, f"{look['error']} when {look['failed']}{free}{owner}"
    if "free_bytes" not in look:
        return None
    free, total = look["free_bytes"], look["total_bytes"]
    if free < _SPACE_LEAST:
        return "full", f"only {space(free)} free of {space(total)}"
    if few_inodes:
        return "inodes", inodes
    if free < _SPACE_COMFORTABLE:
        return "low", f"only {space(free)} free of {space(total)}"
    return None


def _texts(look: Look, context: Context) -> dict[str, Any]:
    user = (_looks[context.processes].get("user") or {}).get("name") or "$(id -u)"
    here = look.get("looked_at") or look["path"]
    return {"mount": look.get("mount", here), "path": here, "user": user}


# --- the look at all of them

# Variable that names it, where it is otherwise (below the user's cache folder), who uses it.
CACHES = (
    ("LLMBENCH_CACHE", "llmbench", "llmbench"),
    ("TORCH_HOME", "torch", "torch.hub"),
    ("HF_HOME", "huggingface", "Hugging Face"),
    ("TORCH_EXTENSIONS_DIR", "torch_extensions", "C++ extensions"),
)
_NAMED_CACHES = (
    ("XDG_CACHE_HOME", "all caches"),
    ("HF_HUB_CACHE", "Hugging Face models"),
    ("HUGGINGFACE_HUB_CACHE", "Hugging Face models"),
    ("HF_DATASETS_CACHE", "Hugging Face datasets"),
    ("HF_ASSETS_CACHE", "Hugging Face"),
    ("HF_XET_CACHE", "Hugging Face downloads"),
    ("HF_MODULES_CACHE", "Hugging Face modules"),
    ("TRANSFORMERS_CACHE", "transformers"),
    ("TORCHINDUCTOR_CACHE_DIR", "torch.compile"),
    ("TRITON_CACHE_DIR", "Triton"),
    ("TRITON_HOME", "Triton"),
    ("CUDA_CACHE_PATH", "CUDA kernels"),
    ("PYTORCH_KERNEL_CACHE_PATH", "CUDA kernels"),
    ("WANDB_DIR", "Weights & Biases"),
    ("WANDB_CACHE_DIR", "Weights & Biases"),
    ("MPLCONFIGDIR", "matplotlib"),
    ("NUMBA_CACHE_DIR", "numba"),
)
_EXECUTED = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "TORCH_EXTENSIONS_DIR")
"""Libraries are loaded from these."""


def home_folder(context: Context) -> str | None:
    home = context.environ.get("HOME") or os.path.expanduser("~")
    return None if home == "~" else home


def cache_folders(context: Context) -> dict[str, str]:
    """Path of each cache folder by the variable that names or would name it."""
    home = home_folder(context)
    shared = context.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else None)
    folders = {}
    for variable, name, _ in CACHES:
        if context.environ.get(variable):
            folders[variable] = context.environ[variable]
        elif shared:
            folders[variable] = os.path.join(shared, name)
    if home:
        folders["TRITON_CACHE_DIR"] = os.path.join(home, ".triton", "cache")
    return folders | {name: context.environ[name] for name, _ in _NAMED_CACHES if context.environ.get(name)}


def _temporary_folders(context: Context) -> list[str]:
    """Where Python looks for a temporary folder, in its order."""
    named = [context.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if context.environ.get(name)]
    here = [_here()] if _here() else []
    return [*named, "/tmp", "/var/tmp", "/usr/tmp", *here]  # noqa: S108


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


@check("storage.folders", "Folders are looked at", deadline=30, needs=("python.starts",))
def folders(context: Context) -> Iterator[Finding]:
    """Asks for all folders at once; the others of this area read what came back."""
    temporary = _temporary_folders(context)
    wanted = [SHM, *temporary, home_folder(context), *cache_folders(context).values()]
    if _here():  # a relative path has no meaning in a folder that was deleted
        wanted = [os.path.abspath(path) for path in wanted if path]
    asked = [path for path in wanted if path and os.path.isabs(path)]
    extensions = cache_folders(context).get("TORCH_EXTENSIONS_DIR", "")
    arguments = {
        "folders": asked,
        "sockets": [os.path.abspath(temporary[0])] if _here() else [],
        "locks": [os.path.join(extensions, *below, "lock") for below in (["*"], ["*", "*"])] if extensions else [],
        "shm": True,
        "limit": _HUNG_AFTER * context.patience,
    }
    outcome = context.probe("storage", arguments)
    _looks[context.processes] = outcome.answer
    for path in asked:
        silent = {"path": path, "errno": errno.EIO, "error": f"looking at it {outcome.ending}", "failed": "finding it"}
        outcome.answer.setdefault(path, silent)
    kinds = {path: look["type"] for path, look in outcome.answer.items() if isinstance(look, dict) and "type" in look}
    context.facts["storage"] = {"file_systems": kinds}
    yield passed(f"{len(set(asked))} folders on {len(set(kinds.values()))} kinds of file systems")


def _look(context: Context, path: str) -> Look:
    looks = _looks[context.processes]
    found = looks.get(path) or looks.get(os.path.abspath(path) if _here() else path)
    return found or {"path": path, "errno": errno.ENOENT, "error": "a relative path", "failed": "finding it"}


# --- mounts

HANGS = fault(
    "storage.mounts.hangs",
    "fail",
    "A folder does not answer",
    cause="its file system does not answer, as a network mount whose server is gone or unreachable: every program that "
    "touches it hangs, and cannot even be killed",
    fix="check the server and the network, then umount -f -l <mount> and mount it again; or point the variable elsewhere",
)
SHUT_DOWN = fault(
    "storage.mounts.shut_down",
    "fail",
    "The kernel made a file system read-only",
    cause="it is mounted for writing, but the kernel has made it read-only, as it does after errors of the disk: "
    "checkpoints cannot be written, and the disk may be dying",
    fix="dmesg | grep -i -e 'I/O error' -e ext4 -e xfs; save what matters, then check it unmounted: fsck <source>",
)


@check("storage.mounts", "File systems answer", needs=("storage.folders",))
def mounts(context: Context) -> Iterator[Finding]:
    looks = {
        path: look for path, look in _looks[context.processes].items() if isinstance(look, dict) and "path" in look
    }
    names = _names(context)
    prefix = _looks[context.processes].get("prefix")
    fine, told = True, set()
    for path, look in looks.items():
        name = f"{names.get(path, 'the Python environment')}={path}" if path != SHM else SHM
        where = f"{look.get('type', 'file system')} mounted at {look.get('mount', '?')} from {look.get('source', '?')}"
        if "hung" in look:
            fine = False
            yield HANGS.found(
                f"{name} gave no answer within {look['limit']:.0f} s when {look['hung']}; it is on {where}",
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
    names |= {os.path.abspath(path) if _here() else path: name for name, path in cache_folders(context).items()}
    names |= {context.environ[name]: name for name in ("HOME", "TMPDIR", "TEMP", "TMP") if context.environ.get(name)}
    return names | {_here(): "working folder"}


def _was_shut_down(look: Look) -> bool:
    """A file system of a disk is read-only while its mount is not."""
    options, system = look.get("mount_options", "").split(","), look.get("system_options", "").split(",")
    return (
        look.get("type", "") in ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs") and "rw" in options and "ro" in system
    )


def is_network(look: Look) -> bool:
    kind = look.get("type", "")
    return kind in _NETWORK or kind.startswith(("fuse.sshfs", "fuse.s3", "fuse.gcs", "fuse.rclone", "fuse.juicefs"))


# --- shared memory

_MORE_SHM = f"docker run --shm-size=16g, or --ipc=host; Kubernetes: an emptyDir of medium Memory on {SHM}"
NO_SHM = fault(
    "storage.shm.missing",
    "fail",
    "/dev/shm does not exist",
    cause="processes cannot share memory: DataLoader workers and multiprocessing fail",
    fix=f"mkdir -p {SHM} && mount -t tmpfs -o mode=1777 tmpfs {SHM}",
)
SMALL_SHM = fault(
    "storage.shm.small",
    "warn",
    "/dev/shm is small",
    cause="DataLoader workers with large batches are killed by SIGBUS (a bus error), and NCCL cannot use shared memory",
    fix=_MORE_SHM,
    link="https://github.com/pytorch/pytorch/issues/5040",
)
SHM_ON_DISK = fault(
    "storage.shm.disk",
    "warn",
    "/dev/shm is not kept in memory",
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
_SHM = _family(
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
    look = _look(context, SHM)
    semaphore = _looks[context.processes].get("semaphore")
    if not look.get("exists", True) and "hung" not in look:
        yield NO_SHM.found(f"{SHM} does not exist")
        return
    verdict = judge(look)
    if "hung" in look:
        yield _SHM["broken"].found(f"{SHM} does not answer", **_texts(look, context))
    elif verdict and "errno" in look:
        yield _SHM[verdict[0]].found(f"{SHM} cannot be written: {verdict[1]}", **_texts(look, context))
    elif look["total_bytes"] < _SHM_LEAST:
        yield SMALL_SHM.found(
            f"{SHM} has {space(look['free_bytes'])} free of {space(look['total_bytes'])}, which is too small",
            verdict="fail",
        )
    elif verdict and verdict[0] in ("full", "inodes") and look["free_bytes"] < _SHM_LEAST:
        fix = f"remove what dead processes left (ls -lh {SHM}), or: {_MORE_SHM}"
        yield _SHM[verdict[0]].found(f"{SHM} is full: {verdict[1]}{_left_over()}", fix=fix)
    elif verdict and verdict[0] == "inodes":
        yield _SHM["inodes"].found(f"{SHM}: {verdict[1]}{_left_over()}", **_texts(look, context))
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
    fix="mount a tmpfs on /tmp (docker run --tmpfs /tmp; Kubernetes: an emptyDir), or export TMPDIR to a folder that can be written",
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
    fix="mount -o remount,exec <mount>, or export TMPDIR and TORCHINDUCTOR_CACHE_DIR to a folder on another file system",
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
_TEMPORARY = _family(
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
    candidates = [path for path in _temporary_folders(context) if os.path.isabs(path) or _here()]
    used = next((path for path in candidates if _usable(_look(context, path))), None)
    first = candidates[0]
    named = f"{names[first]}={first}" if first in names else first
    look = _look(context, first)
    if used is None:
        shown = "; ".join(f"{path}: {_why_not(_look(context, path))}" for path in dict.fromkeys(candidates))
        yield NO_TEMPORARY.found(f"no writable temporary folder: {shown}")
        return
    texts = _texts(look, context)
    if "hung" in look:
        yield _TEMPORARY["broken"].found(f"{named} does not answer", **texts)
        return
    if first in names and (not look.get("exists") and "errno" not in look):
        variable, reason = names[first], "is a file, no folder" if look.get("file") == first else "does not exist"
        yield MISSING_TEMPORARY.found(f"{named} {reason}; Python uses {used}", path=first, variable=variable)
        named, look = used, _look(context, used)
        texts = _texts(look, context)
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


# --- home and caches

_HOME = _family(
    "storage.home",
    "the home folder",
    "the caches of Hugging Face, torch.hub and Triton are made below it; downloads and compilations fail",
    "export HF_HOME, TORCH_HOME and TRITON_CACHE_DIR to a folder that can be written and has space",
    "warn",
)
NO_HOME = fault(
    "storage.home.missing",
    "warn",
    "HOME names no folder",
    cause="caches are made below it: downloads and compilations fail, or fill the root file system",
    fix="mkdir -p <path>, or export HOME, or HF_HOME, TORCH_HOME and TRITON_CACHE_DIR, to a folder that can be written",
)
NO_LOCKS = fault(
    "storage.home.locks",
    "warn",
    "Files in the home folder cannot be locked",
    cause="Hugging Face downloads, torch.compile and Triton lock files in their caches there, and fail or hang",
    fix="mount it with locks (NFS: without nolock, and with a running lock daemon; Lustre: -o flock), or export HF_HOME, "
    "TORCH_HOME and TRITON_CACHE_DIR to a local disk",
)


@check(
    "storage.home",
    "The home folder can be written",
    deadline=15,
    needs=("storage.folders",),
    follows=("storage.mounts",),
)
def home(context: Context) -> Iterator[Finding]:
    path = home_folder(context)
    if not path:
        yield skipped("no home folder is known")
        return
    if not os.path.isabs(path):
        yield NO_HOME.found(f"HOME={path} is a relative path", path=path)
        return
    look, texts = _look(context, path), {}
    texts = _texts(look, context)
    below = [name for name, folder in cache_folders(context).items() if folder.startswith(path.rstrip("/") + "/")]
    heavy = [name for name in ("HF_HOME", "TORCH_HOME", "TRITON_CACHE_DIR") if name in below]
    verdict = judge(look)
    if "hung" in look:
        yield _HOME["broken"].found(f"HOME={path} does not answer", **texts)
    elif not look.get("exists") and "errno" not in look:
        reason = "is no folder" if look.get("file") == path else "does not exist"
        yield NO_HOME.found(f"HOME={path} {reason}", path=path)
    elif verdict and not heavy and verdict[0] in ("read_only", "denied", "low"):
        yield passed(f"HOME={path}: {verdict[1]}; no cache needs it, since variables name others")
    elif verdict:
        shown = f"; below it would be {', '.join(below)}" if below else ""
        yield _HOME[verdict[0]].found(f"HOME={path}: {verdict[1]}{shown}", **texts)
    elif look.get("lock"):
        yield NO_LOCKS.found(
            f"HOME={path}: {look['lock']} when locking a file, on {look.get('type', '?')} ({look.get('source')})"
        )
    else:
        yield passed(f"HOME={path}: {space(look['free_bytes'])} free, {look.get('type', 'unknown file system')}")


_CACHES = _family(
    "storage.caches",
    "a cache folder",
    "downloads fail, and what was compiled is compiled again at every start",
    "export <variables> to a folder that can be written and has space",
    "warn",
)
DANGLING = fault(
    "storage.caches.dangling",
    "warn",
    "A cache folder is a link that leads nowhere",
    cause="the disk that it led to is gone or not mounted: the folder can be neither read nor made, and downloads fail",
    fix="mount what it leads to, or rm <link> and make a folder there",
)
CACHE_IS_FILE = fault(
    "storage.caches.file",
    "warn",
    "A cache folder cannot be made, since a file is in its place",
    cause="downloads and compilations fail with 'Not a directory' or 'File exists'",
    fix="move the file away, or export <variables> to a folder",
)
RELATIVE_CACHE = fault(
    "storage.caches.relative",
    "warn",
    "A cache folder is named by a relative path",
    cause="it is another folder wherever a program is started: everything is downloaded and compiled again",
    fix="export <variable>=<path>",
)
TILDE = fault(
    "storage.caches.tilde",
    "warn",
    "A cache folder is named with a ~ that nobody expands",
    cause="the shell does not expand ~ inside quotes or in an .env file: a folder named '~' is made in the working folder",
    fix='export <variable>="$HOME<rest>"',
)
NOEXEC_CACHE = fault(
    "storage.caches.noexec",
    "fail",
    "Nothing in a cache folder may be executed",
    cause="libraries that torch.compile, Triton or C++ extensions built there cannot be loaded: 'failed to map segment "
    "from shared object: Operation not permitted'",
    fix="mount -o remount,exec <mount>, or export <variables> to a folder on another file system",
    link="https://github.com/pytorch/pytorch/issues/91005",
)
CACHE_LOCKS = fault(
    "storage.caches.locks",
    "warn",
    "Files in a cache folder cannot be locked",
    cause="Hugging Face downloads, torch.compile and Triton lock files there, and fail or hang",
    fix="mount it with locks (NFS: without nolock, and with a running lock daemon; Lustre: -o flock), or export "
    "<variables> to a local disk",
)
DEPRECATED = fault(
    "storage.caches.deprecated",
    "warn",
    "A variable for a cache folder is no longer read",
    cause="transformers 5 ignores it (version 4 warns): models are downloaded again to where HF_HOME says",
    fix="unset <variable>; export HF_HUB_CACHE=<path>",
    link="https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables",
)
_DEPRECATED = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
_COMPILED = ("TORCHINDUCTOR_CACHE_DIR",)
_OFFLINE = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "TRANSFORMERS_CACHE",
    "HF_ASSETS_CACHE",
)


@check(
    "storage.caches",
    "Cache folders can be written",
    deadline=20,
    needs=("storage.folders",),
    follows=("storage.mounts",),
)
def caches(context: Context) -> Iterator[Finding]:
    """One fault, such as a full disk, often hits several: it is told once, and not again if the home folder has it."""
    folders = cache_folders(context)
    if not folders:
        yield skipped("no home folder, and no variable names a cache folder")
        return
    found = [*_badly_named(context), *_badly_placed(context, folders), *_unusable(context, folders)]
    yield from found
    if not found:
        yield passed(f"{len(folders)} folders can be written: {', '.join(sorted(set(folders.values())))}")


def _badly_named(context: Context) -> Iterator[Finding]:
    for variable in _DEPRECATED:
        path = context.environ.get(variable)
        if path and context.environ.get("HF_HUB_CACHE") != path:
            yield DEPRECATED.found(f"{variable}={path} is set", variable=variable, path=path)
    for variable in [name for name, _, _ in CACHES] + [name for name, _ in _NAMED_CACHES]:
        path = context.environ.get(variable, "")
        if path.startswith("~") and not variable.startswith(("HF_", "HUGGING", "TORCH_HOME", "WANDB")):
            yield TILDE.found(f"{variable}={path}", variable=variable, rest=path[1:])
        elif path and not os.path.isabs(path) and not path.startswith("~"):
            yield RELATIVE_CACHE.found(f"{variable}={path}", variable=variable, path=os.path.join("$PWD", path))


def _badly_placed(context: Context, folders: Mapping[str, str]) -> Iterator[Finding]:
    by_link: dict[str, list[str]] = {}
    by_file: dict[str, list[str]] = {}
    by_mount: dict[str, list[str]] = {}
    for variable, path in folders.items():
        look = _look(context, path)
        if "dangling" in look:
            by_link.setdefault(look["link"], []).append(variable)
        elif "file" in look:
            by_file.setdefault(look["file"], []).append(variable)
        elif look.get("executable") and variable in _EXECUTED:
            by_mount.setdefault(look.get("mount", path), []).append(variable)
        elif look.get("lock") and not _is_home(context, look):
            yield CACHE_LOCKS.found(f"{variable}={path}: {look['lock']} when locking a file", variables=variable)
    for link, variables in by_link.items():
        target = _look(context, folders[variables[0]])["dangling"]
        yield DANGLING.found(
            f"{link} is a link to {target}, which does not exist; {', '.join(variables)} would be there", link=link
        )
    for file, variables in by_file.items():
        yield CACHE_IS_FILE.found(
            f"{file} is a file; {', '.join(variables)} would be there", variables=", ".join(variables)
        )
    for mount, variables in by_mount.items():
        shown = ", ".join(f"{variable} ({folders[variable]})" for variable in variables)
        severity: Literal["warn"] | None = None if set(variables) & set(_COMPILED) else "warn"
        yield NOEXEC_CACHE.found(
            f"{shown}: {mount} is mounted noexec", verdict=severity, mount=mount, variables=", ".join(variables)
        )


def _is_home(context: Context, look: Look) -> bool:
    """Whether what was looked at is the home folder's file system, of which ``storage.home`` tells."""
    home = home_folder(context)
    return bool(home) and _look(context, str(home)).get("mount", "?") == look.get("mount")


def _unusable(context: Context, folders: Mapping[str, str]) -> Iterator[Finding]:
    home = home_folder(context)
    of_home = judge(_look(context, home)) if home and os.path.isabs(home) else None
    groups: dict[tuple[Kind, str, Any], list[str]] = {}
    for variable, path in folders.items():
        look = _look(context, path)
        verdict = ("broken", "it does not answer") if "hung" in look else judge(look)
        told_of_home = of_home and verdict and of_home[0] == verdict[0] and _is_home(context, look)
        offline = variable in _OFFLINE and context.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        if not verdict or told_of_home or (offline and verdict[0] in ("read_only", "denied", "low", "full")):
            continue
        groups.setdefault((verdict[0], verdict[1], look.get("mount")), []).append(variable)  # type: ignore[arg-type]
    users = {name: user for name, _, user in CACHES} | dict(_NAMED_CACHES)
    for (kind, reason, _), variables in groups.items():
        shown = ", ".join(f"{name}={folders[name]} ({users.get(name, 'cache')})" for name in variables)
        severe: Literal["fail"] | None = "fail" if kind != "low" and set(variables) & set(_COMPILED) else None
        texts = _texts(_look(context, folders[variables[0]]), context)
        yield _CACHES[kind].found(f"{shown}: {reason}", verdict=severe, variables=", ".join(variables), **texts)


STALE_LOCK = fault(
    "storage.extensions.lock",
    "fail",
    "A build of a C++ extension left its lock behind",
    cause="the process that built it was killed: everything that loads this extension waits for the lock for ever",
    fix="rm <path>",
    link="https://github.com/pytorch/pytorch/issues/189245",
)


@check(
    "storage.extensions",
    "No build of a C++ extension left a lock",
    needs=("storage.folders",),
    follows=("storage.mounts",),
)
def extensions(context: Context) -> Iterator[Finding]:
    """A lock is stale when nothing beside it has changed for ten minutes."""
    locks = _looks[context.processes].get("locks") or []
    stale = [lock for lock in locks if (lock["age"] or 0) > _STALE_LOCK]
    for lock in stale:
        quoted = f"'{lock['path']}'"
        evidence = f"{lock['path']} exists, and nothing beside it has changed for {lock['age'] / 60:.0f} min"
        yield STALE_LOCK.found(evidence, path=quoted, script=f"rm -f {quoted}")
    if not stale:
        yield passed(f"{len(locks)} locks, none of them stale")


# --- the disk under the working folder

_DISK = _family(
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
    look = _look(context, os.getcwd())
    verdict = ("broken", "it does not answer") if "hung" in look else judge(look)
    if verdict:
        kind, reason = verdict
        yield _DISK[kind].found(
            f"{look['path']} cannot be used: {reason}" if kind != "low" else f"{look['path']} has {reason}",
            **_texts(look, context),
        )  # type: ignore[index]
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
    found, look = outcome.answer, _look(context, os.getcwd())
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
