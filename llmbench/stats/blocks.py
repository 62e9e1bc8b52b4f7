"""The 95 % interval of a mean of neighbours that are alike, from the means of blocks.

Standard library only: the process that trains stops sampling by the same interval that the record then shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

FEWEST_STEPS = 10  # an interval from fewer is not to be trusted, however narrow
MOST_BLOCKS = 10  # more are shorter, and then as alike as single steps: simulated, see docs/measuring.md
# Quantiles 0.975 of Student's t for 1 … 9 degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def half_width(seconds: Sequence[float]) -> float:
    """Half of the interval of the mean as a share of it (batch means: Law and Carson 1979); infinite for one step.

    Neighbouring steps are alike (clocks, other load), so single steps would give too narrow an interval.

    Args:
        seconds: of each step, in their order.
    """
    means = _block_means(seconds)
    if len(means) < 2:
        return math.inf
    return _T[len(means) - 2] * stdev(means) / math.sqrt(len(means)) / fmean(seconds)


def steps_to(target: float, seconds: Sequence[float], fewest: int) -> int | None:
    """After how many steps, ``fewest`` or more, the half-width was within ``target`` first; None if never."""
    return next((n for n in range(fewest, len(seconds) + 1) if half_width(seconds[:n]) <= target), None)


def _block_means(seconds: Sequence[float]) -> list[float]:
    """Means of blocks that differ by one step in length at most: none is left out."""
    blocks = min(MOST_BLOCKS, len(seconds))
    edges = [block * len(seconds) // blocks for block in range(blocks + 1)]
    return [fmean(seconds[begin:end]) for begin, end in pairwise(edges)]
