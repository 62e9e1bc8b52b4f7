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

PAGES = "LLMBENCH_LAYOUT"
"""Variable: pages by which the heap and all that is mapped are shifted. Not there: the kernel draws."""

_NO_RANDOMIZE = 0x0040000
_ASK = 0xFFFFFFFF
_kept: list[mmap.mmap] = []


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
    shift(int(pages))


def shift(pages: int) -> None:
    """Moves all that is allocated from now on, large or small."""
    size = mmap.PAGESIZE * pages
    if size:
        _kept.append(mmap.mmap(-1, size, prot=0))  # whatever is mapped from now on lies below
        ctypes.CDLL(None).sbrk(ctypes.c_ssize_t(size))  # and what the heap still gets, above


def is_fixed() -> bool:
    """Whether this process has a layout that another one can have, too."""
    return PAGES in os.environ and sys.platform.startswith("linux") and _fixed(ctypes.CDLL(None))


def _fixed(libc: ctypes.CDLL) -> bool:
    return bool(libc.personality(_ASK) & _NO_RANDOMIZE)
