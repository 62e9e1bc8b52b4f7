"""Student's t distribution with whole degrees of freedom. Standard library only."""

from __future__ import annotations

import math
from functools import cache

_HALVINGS = 200  # more than a double can resolve


def cumulative(t: float, degrees: int) -> float:
    """P(T <= t). Abramowitz and Stegun 1964, 26.7.3 and 26.7.4: finite sums for whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2:
        term = total = cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        return 0.5 + (angle + sine * total) / math.pi
    term = total = 1.0
    for k in range(2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 0.5 + sine * total / 2


@cache
def quantile(probability: float, degrees: int) -> float:
    """The t below which a share ``probability`` of the distribution lies, by bisection.

    Args:
        probability: between 0.5 and 1, both excluded.
        degrees: of freedom, one or more.
    """
    low, high = 0.0, 1.0
    while cumulative(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if cumulative(middle, degrees) < probability else (low, middle)
    return (low + high) / 2
