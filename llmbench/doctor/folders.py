"""What was found out about the folders that training writes to, and what can be wrong with any of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Fault
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context

MIB = 2**20
SPACE_COMFORTABLE, SPACE_LEAST = 1024 * MIB, 64 * MIB
INODES_LEAST = 100
NETWORK = (
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
LOOKS: WeakKeyDictionary[Processes, dict[str, Any]] = WeakKeyDictionary()
"""What each diagnosis found, by path. Free bytes are no facts that another machine could be compared with."""


def space(count: float) -> str:
    """A size in the largest unit that keeps it above 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def look_of(context: Context, path: str) -> Look:
    looks = LOOKS[context.processes]
    found = looks.get(path) or looks.get(os.path.abspath(path) if here() else path)
    return found or {"path": path, "errno": errno.ENOENT, "error": "a relative path", "failed": "finding it"}


def is_network(look: Look) -> bool:
    kind = look.get("type", "")
    return kind in NETWORK or kind.startswith(("fuse.sshfs", "fuse.s3", "fuse.gcs", "fuse.rclone", "fuse.juicefs"))


Kind = Literal["read-only", "denied", "full", "low", "inodes", "quota", "broken"]
_KINDS: dict[Kind, tuple[str, str]] = {
    "read-only": (
        "is read-only",
        "mount -o remount,rw <mount>  (Kubernetes with readOnlyRootFilesystem: mount an emptyDir there), or "
        "<elsewhere>",
    ),
    "denied": ("may not be written by this user", "sudo chown <user> <path>, or <elsewhere>"),
    "full": ("is full", "free space there (du -xh -d1 <path> | sort -h), or <elsewhere>"),
    "low": ("has little space left", "free space there (du -xh -d1 <path> | sort -h), or <elsewhere>"),
    "inodes": ("has no inodes left", "remove small files there (du --inodes -xd1 <path> | sort -n), or <elsewhere>"),
    "quota": ("is over its quota", "quota -s shows the limit: remove files of yours there, or <elsewhere>"),
    "broken": ("gives errors", "look at dmesg, then unmount and mount it again: umount -l <mount>; or <elsewhere>"),
}


def family(check: str, it: str, effect: str, elsewhere: str, verdict: Literal["fail", "warn"]) -> Mapping[Kind, Fault]:
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
    errno.EROFS: "read-only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ENOSPC: "full",
    errno.EDQUOT: "quota",
}


def judge(look: Look) -> tuple[Kind, str] | None:
    """What is wrong with a folder, and how that shows; None if nothing is."""
    inodes = f"{look.get('free_inodes')} of {look.get('inodes')} inodes free"
    few_inodes = bool(look.get("inodes")) and look["free_inodes"] < INODES_LEAST
    if "errno" in look:
        kind = _BY_ERRNO.get(look["errno"], "broken")
        if kind == "full" and few_inodes:
            return "inodes", f"{look['error']}, {inodes}"
        free = f", {space(look['free_bytes'])} free" if kind == "full" and "free_bytes" in look else ""
        owner = f", owner uid {look['owner']}, mode {look['mode']:04o}" if kind == "denied" and "owner" in look else ""
        return kind, f"{look['error']} while {look['failed']}{free}{owner}"
    if "hung" in look:
        return "broken", f"no answer within {look['limit']:.0f} s while {look['hung']}"
    if "free_bytes" not in look:
        return None
    free, total = look["free_bytes"], look["total_bytes"]
    if free < SPACE_LEAST:
        return "full", f"only {space(free)} free of {space(total)}"
    if few_inodes:
        return "inodes", inodes
    if free < SPACE_COMFORTABLE:
        return "low", f"only {space(free)} free of {space(total)}"
    return None


def texts_of(look: Look, context: Context) -> dict[str, Any]:
    user = (LOOKS[context.processes].get("user") or {}).get("name") or "$(id -u)"
    here = look.get("looked_at") or look["path"]
    return {"mount": look.get("mount", here), "path": here, "user": user}


# Variable that names it, where it is otherwise (below the user's cache folder), who uses it.
CACHES = (
    ("LLMBENCH_CACHE", "llmbench", "llmbench"),
    ("TORCH_HOME", "torch", "torch.hub"),
    ("HF_HOME", "huggingface", "Hugging Face"),
    ("TORCH_EXTENSIONS_DIR", "torch_extensions", "C++ extensions"),
)
NAMED_CACHES = (
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
EXECUTED = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "TORCH_EXTENSIONS_DIR")
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
    return folders | {name: context.environ[name] for name, _ in NAMED_CACHES if context.environ.get(name)}
