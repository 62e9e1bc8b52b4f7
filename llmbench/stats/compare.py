"""Whether one side trains faster than the other, from runs that were stored: a ratio with an honest interval.

The interval that a run records speaks of that process alone. Another process of the same code, at another time on the
same machine, differs by more. How much more is known only where a side has several runs; with one run each it has to
be assumed, from what the run tells of its disturbance. docs/compare.md shows how often this rule is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from llmbench.stats.student import quantile

Verdict = Literal["slower", "faster", "same", "inconclusive"]

FLOOR = 0.005  # spread from run to run that even the steadiest run is taken to have
SHARE = 0.75  # of what the mean step lies above the fastest: the rest is taken to be the code's own
FASTEST = 2.4  # standard deviations below the mean: where the fastest of 80 normal steps lies on average
ASSUMED = 6  # degrees of freedom that the assumed spread is worth beside a measured one
CONFIDENCE = 0.975  # each side of a 95 % interval
POWER = 0.84  # standard errors, for 80 % power


@dataclass(frozen=True)
class Sample:
    """The speed of one case in one run.

    Attributes:
        speed: throughput, above zero.
        half_width: of the 95 % interval within the run, of the logarithm.
        spread: standard deviation from run to run that is assumed for it, of the logarithm.
    """

    speed: float
    half_width: float
    spread: float


@dataclass(frozen=True)
class Change:
    """Candidate over base.

    Attributes:
        ratio: of the throughputs; below 1 is slower.
        low, high: its 95 % interval.
        smallest_slowdown: the least loss of throughput, as a share, that would have been called slower four times in
            five.
        runs: of base and candidate.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    smallest_slowdown: float
    runs: tuple[int, int]


def assumed_spread(seconds: Sequence[float], waited: float | None = None) -> float:
    """How far a run's speed can lie from another's of the same code, by what disturbed it.

    Disturbance only ever makes steps longer, so the fastest step tells what the code can do, and what the mean lies
    above it is what others may have taken: all of it, for the whole of the run. Where every step was disturbed, the
    time for which others kept it from its CPUs tells.

    Args:
        seconds: of each timed step; one or more, above zero.
        waited: seconds kept from its CPUs per CPU second of its own, if known.
    """
    return max(FLOOR, SHARE * math.log(fmean(seconds) / min(seconds)), SHARE * math.log1p(waited or 0.0))


def spread_of_variation(cv: float, waited: float | None = None) -> float:
    """The same from the coefficient of variation, where the step times are not there any more."""
    return max(FLOOR, SHARE * FASTEST * cv, SHARE * math.log1p(waited or 0.0))


def change(base: Sequence[Sample], cand: Sequence[Sample], equal_within: float) -> Change:
    """Estimate, interval and the verdict that follows from it.

    The spread from run to run is the assumed one together with the one that is measured between the runs of a side,
    weighted by their degrees of freedom (Smyth 2004, *Linear models and empirical Bayes methods*, eq. 9), so that the
    interval becomes narrower with every run that agrees. What each run does not know of itself is added as squares.

    Args:
        base, cand: one sample of each run, at least one.
        equal_within: share by which speeds may differ and still be called the same.
    """
    sides = [[math.log(sample.speed) for sample in side] for side in (base, cand)]
    centre = fmean(sides[1]) - fmean(sides[0])
    measured = sum((value - fmean(side)) ** 2 for side in sides for value in side)
    degrees = len(base) + len(cand) - 2
    assumed = fmean(sample.spread**2 for sample in (*base, *cand))
    spread = math.sqrt((ASSUMED * assumed + measured) / (ASSUMED + degrees))
    between = quantile(CONFIDENCE, ASSUMED + degrees) * spread * math.sqrt(1 / len(base) + 1 / len(cand))
    within = [math.sqrt(sum(sample.half_width**2 for sample in side)) / len(side) for side in (base, cand)]
    half = math.hypot(between, *within)
    low, high = _exp(centre - half), _exp(centre + half)
    needed = half * (1 + POWER / quantile(CONFIDENCE, ASSUMED + degrees))
    return Change(
        verdict=judged(low, high, equal_within),
        ratio=_exp(centre),
        low=low,
        high=high,
        smallest_slowdown=1 - (1 - equal_within) * math.exp(-needed),
        runs=(len(base), len(cand)),
    )


def judged(low: float, high: float, equal_within: float) -> Verdict:
    """What an interval of the ratio says: wholly below, within or above the band of equality, or across its edge."""
    if high < 1 - equal_within:
        return "slower"
    if low > 1 + equal_within:
        return "faster"
    return "same" if 1 - equal_within <= low and high <= 1 + equal_within else "inconclusive"


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
