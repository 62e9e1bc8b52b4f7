"""How far a mean has to stand out when it is looked at again and again. Standard library only."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from llmbench.stats.student import quantile

LOOKS = tuple(range(3, 21))
"""Numbers of sessions after which to look: each but the first two. So a comparison may end, for whatever reason, after
any number, and is judged as strictly as was planned."""

# Nominal level of a look over the level of all, if there is one after each session from the third to the last: by last
# session, and level. From suites/boundaries.py, which computes them; rounded down.
_FIRST = 3
_LEVELS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 1e-6)
_SHARES = {
    5: (0.6089, 0.5426, 0.4936, 0.4472, 0.4214, 0.4033, 0.3845, 0.3751, 0.3661, 0.3582, 0.3532, 0.3495, 0.3455, 0.3431,
        0.3381),
    8: (0.4317, 0.3648, 0.319, 0.2783, 0.2568, 0.2405, 0.2249, 0.2154, 0.2078, 0.2001, 0.1954, 0.1914, 0.1871, 0.1844,
        0.1782),
    12: (0.3378, 0.2772, 0.238, 0.2037, 0.1857, 0.1722, 0.1587, 0.1508, 0.1444, 0.1375, 0.1332, 0.1296, 0.1255, 0.1229,
         0.1165),
    20: (0.2596, 0.2083, 0.1761, 0.1484, 0.1341, 0.1231, 0.1121, 0.1057, 0.1005, 0.0947, 0.0911, 0.088, 0.0845, 0.0822,
         0.0762),
    40: (0.1928, 0.1519, 0.1269, 0.1056, 0.0946, 0.0863, 0.0778, 0.0728, 0.0687, 0.0641, 0.0612, 0.0588, 0.0559, 0.0541,
         0.0491),
}  # fmt: skip


def boundary(level: float, sessions: int, looks: Sequence[int]) -> float:
    """Standard errors by which a mean must stand out so that, over all looks, chance does it with ``level`` at most.

    Pocock 1977 (*Group sequential methods in the design and analysis of clinical trials*): the same nominal level at
    each look, here of Student's t. Holds for normal values of any spread.

    Args:
        level: of all looks together, one-sided.
        sessions: of this look, two or more. If it is none of the looks that were planned it counts as one more.
        looks: all that were planned, ascending.
    """
    return quantile(1 - nominal(level, sorted({*looks, sessions})), sessions - 1)


def nominal(level: float, looks: Sequence[int]) -> float:
    """The level of one look, if all together may have ``level``.

    By Bonferroni, or more where the table allows it: looks after each session from the third on are as strict as any
    choice of them needs, and so is the next larger number of sessions, and the next smaller level.
    """
    share = 1 / len(looks)
    last = next((last for last in _SHARES if looks[-1] <= last), None)
    if last is not None and looks[0] >= _FIRST:
        place = bisect_left([-entry for entry in _LEVELS], -level)
        if place < len(_LEVELS):
            share = max(share, _SHARES[last][place])
    return level * share


def next_look(sessions: int, looks: Sequence[int]) -> int | None:
    """After how many sessions to look next; None if the last look is over."""
    place = bisect_right(looks, sessions)
    return looks[place] if place < len(looks) else None
