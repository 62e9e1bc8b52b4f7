"""Cutting UTF-8 text into pieces at places where a reader would cut it."""

from __future__ import annotations

from collections.abc import Iterator


def blocks(text: bytes, size: int) -> Iterator[bytes]:
    """The text in consecutive pieces of at most ``size`` bytes (at least 4), each a whole number of characters."""
    start = 0
    while len(text) - start > size:
        end = cut(text, start + 1, start + size)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def cut(text: bytes, low: int, high: int) -> int:
    """Where to cut between two offsets: after the last line end there, else the last space, else the last character."""
    for mark in (b"\n", b" "):
        found = text.rfind(mark, low - 1, high)
        if found >= 0:
            return found + 1
    while high > low and text[high] & 0xC0 == 0x80:  # a byte inside a character
        high -= 1
    return high
