"""Colours and dashes of modes. ``styles/page.css`` repeats the colours for dark and light; a test holds both together.

The colours are Petroff's six (arXiv 2107.02270), moved until each has 3:1 contrast on its background and every pair
stays apart for normal and colour-blind eyes (smallest OKLab distance 13.7 of 100, Machado 2009 at severity 1).
"""

from __future__ import annotations

from dataclasses import dataclass

LIGHT = ("#0896fb", "#d08000", "#c8102a", "#93327f", "#958a91", "#7a21dd")
DARK = ("#699afd", "#f89a1c", "#e42536", "#a6468d", "#a7989f", "#8838ef")
DASHES = (None, "6 3", "2 2.5", "9 3 2 3", "4 2 1 2", "12 4")


@dataclass(frozen=True)
class Ink:
    """How one mode is drawn, on every chart of a page.

    Attributes:
        slot: index of its colour in the palette.
        dash: SVG dash pattern of its lines, None for a solid line.
    """

    slot: int
    dash: str | None

    @property
    def colour(self) -> str:
        """For where the style sheet is not applied, e.g. under a policy that forbids it."""
        return LIGHT[self.slot]

    @property
    def css(self) -> str:
        return f"c{self.slot}"


def ink(index: int, shift: int = 0) -> Ink:
    """The ink of the ``index``-th mode. After six modes the colours come again, with other dashes.

    Args:
        index: of the mode on its page.
        shift: moves the dash only: tells variants of one mode apart, such as its world sizes.
    """
    turn, slot = divmod(index, len(LIGHT))
    return Ink(slot, DASHES[(slot + turn + shift) % len(DASHES)])
