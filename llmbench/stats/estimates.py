"""Throughput and step time from the steps of a timed window, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, stdev

from llmbench.results.schema import Interval, StepSeconds
from llmbench.stats.blocks import half_width


def step_seconds(seconds: Sequence[float]) -> StepSeconds:
    """Summary of the timed steps.

    The interval is of the mean, from the means of consecutive blocks (``blocks.py``).

    Args:
        seconds: of each step of the window, two or more.
    """
    mean = fmean(seconds)
    half = mean * half_width(seconds)
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
