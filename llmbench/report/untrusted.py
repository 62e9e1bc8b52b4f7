"""Text that comes from a machine, as it may be shown. Standard library only: doctor needs it on a broken machine."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and newline, surrogates, the marks that reorder or hide text, and what is no character.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)

_OPTION = re.compile(r"((?<!\S)--[a-z][a-z-]*(?: [a-z_]+=[^\s,;)]*)?)")


def printable(text: str) -> str:
    """Text with every invisible or reordering character shown as its escape, so that none can disguise a name.

    What XML 1.0 forbids (section 2.2 of its specification), and UTF-8 cannot hold, is among them.
    """
    return _UNSEEN.sub(lambda match: f"\\u{{{ord(match[0]):x}}}", text)


def code_parts(text: str) -> list[tuple[str, bool]]:
    """The text in parts, each with whether it is code: `backticked`, or an option such as ``--set steps=400``."""
    halves = printable(text).split("`")
    if len(halves) % 2 == 0:  # an unpaired backtick is just a character
        halves[-2:] = ["`".join(halves[-2:])]
    parts: list[tuple[str, bool]] = []
    for index, half in enumerate(halves):
        if index % 2:
            parts.append((half, True))
        else:
            parts += [(part, bool(place % 2)) for place, part in enumerate(_OPTION.split(half))]
    return parts
