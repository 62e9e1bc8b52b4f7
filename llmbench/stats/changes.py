"""Steps in a series of runs: where its level changed, and lasted.

Exact segmentation into pieces of constant mean at a penalty for each change, as optimal partitioning gives it (Jackson
et al. 2005; Killick, Fearnhead and Eckley 2012), found by functional pruning (Maidstone et al. 2017), here with a least
length of a piece. Pure Python: numpy and scipy are no dependencies of llmbench, and the libraries for this need them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

SHORTEST = 3
"""Values in a piece: what lasts for fewer is an outlier, not a step."""
FEWEST = 2 * SHORTEST
"""Values from which on a step can be told."""
_REACH = 3.0  # noise scales from the median of its neighbours, beyond which a value is an outlier
_EXACT = 1e-6  # of the spread
_WINDOW = 2 * SHORTEST - 1  # the median of as many keeps every level that lasts, and no other
_LAGS = {1: FEWEST, 2: 10, 3: 18}  # and from how many values on: a step hides in few differences only
_BLOCKS = {3: 30, 5: 50}
_NORMAL = 1.4826  # standard deviation of a normal distribution / its median absolute deviation


@dataclass(frozen=True)
class Change:
    """A step of the level.

    Attributes:
        index: of the first value at the new level.
        size: difference of the levels, after - before.
        half_width: of its 95 % interval, as if its place were known.
    """

    index: int
    size: float
    half_width: float


def changes(values: Sequence[float], *, noise: float = 0.0, smallest: float = 0.0) -> list[Change]:
    """Steps of a series, in their order.

    Args:
        values: finite; logarithms where relative changes matter. Fewer than ``FEWEST`` have no step.
        noise: standard deviation that a value has at least, e.g. from the interval of each run: few values alone tell
            little of it.
        smallest: steps of less than this are none.
    """
    if len(values) < FEWEST:
        return []
    spread = max(values) / 2 - min(values) / 2
    if spread == 0:
        return []
    # Bytes and losses may repeat exactly; squares of less than a millionth drown in rounding.
    scale = max(noise, noise_scale(values), _EXACT * spread)
    calm = without_outliers(values, scale)
    cuts = _merged(calm, segments(calm, penalty(len(calm)) * scale**2), smallest)
    return [_change(calm, cuts, place, scale) for place in range(1, len(cuts) - 1)]


def noise_scale(values: Sequence[float]) -> float:
    """Standard deviation of the noise, whatever the steps: from the median absolute difference of near values.

    The largest of what single values at lags 1 to 3 and means of 3 and of 5 tell: where a run is like the one before,
    as on a machine that is busy for days, neighbours alone promise far too little.
    """
    found = [_scale(_differences(values, lag), 1) for lag, fewest in _LAGS.items() if len(values) >= fewest]
    sums = [0.0, *accumulate(values)]
    for size, fewest in _BLOCKS.items():
        if len(values) >= fewest:
            blocks = [total / size for total in _differences(sums, size)]
            found.append(_scale(_differences(blocks, size), size))
    return max(found, default=0.0)


def _differences(values: Sequence[float], lag: int) -> list[float]:
    return [after - before for before, after in zip(values, values[lag:], strict=False)]


def _scale(differences: Sequence[float], size: int) -> float:
    """Of one value, from differences of means of ``size``."""
    return _NORMAL * median(map(abs, differences)) * math.sqrt(size / 2)


def penalty(count: int) -> float:
    """Price of a change in units of the squared noise scale.

    Of the form of the Bayesian information criterion. Its numbers are chosen by simulation, so that fewer than 1 in 100
    series of identical code have a step, with the noise scale estimated from the same values: of few it is often too
    small. ``suites/history_steps.py`` simulates it.
    """
    return (7 + 2 * math.log(count)) * (1 + 14 / count)


def without_outliers(values: Sequence[float], scale: float) -> list[float]:
    """The values, those far from the median of their neighbours replaced by it: one strange run is no step.

    The filter of Hampel, with a window in which a level that lasts has the majority at its ends too.
    """
    last = max(0, len(values) - _WINDOW)
    calm = []
    for index, value in enumerate(values):
        start = min(max(0, index - _WINDOW // 2), last)
        middle = median(values[start : start + _WINDOW])
        calm.append(value if abs(value - middle) <= _REACH * scale else middle)
    return calm


def segments(values: Sequence[float], price: float) -> list[int]:
    """Edges ``[0, …, n]`` of the pieces with the least sum of squares around their means + ``price`` for each change.

    No piece is shorter than ``SHORTEST``. The least cost so far is kept as a function of the level of the last piece:
    as parabolas, each where it is the lowest, of which few are left at any time.
    """
    n = len(values)
    best = [0.0, *[math.inf] * n]  # of the first t values, without the price of the change that follows
    start_of = [0] * (n + 1)
    sums, squares = [0.0], [0.0]
    middle = median(values)  # of numbers near zero, little is lost in the sums
    for value in values:
        sums.append(sums[-1] + value - middle)
        squares.append(squares[-1] + (value - middle) ** 2)
    parts: list[_Part] = []
    for t in range(SHORTEST, n + 1):
        value = values[t - 1] - middle
        parts = [(low, high, a + 1, b - 2 * value, c + value**2, start) for low, high, a, b, c, start in parts]
        begin = t - SHORTEST
        if best[begin] < math.inf:
            added = best[begin] + (price if begin else 0.0)
            total = sums[t] - sums[begin]
            parts = _lower(parts, SHORTEST, -2 * total, added + squares[t] - squares[begin], begin)
        best[t], start_of[t] = min((_least(part), part[5]) for part in parts)
    edges = [n]
    while edges[-1]:
        edges.append(start_of[edges[-1]])
    return edges[::-1]


# Where it is the lowest (low, high), its coefficients a, b, c of level², level, 1, and where its piece begins.
_Part = tuple[float, float, float, float, float, int]


def _least(part: _Part) -> float:
    low, high, a, b, c, _ = part
    level = min(max(-b / (2 * a), low), high)
    return (a * level + b) * level + c


def _lower(parts: Sequence[_Part], a: float, b: float, c: float, start: int) -> list[_Part]:
    """The lower envelope with one more parabola, which is flatter than all the others."""
    if not parts:
        return [(-math.inf, math.inf, a, b, c, start)]
    lower: list[_Part] = []

    def new(low: float, high: float) -> None:
        if low >= high:
            return
        if lower and lower[-1][5] == start:
            lower[-1] = (lower[-1][0], high, a, b, c, start)
        else:
            lower.append((low, high, a, b, c, start))

    for low, high, a_old, b_old, c_old, start_old in parts:
        # The old one is at most the new one between the roots of their difference.
        da, db, dc = a_old - a, b_old - b, c_old - c
        inside = db * db - 4 * da * dc
        if inside <= 0:
            new(low, high)
            continue
        reach, centre = math.sqrt(inside) / (2 * da), -db / (2 * da)
        left, right = max(low, centre - reach), min(high, centre + reach)
        if left >= right:
            new(low, high)
            continue
        new(low, left)
        lower.append((left, right, a_old, b_old, c_old, start_old))
        new(right, high)
    return lower


def _merged(values: Sequence[float], edges: list[int], smallest: float) -> list[int]:
    """The edges without those of steps that are too small, the smallest taken out first."""
    edges = list(edges)
    while len(edges) > 2:
        levels = [math.fsum(values[begin:end]) / (end - begin) for begin, end in pairwise(edges)]
        size, place = min((abs(after - before), place) for place, (before, after) in enumerate(pairwise(levels), 1))
        if size >= smallest:
            break
        del edges[place]
    return edges


def _change(values: Sequence[float], edges: Sequence[int], place: int, scale: float) -> Change:
    before = values[edges[place - 1] : edges[place]]
    after = values[edges[place] : edges[place + 1]]
    levels = [math.fsum(piece) / len(piece) for piece in (before, after)]
    squares = sum((value - level) ** 2 for piece, level in zip((before, after), levels, strict=True) for value in piece)
    # Not less than the noise of these two pieces.
    scale = max(scale, math.sqrt(squares / max(1, len(before) + len(after) - 2)))
    half_width = 1.96 * scale * math.sqrt(1 / len(before) + 1 / len(after))
    return Change(edges[place], levels[1] - levels[0], half_width)
