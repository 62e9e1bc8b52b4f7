"""Where things lie: the shipped suites, and the folder for what is worth keeping between runs."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def suites_folder() -> Path:
    """The suites that llmbench ships: inside the package when installed, beside it in a checkout."""
    shipped = PACKAGE / "suites"
    return shipped if shipped.is_dir() else PACKAGE.parent / "suites"


@cache
def cache_folder() -> Path:
    """The cache (tokenizers, token files, pretrained bases, measured peaks), created if missing.

    ``LLMBENCH_CACHE``, else ``XDG_CACHE_HOME/llmbench``, else ``~/.cache/llmbench``. Where none can be written,
    a temporary folder that lives as long as this process needs it: a missing cache costs time, never a run.
    """
    for folder in _candidates():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="llmbench-cache-"))


@contextmanager
def locked(entry: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """One process at a time works on an entry of the cache; the lock is a file beside it.

    The lock goes with the process that holds it, however that ends. A child that is given its descriptor holds it,
    too: nobody else touches an entry that an orphan still writes to.

    Args:
        on_wait: is called if another process has it now.

    Yields:
        The descriptor of the lock.
    """
    with open(f"{entry}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _candidates() -> list[Path]:
    explicit = os.environ.get("LLMBENCH_CACHE")
    if explicit:
        return [Path(explicit)]
    xdg = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")
    folders = [Path(xdg) / "llmbench"] if xdg else []
    return folders + ([Path(home) / ".cache" / "llmbench"] if home != "~" else [])
