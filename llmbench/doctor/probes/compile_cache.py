"""The folders in which torch.compile, Triton and C++ extensions keep what they build: can a library be made there,
locked and loaded? Where each lies is computed as torch and Triton do, without them. All that is made here is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import glob
import itertools
import mmap
import os
import pwd
import re
import shutil
import tempfile
import time
from collections.abc import Iterator

ENOUGH = 500
"""Entries of a folder that are looked at."""


def probe(arguments: dict) -> Iterator[dict]:
    for name, variable, path in folders():
        yield {name: {"variable": variable, **look(path)}}
        yield {name + "_locks": held_locks(path)}
    yield {"stale": stale_batons(arguments["stale_seconds"])}


def folders() -> Iterator[tuple]:
    """Name, the variable that names it (None by default), path."""
    inductor = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    named: str | None = "TORCHINDUCTOR_CACHE_DIR"
    if not inductor:
        user = re.sub(r'[\\/:*?"<>|]', "_", user_name())
        inductor = os.path.join(tempfile.gettempdir(), "torchinductor_" + user)
        named = "TMPDIR" if os.environ.get("TMPDIR", "").rstrip("/") == tempfile.gettempdir() else None
    yield "inductor", named, os.path.abspath(inductor)
    if os.environ.get("TRITON_CACHE_DIR"):
        yield "triton", "TRITON_CACHE_DIR", os.path.abspath(os.environ["TRITON_CACHE_DIR"])


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        return f"uid_{os.getuid()}"


def look(path: str) -> dict:
    """What can be done in the folder, or where it is not there yet, in the nearest one above it."""
    found: dict = {"path": path, "looked_at": path}
    here = path
    while not os.path.isdir(here):
        if os.path.lexists(here):
            return {**found, "error": f"{here} is no folder"}
        here = os.path.dirname(here)
    found["looked_at"] = here
    try:
        found["owner"] = owner(here)
        found["foreign"] = next(foreign(path), None)
        found.update(tried(here))
    except OSError as error:
        found["error"] = error.strerror or str(error)
        found["errno"] = errno.errorcode.get(error.errno or 0, "")
    return found


def tried(folder: str) -> dict:
    """Makes a folder with a file in it; locks the file; maps it as code."""
    place = tempfile.mkdtemp(prefix=".llmbench-doctor-", dir=folder)
    found = {}
    try:
        path = os.path.join(place, "library.so")
        with open(path, "w+b") as file:
            file.write(bytes(4096))
            file.flush()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                found["lock"] = error.strerror
            try:
                mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
            except OSError as error:
                found["map"] = error.strerror
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return found


def foreign(path: str) -> Iterator[dict]:
    """Folders in the cache into which we cannot write: somebody else made them."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in itertools.islice(entries, ENOUGH):
            if entry.is_dir(follow_symlinks=False) and not os.access(entry.path, os.W_OK | os.X_OK):
                yield {"path": entry.path, "owner": owner(entry.path)}


def owner(path: str) -> str:
    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def held_locks(path: str) -> list:
    """Locks that another process holds: since when, which process, and its state (T: stopped)."""
    found = []
    for lock in sorted(glob.glob(os.path.join(glob.escape(path), "locks", "*.lock")))[:ENOUGH]:
        with contextlib.suppress(OSError), open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                stat = os.fstat(file.fileno())
                pid = holder(stat.st_ino)
                found.append({"path": lock, "seconds": time.time() - stat.st_mtime, "pid": pid, "state": state_of(pid)})
    return found


def holder(inode: int) -> int | None:
    """Process that holds a lock on the file: the fifth word of its line in /proc/locks."""
    with contextlib.suppress(OSError), open("/proc/locks") as locks:
        for line in locks:
            words = line.split()
            if "FLOCK" in words and line.find(f":{inode} ") > 0 and "->" not in words:
                return int(words[4])
    return None


def state_of(pid: int | None) -> str:
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def stale_batons(stale_seconds: float) -> list:
    """Lock files of C++ extension builds in folders where nothing has changed for so long."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.join(cache, "torch_extensions")
    found = []
    for pattern in ("*/lock", "*/*/lock"):
        for lock in sorted(glob.glob(os.path.join(glob.escape(root), pattern)))[:ENOUGH]:
            folder = os.path.dirname(lock)
            with contextlib.suppress(OSError):
                seconds = time.time() - max(entry.stat().st_mtime for entry in os.scandir(folder))
                if os.path.isfile(lock) and seconds > stale_seconds:
                    found.append({"path": lock, "seconds": seconds})
    return found
