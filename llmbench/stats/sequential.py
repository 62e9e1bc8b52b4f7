"""How far a mean has to stand out when it is looked at again and again. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from llmbench.stats.student import quantile

LOOKS = (3, 5, 8, 12, 20)
"""Numbers of sessions after which to look."""


def boundary(level: float, sessions: int, looks: Sequence[int]) -> float:
    """Standard errors by which a mean must stand out so that, over all looks, chance does it with ``level`` at most.

    Pocock 1977 (*Group sequential methods in the design and analysis of clinical trials*): the same nominal level at
    each look, here of Student's t. By Bonferroni a share of one look each would always do.
    """
    return quantile(1 - level / len(looks), sessions - 1)


def next_look(sessions: int, looks: Sequence[int]) -> int | None:
    """After how many sessions to look next; None if the last look is over."""
    place = bisect_right(looks, sessions)
    return looks[place] if place < len(looks) else None
