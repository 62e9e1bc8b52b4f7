"""What the folders that training writes to are like. Standard library only.

Each folder has a thread of its own: one on a network mount that is dead blocks for ever, and may hide only itself.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import mmap
import os
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

_WRITTEN = 64 * 1024


def probe(arguments: dict) -> Iterator[dict]:
    """Yields by path what is known of each folder, as soon as it is.

    Args:
        arguments: ``folders``, paths; ``sockets``, those of them in which Unix sockets are made; ``locks``, patterns of
            lock files to look for; ``shm``, whether to make a semaphore; ``limit``, seconds for each.
    """
    yield {"prefix": sys.prefix, "user": {"id": os.geteuid(), "name": user_name()}}
    if arguments.get("shm"):
        yield {"semaphore": semaphore()}
    mounts = read_mounts()
    answers: queue.Queue = queue.Queue()
    stages: dict[str, str] = {}
    for path in {*arguments["folders"], sys.prefix}:
        stages[path] = "finding it"
        options = {"socket": path in arguments.get("sockets", ()), "write": path in arguments["folders"]}
        threading.Thread(target=answer, args=(path, mounts, stages, answers, options), daemon=True).start()
    end = time.monotonic() + arguments["limit"]
    waiting = set(stages)
    while waiting:
        try:
            path, found = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        waiting.discard(path)
        yield {path: found}
    for path in waiting:
        yield {path: {"path": path, "hung": stages[path], "limit": arguments["limit"], **mount_of(path, mounts)}}
    if not waiting:
        yield {
            "locks": [{"path": path, "age": age(path)} for pattern in arguments["locks"] for path in glob.glob(pattern)]
        }


def answer(path: str, mounts: list, stages: dict, answers: queue.Queue, options: dict) -> None:
    found: dict = {"path": path}
    try:
        look(path, found, mounts, stages, options)
    except OSError as error:
        found.update(errno=error.errno or errno.EIO, error=error.strerror or str(error), failed=stages[path])
    answers.put((path, found))


def look(path: str, found: dict, mounts: list, stages: dict, options: dict) -> None:
    """Looks at a folder, or where it is not there yet, at the nearest one above it in which it would be made."""
    here = path
    while True:
        try:
            os.listdir(here) if not options["write"] else os.stat(here)
            break
        except FileNotFoundError:
            if os.path.islink(here):
                found["dangling"] = os.readlink(here)
                found["link"] = here
                return
            here = os.path.dirname(os.path.abspath(here))
    found.update(exists=here == path, looked_at=here)
    if not os.path.isdir(here):
        found["file"] = here
        return
    stages[path] = "asking for its free space"
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
    if options["write"]:
        stages[path] = "writing a file"
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(_WRITTEN))
            file.flush()
            os.fsync(file.fileno())
            found["executable"] = executable(file.fileno())
            stages[path] = "locking a file"
            found["lock"] = lock(file.fileno())
    if options["socket"]:
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
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                left, _, right = line.partition(" - ")
                here, there = left.split(), right.split()
                if len(here) > 5 and len(there) > 2:
                    point = here[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
                    mounts.append((point, there[0], there[1], here[5], there[2]))
    except OSError:
        pass
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
