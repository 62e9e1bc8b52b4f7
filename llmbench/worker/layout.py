"""Where a process lies in its address space: the same for both sides of a session, another one for each session.

Addresses are drawn anew for each process, and by that luck alone one process of the same code is faster than another by
several per cent, for as long as it lives. So both sides of a session draw the same: without the kernel's own draw
(personality(2)), shifted by what the session's seed says. What differs then is the code. From session to session the
layouts differ, so that no side wins by the luck of one of them (Curtsinger and Berger 2013, *Stabilizer: statistically
sound performance evaluation*, randomise for that reason). Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from itertools import pairwise, takewhile

PAGES = "LLMBENCH_LAYOUT"
"""Variable: pages by which the heap and all that is mapped are shifted. Not there: the kernel draws."""

_NO_RANDOMIZE = 0x0040000
_ASK = 0xFFFFFFFF
_FIXED = 0x100000  # MAP_FIXED_NOREPLACE (Linux 4.17): it has no name in Python's mmap
GRAIN = 2**26
"""Bytes. What two sides have allocated before they are placed must differ by less than this."""


def lay_out() -> None:
    """Gives this process its layout; it starts anew for that, once. Where the kernel forbids it, it stays as drawn."""
    pages = os.environ.get(PAGES)
    if pages is None or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not _fixed(libc):
        if libc.personality(libc.personality(_ASK) | _NO_RANDOMIZE) == -1:
            return
        arguments = getattr(sys, "orig_argv", ["", *sys.argv])[1:]  # since Python 3.10 with the interpreter's own
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
    place(int(pages))


def place(pages: int) -> None:
    """Moves all that is allocated from now on to a place that does not depend on what was allocated so far (Linux).

    What is mapped comes to lie below a multiple of ``GRAIN`` bytes, the heap above one, each by so many pages: two
    processes whose code differs a little before this still agree on what comes after it. Where the address space is
    limited (``ulimit -v``) it stays as it is: sessions then differ by more, and the record says by how much.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    size = mmap.PAGESIZE * pages
    with suppress(OSError):
        free = _map(libc, None, 2 * GRAIN)  # too large for a gap between libraries: below all that there is so far
        libc.munmap(free, 2 * GRAIN)
        lowest = free + 2 * GRAIN
        begin = lowest // GRAIN * GRAIN - size
        for gap in [(begin, lowest), *_gaps(lowest)]:
            _map(libc, gap[0], gap[1] - gap[0])  # the kernel maps downwards, fills gaps first; none of it is touched
    top = libc.sbrk(0)
    libc.sbrk(-(-top // GRAIN) * GRAIN + size - top)


def _gaps(lowest: int) -> list[tuple[int, int]]:
    """What is free between mappings, from an address up to the last one below the stack (proc(5), /proc/pid/maps).

    What is next to the stack is left to it; some kernels map their own pages above it.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        below = list(takewhile(lambda line: "[stack]" not in line, file))
    ranges = [[int(end, 16) for end in line.split(maxsplit=1)[0].split("-")] for line in below]
    mapped = [(lowest, lowest), *((begin, end) for begin, end in ranges if begin >= lowest)]
    return [(one[1], other[0]) for one, other in pairwise(mapped) if one[1] < other[0]]


def _map(libc: ctypes.CDLL, at: int | None, size: int) -> int:
    """Addresses that nobody may use, anywhere or in a place that is known to be free."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_FIXED if at is not None else 0)
    found: int | None = libc.mmap(at, size, 0, kind, -1, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "no address space for a layout")
    return found


def is_fixed() -> bool:
    """Whether this process has a layout that another one can have, too."""
    return PAGES in os.environ and sys.platform.startswith("linux") and _fixed(ctypes.CDLL(None))


def _fixed(libc: ctypes.CDLL) -> bool:
    return bool(libc.personality(_ASK) & _NO_RANDOMIZE)
