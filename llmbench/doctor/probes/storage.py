"""What the folders that training writes to are like. Standard library only.

Each folder has a process of its own: one that looks at a dead network mount may block for ever, and not even SIGKILL
ends it. It is left behind, and hides only itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

_WRITTEN = 64 * 1024


def probe(arguments: dict) -> Iterator[dict]:
    """Yields by path what is known of each folder, as soon as it is.

    Args:
        arguments: ``folders``, paths; ``sockets``, those of them in which Unix sockets are made; ``locks``, patterns of
            lock files to look for; ``limit``, seconds for all.
    """
    yield {"prefix": sys.prefix, "user": {"id": os.geteuid(), "name": user_name()}, "semaphore": semaphore()}
    mounts = read_mounts()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    waiting, told, pids = {}, {}, {}
    for path in {*arguments["folders"], sys.prefix}:
        read, write = os.pipe()
        pids[path] = os.fork()
        if pids[path] == 0:
            answer(path, mounts, write, path in arguments["sockets"], path in arguments["folders"])
            os._exit(0)
        os.close(write)
        waiting[read], told[path] = path, b""
    end = time.monotonic() + arguments["limit"]
    while waiting:
        ready = select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))[0]
        if not ready:
            break
        for read in ready:
            data = os.read(read, 65536)
            told[waiting[read]] += data
            if not data:
                path = waiting.pop(read)
                os.close(read)
                yield {path: last(told[path])}
    for path in waiting.values():
        os.kill(pids[path], signal.SIGKILL)
        hung = last(told[path]).get("stage", "looking at it")
        yield {path: {"path": path, "hung": hung, "limit": arguments["limit"], **mount_of(path, mounts)}}
    if not waiting:
        locks = [path for pattern in arguments["locks"] for path in glob.glob(pattern)]
        yield {"locks": [{"path": path, "age": age(path)} for path in locks]}


def last(text: bytes) -> dict:
    """The last of the JSON objects that a child wrote, one a line."""
    lines = text.splitlines()
    return json.loads(lines[-1]) if lines else {"errno": errno.EIO, "error": "the look at it ended", "failed": ""}


def answer(path: str, mounts: list, write: int, try_socket: bool, try_write: bool) -> None:
    """Tells each stage when it begins, and at last what was found."""
    found: dict = {"path": path, "stage": "looking at it"}

    def tell() -> None:
        os.write(write, json.dumps(found).encode() + b"\n")

    def enter(stage: str) -> None:
        found["stage"] = stage
        tell()

    try:
        enter("looking at it")
        look(path, found, mounts, enter, try_socket, try_write)
    except OSError as error:
        found.update(errno=error.errno or errno.EIO, error=error.strerror or str(error), failed=found["stage"])
    tell()


def look(path: str, found: dict, mounts: list, enter: Callable[[str], None], try_socket: bool, try_write: bool) -> None:
    """Looks at a folder, or where it is not there yet, at the nearest one above it in which it would be made."""
    here = path
    while True:
        try:
            os.stat(here)
            break
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(here):
                found["dangling"] = os.readlink(here)
                found["link"] = here
                return
            here = os.path.dirname(os.path.abspath(here))
    found.update(exists=here == path, looked_at=here)
    if not os.path.isdir(here):
        found["file"] = here
        return
    enter("asking for its free space")
    stat, system = os.stat(here), os.statvfs(here)
    found.update(mount_of(os.path.realpath(here), mounts))
    found.update(
        total_bytes=system.f_blocks * system.f_frsize,
        free_bytes=system.f_bavail * system.f_frsize,
        inodes=system.f_files,
        free_inodes=system.f_favail,
        owner=stat.st_uid,
        mode=stat.st_mode & 0o7777,
    )
    if try_write:
        enter("writing a file")
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(_WRITTEN))
            file.flush()
            os.fsync(file.fileno())
            found["executable"] = executable(file.fileno())
            enter("locking a file")
            found["lock"] = lock(file.fileno())
    if try_socket:
        found["socket"] = unix_socket(here)


def executable(descriptor: int) -> str | None:
    """None if code of this file could be run, as a library's is, else why not."""
    try:
        mmap.mmap(descriptor, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def lock(descriptor: int) -> str | None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror or str(error)
    return None


def unix_socket(folder: str) -> str | None:
    """None if a socket can be made in a folder below, where multiprocessing makes its own, else why not."""
    try:
        import multiprocessing.util as util

        if hasattr(util, "_get_base_temp_dir"):  # this Python looks for a shorter folder itself
            folder = os.path.dirname(util.get_temp_dir())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    name = os.path.join(folder, "pymp-12345678", "listener-12345678")
    short = os.path.join(folder, "llmbench-" + "0" * (len(name) - len(folder) - 10))
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.bind(short)
        except OSError as error:
            return str(error)
    os.unlink(short)
    return None


def semaphore() -> str | None:
    """None if processes can share a semaphore, else why not."""
    try:
        import _multiprocessing  # type: ignore[import-not-found]

        _multiprocessing.SemLock(1, 1, 1, f"/llmbench-{os.getpid()}", True)
    except (OSError, ImportError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def user_name() -> str | None:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):
        return None


def read_mounts() -> list:
    """Mount point, type, source and options of each mount and of its file system; later ones hide earlier ones."""
    mounts = []
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            here, there = left.split(), right.split()
            if len(here) > 5 and len(there) > 2:
                point = here[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
                mounts.append((point, there[0], there[1], here[5], there[2]))
    return mounts


def mount_of(path: str, mounts: list) -> dict:
    best = None
    for mount in mounts:
        point = mount[0].rstrip("/") + "/"
        if (path.rstrip("/") + "/").startswith(point) and (best is None or len(mount[0]) >= len(best[0])):
            best = mount
    if best is None:
        return {}
    point, kind, source, options, system = best
    return {"mount": point, "type": kind, "source": source, "mount_options": options, "system_options": system}


def age(path: str) -> float | None:
    """Seconds since anything in the folder of this file changed."""
    try:
        folder = os.path.dirname(path)
        return time.time() - max(os.stat(os.path.join(folder, name)).st_mtime for name in os.listdir(folder))
    except (OSError, ValueError):
        return None
