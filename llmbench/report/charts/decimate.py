"""Fewer points for the same picture."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard

Point = tuple[float, float]


def lttb(points: Sequence[Point], limit: int) -> list[int]:
    """Indices of at most ``limit`` points that keep a line's shape.

    Largest triangle three buckets: Steinarsson, *Downsampling time series for visual representation*, 2013.
    """
    if len(points) <= limit or limit < 3:
        return list(range(len(points)))
    inner, buckets = len(points) - 2, limit - 2
    edges = [1 + inner * bucket // buckets for bucket in range(buckets + 1)] + [len(points)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    chosen = [0]
    for start, end, after in zip(edges, edges[1:], edges[2:], strict=False):
        ax, ay = points[chosen[-1]]
        wide = ax - sum(xs[end:after]) / (after - end)
        tall = sum(ys[end:after]) / (after - end) - ay
        areas = [abs(wide * (y - ay) - (ax - x) * tall) for x, y in points[start:end]]
        chosen.append(start + areas.index(max(areas)))
    return [*chosen, len(points) - 1]


def decimate(points: Sequence[Point], limit: int, tolerance: float = 2.0) -> list[Point]:
    """``lttb``, and every extreme that it left out: no spike ends further than ``tolerance`` outside the line drawn.

    Between two kept points lie points that are not drawn. Those that are higher or lower than both their kept
    neighbours by more than ``tolerance`` are put back, the most extreme of each gap.
    """
    chosen = lttb(points, limit)
    kept = set(chosen)
    heights = [y for _, y in points]
    for left, right in pairwise(chosen):
        gap = heights[left + 1 : right]
        if not gap:
            continue
        low, high = sorted((heights[left], heights[right]))
        bottom, top = min(gap), max(gap)
        if bottom < low - tolerance:
            kept.add(left + 1 + gap.index(bottom))
        if top > high + tolerance:
            kept.add(left + 1 + gap.index(top))
    return [points[index] for index in sorted(kept)]


def running_median(values: Sequence[float], window: int) -> list[float]:
    """The median of each value and its neighbours; at the ends of as many as there are on both sides."""
    reach, last = window // 2, len(values) - 1
    near: list[float] = []  # what the window holds, in order
    start = end = 0
    result = []
    for index in range(len(values)):
        reached = min(reach, index, last - index)
        for value in values[end : index + reached + 1]:
            insort(near, value)
        for value in values[start : index - reached]:
            del near[bisect_left(near, value)]
        start, end = index - reached, index + reached + 1
        result.append(near[reached])
    return result


def buckets(values: Sequence[float | None], limit: int, digits: int = 5) -> dict[str, Any]:
    """A series for embedding, in at most ``limit`` buckets of equally many steps; no extreme is lost.

    Returns:
        ``steps``: how many there were. ``mean``: of the finite values of each bucket, to ``digits`` significant digits,
        None where there are none. Where a bucket is more than one step, ``every``: its steps; ``unit``, ``below`` and
        ``above``: the least and the greatest value of bucket ``i`` are ``mean[i] - unit * below[i]`` and
        ``mean[i] + unit * above[i]``, rounded outwards. ``lost``: first and last of each stretch of steps that are not
        finite, at most ``limit`` of them.
    """
    # One value weighs half as much as a bucket.
    every = 1 if len(values) <= 2 * limit else -(-len(values) // limit)
    parts = [[v for v in values[at : at + every] if _is_finite(v)] for at in range(0, len(values), every)]
    means = [_rounded(math.fsum(v / len(part) for v in part), digits) if part else None for part in parts]
    told: dict[str, Any] = {"steps": len(values), "mean": means}
    if every > 1:
        told |= {"every": every} | _band(parts, means, digits)
    lost = _stretches([step for step, value in enumerate(values) if not _is_finite(value)])
    return told | ({"lost": lost[:limit]} if lost else {})


def _band(parts: Sequence[Sequence[float]], means: Sequence[float | None], digits: int) -> dict[str, Any]:
    """Distances of the extremes from the mean, in units that show the smallest mean to one digit less than itself."""
    known = [(part, mean) for part, mean in zip(parts, means, strict=True) if mean is not None]
    if not known:
        return {"unit": 1.0, "below": [0] * len(parts), "above": [0] * len(parts)}
    reach = max(max(part) / 2 - min(part) / 2 for part, _ in known) * 2
    sizes = [abs(mean) for _, mean in known if mean]
    # Not finer than a millionth of the widest bucket, or a curve from 1e30 to 1e-3 would need 30 digits.
    unit = 10.0 ** max(_exponent(min(sizes, default=1.0)) - digits + 2, _exponent(reach) - 6)
    below = [
        math.ceil((mean - min(part)) / unit - 1e-9) if mean is not None else 0
        for part, mean in zip(parts, means, strict=True)
    ]
    above = [
        math.ceil((max(part) - mean) / unit - 1e-9) if mean is not None else 0
        for part, mean in zip(parts, means, strict=True)
    ]
    return {"unit": unit, "below": below, "above": above}


def _exponent(value: float) -> int:
    """Of ten, in scientific notation; of zero that of the smallest number of use here."""
    return math.floor(math.log10(value)) if value > 1e-300 else -300


def _is_finite(value: float | None) -> TypeGuard[float]:
    """Whether a value can be drawn: one beyond 1e300 has diverged."""
    return value is not None and abs(value) < 1e300


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _stretches(steps: Sequence[int]) -> list[list[int]]:
    """Consecutive numbers as ``[first, last]``."""
    found: list[list[int]] = []
    for step in steps:
        if found and found[-1][1] == step - 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return found
