"""Memory and loss of a case on two sides: neither needs a test of significance, for both repeat themselves.

docs/compare.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmbench.errors import UserError
from llmbench.results.schema import Memory
from llmbench.stats.verdicts import curve_checks
from llmbench.suite.modes import parity_limit

MEMORY = 0.01  # share by which a peak must differ
RESIDENT = 0.03  # the same of resident memory, which differs between runs of the same code
BYTES = 4 * 2**20  # and by how much at least
_NO_BYTES = 2**63  # from here on a count of bytes is none, and beyond the range of a float it could not be divided
SAME_ARITHMETIC = 1e-5  # largest relative difference of a loss where nothing but the code can differ
ROUNDING = 1e-3  # the same, smoothed, where sums may be taken in another order

MemoryVerdict = Literal["more", "less", "same"]
LossVerdict = Literal["bitwise", "within", "changed"]


@dataclass(frozen=True)
class MemoryChange:
    """Peak bytes of base and candidate: the least of a side's runs, for what disturbs only ever adds.

    Attributes:
        limit: share that counts as more or less.
    """

    verdict: MemoryVerdict
    base: int
    cand: int
    limit: float

    @property
    def ratio(self) -> float:
        return self.cand / self.base


@dataclass(frozen=True)
class LossChange:
    """How far the candidate's loss curve is from the base's.

    Attributes:
        value: largest relative difference; None where a loss is not finite.
        step: the first one (from 0) that left the limit.
    """

    verdict: LossVerdict
    value: float | None
    limit: float
    step: int | None = None


def memory_change(base: Sequence[Memory | None], cand: Sequence[Memory | None]) -> MemoryChange | None:
    """More or less only by more than the limit and 4 MiB; None where a run has no peak.

    The peak is what the device's allocator gave out; on a device without one, what the system held resident.
    """
    known = [[memory for memory in side if memory is not None] for side in (base, cand)]
    allocated = [[memory.peak_allocated_bytes for memory in side] for side in known]
    resident = [[memory.peak_rss_bytes for memory in side] for side in known]
    on_device = all(peak is not None for side in allocated for peak in side)
    peaks = [
        [peak for peak in side if peak and 0 < peak < _NO_BYTES] for side in (allocated if on_device else resident)
    ]
    if not all(peaks) or sum(map(len, peaks)) < len(base) + len(cand):
        return None
    return _memory(min(peaks[0]), min(peaks[1]), MEMORY if on_device else RESIDENT)


def _memory(base: int, cand: int, limit: float) -> MemoryChange:
    grew, shrank = (one > other * (1 + limit) and one - other > BYTES for one, other in ((cand, base), (base, cand)))
    return MemoryChange("more" if grew else "less" if shrank else "same", base, cand, limit)


def loss_change(
    base: Sequence[float | None], cand: Sequence[float | None], mode: str, *, exact: bool
) -> LossChange | None:
    """Holds one curve against the other, from the same weights on the same batches.

    Args:
        base, cand: the loss of every training step; None where it was not finite.
        mode: whose arithmetic explains some difference.
        exact: nothing that changes the order of sums differs, and this case is known to repeat itself bit by bit.

    Returns:
        None for curves of different lengths, or empty ones.
    """
    if not base or len(base) != len(cand):
        return None
    limit = SAME_ARITHMETIC if exact else explained_by(mode)
    if list(base) == list(cand):
        return LossChange("bitwise", 0.0, limit)
    one, other = ([math.nan if value is None else value for value in side] for side in (base, cand))
    if exact:
        return _step_by_step(one, other)
    checks = curve_checks(other, one, "base", limit)
    failed = next((check for check in checks if check.verdict == "fail"), None)
    worst = failed or max(checks, key=lambda check: (check.value or 0.0) / check.limit)
    return LossChange("changed" if failed else "within", worst.value, worst.limit, worst.step)


def explained_by(mode: str) -> float:
    """The largest relative difference of a smoothed curve that a mode's arithmetic explains."""
    try:
        return max(ROUNDING, parity_limit(mode))
    except (UserError, KeyError):  # a mode of another version
        return ROUNDING


def _step_by_step(base: Sequence[float], cand: Sequence[float]) -> LossChange:
    differences = [_relative(before, after) for before, after in zip(base, cand, strict=True)]
    left = next((step for step, value in enumerate(differences) if not value <= SAME_ARITHMETIC), None)
    worst = max(differences) if all(map(math.isfinite, differences)) else None
    return LossChange("within" if left is None else "changed", worst, SAME_ARITHMETIC, left)


def _relative(before: float, after: float) -> float:
    if before == after or (math.isnan(before) and math.isnan(after)):
        return 0.0
    return abs(after - before) / abs(before) if before else math.inf
