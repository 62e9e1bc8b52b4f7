"""The home folder, and the caches that are below it or named by variables."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.folders import (
    CACHES,
    EXECUTED,
    LOOKS,
    NAMED_CACHES,
    Kind,
    Look,
    cache_folders,
    family,
    home_folder,
    judge,
    look_of,
    space,
    texts_of,
)
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

_STALE_LOCK = 600.0


_HOME = family(
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
    fix="mount it with locks (NFS: without nolock, and with a running lock daemon; Lustre: -o flock), or export "
    "HF_HOME, "
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
    look = look_of(context, path)
    texts = texts_of(look, context)
    below = [name for name, folder in cache_folders(context).items() if folder.startswith(path.rstrip("/") + "/")]
    heavy = [name for name in ("HF_HOME", "TORCH_HOME", "TRITON_CACHE_DIR") if name in below]
    verdict = judge(look)
    if not verdict and not look.get("exists"):
        reason = "is no folder" if look.get("file") == path else "does not exist"
        yield NO_HOME.found(f"HOME={path} {reason}", path=path)
    elif verdict and not heavy and verdict[0] in ("read-only", "denied", "low"):
        yield passed(f"HOME={path}: {verdict[1]}; no cache needs it, since variables name others")
    elif verdict:
        shown = f"; below it would be {', '.join(below)}" if below else ""
        yield _HOME[verdict[0]].found(f"HOME={path}: {verdict[1]}{shown}", **texts)
    elif look.get("lock"):
        yield NO_LOCKS.found(
            f"HOME={path}: {look['lock']} while locking a file, on {look.get('type', '?')} ({look.get('source')})"
        )
    else:
        yield passed(f"HOME={path}: {space(look['free_bytes'])} free, {look.get('type', 'unknown file system')}")


_CACHES = family(
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
    cause="the shell does not expand ~ inside quotes or in an .env file: a folder named '~' is made in the working "
    "folder",
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
    for variable in [name for name, _, _ in CACHES] + [name for name, _ in NAMED_CACHES]:
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
        look = look_of(context, path)
        if "dangling" in look:
            by_link.setdefault(look["link"], []).append(variable)
        elif "file" in look:
            by_file.setdefault(look["file"], []).append(variable)
        elif look.get("executable") and variable in EXECUTED:
            by_mount.setdefault(look.get("mount", path), []).append(variable)
        elif look.get("lock") and not _is_home(context, look):
            yield CACHE_LOCKS.found(f"{variable}={path}: {look['lock']} while locking a file", variables=variable)
    for link, variables in by_link.items():
        target = look_of(context, folders[variables[0]])["dangling"]
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
    return bool(home) and look_of(context, str(home)).get("mount", "?") == look.get("mount")


def _unusable(context: Context, folders: Mapping[str, str]) -> Iterator[Finding]:
    home = home_folder(context)
    of_home = judge(look_of(context, home)) if home and os.path.isabs(home) else None
    groups: dict[tuple[Kind, str, Any], list[str]] = {}
    for variable, path in folders.items():
        look = look_of(context, path)
        verdict = judge(look)
        told_of_home = of_home and verdict and of_home[0] == verdict[0] and _is_home(context, look)
        offline = variable in _OFFLINE and context.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        if not verdict or told_of_home or (offline and verdict[0] in ("read-only", "denied", "low", "full")):
            continue
        groups.setdefault((verdict[0], verdict[1], look.get("mount")), []).append(variable)
    users = {name: user for name, _, user in CACHES} | dict(NAMED_CACHES)
    for (kind, reason, _), variables in groups.items():
        shown = ", ".join(f"{name}={folders[name]} ({users.get(name, 'cache')})" for name in variables)
        severe: Literal["fail"] | None = "fail" if kind != "low" and set(variables) & set(_COMPILED) else None
        texts = texts_of(look_of(context, folders[variables[0]]), context)
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
    locks = LOOKS[context.processes].get("locks") or []
    stale = [lock for lock in locks if (lock["age"] or 0) > _STALE_LOCK]
    for lock in stale:
        evidence = f"{lock['path']} exists, and nothing beside it has changed for {lock['age'] / 60:.0f} min"
        yield STALE_LOCK.found(evidence, path=shlex.quote(lock["path"]))
    if not stale:
        yield passed(f"{len(locks)} locks, none of them stale")
