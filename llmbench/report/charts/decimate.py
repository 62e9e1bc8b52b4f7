"""Fewer points for the same picture."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

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


def thin(values: Sequence[float | None], limit: int = 200, digits: int = 4) -> list[list[float | None]]:
    """``[step, value]`` pairs of a series for embedding: at most about ``limit`` of the finite values, chosen by
    ``decimate``, and the first ``limit`` steps that are not finite, as ``null``.
    """
    finite = [(float(step), value) for step, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not finite:
        return [[step, None] for step in range(min(len(values), limit))]
    heights = [value for _, value in finite]
    tolerance = 0.02 * (max(heights) / 2 - min(heights) / 2) * 2
    pairs: dict[int, float | None] = {
        int(step): float(f"{value:.{digits}g}") for step, value in decimate(finite, limit, tolerance)
    }
    lost = [step for step, value in enumerate(values) if value is None or not math.isfinite(value)]
    pairs.update(dict.fromkeys(lost[:limit]))
    return [[step, pairs[step]] for step in sorted(pairs)]
