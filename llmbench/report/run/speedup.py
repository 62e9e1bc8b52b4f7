"""Speed-ups over the eager case of the same workload, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmbench.report.run.cases import EAGER, CaseView, Column
from llmbench.results.schema import Throughput


@dataclass(frozen=True)
class Speedup:
    """A ratio of throughputs.

    Attributes:
        half_width: of the 95 % interval of its logarithm; None where an interval is missing. Both measurements are
            taken as independent, so their half-widths add as squares.
    """

    value: float
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.half_width is None or self.half_width > 100:  # then it says nothing, and its end is no float
            return None
        return self.value * math.exp(-self.half_width), self.value * math.exp(self.half_width)

    @property
    def undecided(self) -> bool:
        """Whether the interval holds 1: faster or slower could not be told."""
        return self.interval is not None and self.interval[0] <= 1 <= self.interval[1]


def speedup(case: CaseView, base: CaseView | None) -> Speedup | None:
    """Over ``base``; None where either speed is missing or does not count."""
    if base is None or not (case.counts and base.counts) or case.record is None or base.record is None:
        return None
    found = ratio(case.record.throughput, base.record.throughput)
    return Speedup(1.0, None) if found and case is base else found


def ratio(one: Throughput | None, other: Throughput | None) -> Speedup | None:
    """One throughput over another; None where either is missing or absurd."""
    if one is None or other is None or not (0 < one.value < math.inf and 0 < other.value < math.inf):
        return None
    value = one.value / other.value
    if not 0 < value < math.inf:  # of two absurd but finite numbers
        return None
    widths = [_log_half_width(found.ci95) for found in (one, other)]
    known = [width for width in widths if width is not None]
    return Speedup(value, math.hypot(*known) if len(known) == 2 else None)


def _log_half_width(interval: tuple[float, float]) -> float | None:
    if not 0 < interval[0] <= interval[1] < math.inf:
        return None
    return (math.log(interval[1]) - math.log(interval[0])) / 2


def base_of(row: Iterable[CaseView]) -> CaseView | None:
    """The case that the others of its workload are held against: eager, at the smallest world size."""
    eager = [case for case in row if case.column.mode == EAGER]
    return min(eager, key=lambda case: (bool(case.damage), case.column.world_size), default=None)


@dataclass(frozen=True)
class Headline:
    """The geometric mean of one mode's speed-ups over ``workloads`` workloads."""

    column: Column
    mean: Speedup
    workloads: int


def headline(columns: Mapping[Column, Sequence[Speedup]]) -> Headline | None:
    """The mode with the largest geometric mean. A mode that was measured on less than half as many workloads as the
    best covered one cannot win: a mean over the workloads that suit it would flatter it.
    """
    covered = max(map(len, columns.values()), default=0)
    means = [
        Headline(column, geometric_mean(speedups), len(speedups))
        for column, speedups in columns.items()
        if speedups and 2 * len(speedups) >= covered
    ]
    return max(means, key=lambda mean: mean.mean.value, default=None)


def geometric_mean(speedups: Sequence[Speedup]) -> Speedup:
    """Its logarithm is the mean of logarithms, so the half-width is √(Σ h²) / n."""
    value = math.exp(sum(math.log(one.value) for one in speedups) / len(speedups))
    widths = [one.half_width for one in speedups if one.half_width is not None]
    whole = len(widths) == len(speedups)
    return Speedup(value, math.hypot(*widths) / len(speedups) if whole else None)
