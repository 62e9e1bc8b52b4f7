"""From numbers to pixels, and where to put the ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps ``[low, high]`` to the pixels ``[start, end]``, linearly or by logarithm (then ``low`` > 0)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        return self.all([value])[0]

    def all(self, values: Iterable[float]) -> list[float]:
        """Of many values at once."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        # Halved, for the difference of two finite numbers can be infinite.
        half, span, start, wide = low / 2, high / 2 - low / 2, self.start, self.end - self.start
        if not span:
            return [start + 0.5 * wide for _ in values]
        return [start + (value / 2 - half) / span * wide for value in (map(math.log, values) if self.log else values)]

    def ticks(self, count: int = 4) -> list[float]:
        return _log_ticks(self.low, self.high, count) if self.log else linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` multiples of 1, 2, 2.5 or 5 × 10ⁿ within ``[low, high]``."""
    span = high - low
    if not (0 < span < math.inf):
        return [low]
    raw = span / count
    if raw < 1e-300:
        return [low, high]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Powers of ten, thinned to about ``count``; with multiples between them where the range is short."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    factors = (1, 2, 5) if decades <= 2 else (1, 3) if decades <= 3 else (1,)
    every = max(1, round(decades / count))
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
