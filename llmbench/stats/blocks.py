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


def enough(seconds: Sequence[float], target: float) -> bool:
    """Whether the half-width is within ``target``, and was so a tenth of the steps ago.

    Who asks again and again will be told yes by chance in the end; asking for it twice makes up for most of that.
    """
    before = seconds[: max(FEWEST_STEPS, len(seconds) * 10 // 11)]
    return len(seconds) >= FEWEST_STEPS and half_width(seconds) <= target and half_width(before) <= target


def next_look(steps: int) -> int:
    """After how many steps more to ask again: a tenth of those that there are."""
    return max(FEWEST_STEPS, steps // 10)


def steps_to(target: float, seconds: Sequence[float]) -> int | None:
    """After how many steps there were enough first; None if there never were."""
    steps = FEWEST_STEPS
    while steps <= len(seconds):
        if enough(seconds[:steps], target):
            return steps
        steps += max(1, steps // 50)
    return len(seconds) if enough(seconds, target) else None


def _block_means(seconds: Sequence[float]) -> list[float]:
    """Means of blocks that differ by one step in length at most: none is left out."""
    blocks = min(MOST_BLOCKS, len(seconds))
    edges = [block * len(seconds) // blocks for block in range(blocks + 1)]
    return [fmean(seconds[begin:end]) for begin, end in pairwise(edges)]
