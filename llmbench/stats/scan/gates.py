"""What counts as low: a gate from the cluster's own median and spread, never from a table of hardware."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, median_high

from llmbench.results.scan import Gate

SUSPECT_SIGMAS = 3.2
SMALLEST_SHARE = 0.02
"""Nothing is called low that is not at least 2 % below the median: not worth a technician."""
PRIOR_SPREAD, PRIOR_WEIGHT = 0.02, 24
"""Few values cannot tell their own spread: it is drawn towards 2 %, which weighs as much as 24 values."""
CERTAIN_SIGMAS = 6.0
"""Below so many standard deviations one measurement can convict. Of a few values the spread itself is uncertain."""
_ONE_SIGMA = 0.6827
"""Of normal deviations to one side, the share within one standard deviation."""


def gate(metric: str, unit: str, values: Sequence[float], uncertainty: float = 0.0) -> Gate:
    """The gate of one metric, of which more is better.

    The spread is what two thirds of the values above the median stay within, as slow nodes pull at the others; of two
    middle values the faster is the median. 3.2 standard deviations below it is low; of many values more, so that about
    one of them is low by chance.

    Args:
        values: positive and finite, one or more.
        uncertainty: nothing is low that is less than this share below the median.
    """
    centre = median_high(values)
    above = sorted(value / centre - 1 for value in values if value >= centre)
    deviation = above[math.ceil(_ONE_SIGMA * len(above)) - 1]
    known = len(values)
    spread = math.sqrt((PRIOR_WEIGHT * PRIOR_SPREAD**2 + known * deviation**2) / (PRIOR_WEIGHT + known))
    below = max(SUSPECT_SIGMAS, _sigmas(1 / known)) * spread
    if (
        uncertainty > 0
    ):  # disturbed by others, values differ by factors: so many times less, and never less than nothing
        below = -math.expm1(-below)
    share = min(1.0, max(SMALLEST_SHARE, uncertainty, below))
    return Gate(
        metric=metric,
        unit=unit,
        values=known,
        median=centre,
        spread=spread,
        share=share,
        threshold=centre * (1 - share),
    )


def certain_below(gate: Gate) -> float:
    """What a measurement that was not repeated must be below to convict."""
    return gate.median * (1 - min(1.0, max(gate.share, CERTAIN_SIGMAS * gate.spread)))


def _sigmas(chance: float) -> float:
    """Standard deviations that normal noise exceeds on one side with this chance."""
    return NormalDist().inv_cdf(1 - chance) if chance < 1 else -math.inf
