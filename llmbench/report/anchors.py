"""Ids of the cases of a page, for links."""

from __future__ import annotations

import re


class Anchors:
    """Ids for links: the case's own where it is harmless, and never the same twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, case: str) -> str:
        wanted = re.sub(r"[^A-Za-z0-9._+/-]+", "-", case)[:120]
        # Ids of the page's own sections have no slash.
        wanted = wanted if "/" in wanted else f"case/{wanted}"
        anchor, turn = wanted, 1
        while anchor in self._taken:
            turn += 1
            anchor = f"{wanted}/{turn}"
        self._taken.add(anchor)
        return anchor
