"""Two ways to do the same, in lock-step: the ratio of their throughputs, with its interval.

Both live in one process and take turns in random order, so that they share the machine's moods evenly.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable
from statistics import median

RESAMPLES = 2000


def ratio(one: Callable[[], object], other: Callable[[], object], turns: int, warm_up: int) -> tuple[float, str]:
    """Throughput of ``one`` / that of ``other``, and the same as text with its 95 % interval.

    It is the median over the turns, and the interval the middle of 95 % of resampled medians (bootstrap): a turn that
    another process interrupted says nothing.

    Args:
        one: does a turn.
        other: does as much.
        turns: of each that count.
        warm_up: of each that come before.
    """
    order = random.Random(0)
    logs = []
    gc.collect()
    gc.disable()  # as in the timed window
    for turn in range(warm_up + turns):
        seconds = {}
        for side in order.sample((one, other), 2):
            begin = time.perf_counter()
            side()
            seconds[side] = time.perf_counter() - begin
        if turn >= warm_up:
            logs.append(math.log(seconds[other] / seconds[one]))
    gc.enable()
    medians = sorted(median(order.choices(logs, k=len(logs))) for _ in range(RESAMPLES))
    low, middle, high = (
        math.exp(value) for value in (medians[RESAMPLES // 40], median(logs), medians[-RESAMPLES // 40 - 1])
    )
    return middle, f"{middle:.3f} [{low:.3f}, {high:.3f}]"
