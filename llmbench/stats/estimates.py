"""Throughput and step time from the steps of a timed window, each with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median, stdev

from llmbench.results.schema import Interval, StepSeconds

MOST_BLOCKS = 10  # more are shorter, and then as alike as single steps: simulated, see docs/measuring.md
# Quantiles 0.975 of Student's t for 1 … 9 degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def step_seconds(seconds: Sequence[float]) -> StepSeconds:
    """Summary of the timed steps.

    The interval is of the mean, from the means of up to 10 consecutive blocks (batch means: Law and Carson 1979).
    Neighbouring steps are alike (clocks, other load), so single steps would give too narrow a one.

    Args:
        seconds: of each step of the window, two or more.
    """
    mean = fmean(seconds)
    half = _half_width(_block_means(seconds))
    return StepSeconds(
        median=median(seconds), mean=mean, p95=quantile(seconds, 0.95), ci95=(max(0.0, mean - half), mean + half)
    )


def throughput_interval(value: float, step: StepSeconds) -> Interval:
    """The interval of a throughput: as wide, relative to its value, as that of the mean step time."""
    share = (step.ci95[1] - step.mean) / step.mean
    return value * max(0.0, 1 - share), value * (1 + share)


def coefficient_of_variation(seconds: Sequence[float]) -> float:
    return stdev(seconds) / fmean(seconds)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (Hyndman and Fan 1996, type 7)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Means of ``width`` neighbours (fewer where there are fewer)."""
    width = min(width, len(values))
    return [fmean(values[start : start + width]) for start in range(len(values) - width + 1)]


def _block_means(seconds: Sequence[float]) -> list[float]:
    """Means of blocks that differ by one step in length at most: none is left out."""
    blocks = min(MOST_BLOCKS, len(seconds))
    edges = [block * len(seconds) // blocks for block in range(blocks + 1)]
    return [fmean(seconds[begin:end]) for begin, end in pairwise(edges)]


def _half_width(means: Sequence[float]) -> float:
    return _T[len(means) - 2] * stdev(means) / math.sqrt(len(means))
