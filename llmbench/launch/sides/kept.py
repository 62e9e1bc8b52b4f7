"""What is made for a side is kept in the cache, and made by one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmbench.errors import UserError
from llmbench.paths import cache_folder


@contextmanager
def kept(what: str, name: str, on_progress: Callable[[str], None]) -> Iterator[tuple[Path, int]]:
    """The place of an entry in the cache, for this process alone.

    The lock goes with the process that holds it, however that ends. A child that is given the descriptor holds the
    lock, too: nobody else touches an entry that an orphan still writes to.

    Args:
        what: the folder in the cache.
        name: of the entry there.

    Yields:
        The path of the entry, which need not exist, and the descriptor of its lock.

    Raises:
        UserError: the cache cannot be written.
    """
    entry = cache_folder().absolute() / what / name
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{entry}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_progress(f"waiting for another llmbench that makes the same in {entry.parent}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield entry, lock.fileno()
    except OSError as error:
        raise UserError(
            f"cannot keep {what} in {entry.parent}: {error.strerror}",
            "set LLMBENCH_CACHE to a folder with space that you may write",
        ) from None
