"""What is made for a side is kept in the cache, and made by one process at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmbench.errors import UserError
from llmbench.paths import cache_folder, locked


@contextmanager
def kept(what: str, name: str, on_progress: Callable[[str], None]) -> Iterator[tuple[Path, int]]:
    """The place of an entry in the cache, for this process alone.

    Args:
        what: the folder in the cache.
        name: of the entry there.

    Yields:
        The path of the entry, which need not exist, and the descriptor of its lock, for children that write to it.

    Raises:
        UserError: the cache cannot be written.
    """
    entry = cache_folder().absolute() / what / name
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with locked(
            entry, lambda: on_progress(f"waiting for another llmbench that makes the same in {entry.parent}")
        ) as lock:
            yield entry, lock
    except OSError as error:
        raise UserError(
            f"cannot keep {what} in {entry.parent}: {error.strerror}",
            "set LLMBENCH_CACHE to a folder with space that you may write",
        ) from None
