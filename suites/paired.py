"""Two ways to do the same, in lock-step: the ratio of their throughputs, with its interval.

Both live in one process and take turns in random order, so that they share the machine's moods evenly.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from llmbench.suite.workloads import FAMILIES, Size

WARM_UP = 10  # turns
TURN = 3  # steps
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


def gpt(description: str) -> tuple[argparse.Namespace, Size, tuple[Tensor, Tensor]]:
    """Options of a script that compares two ways to train a GPT, its size, and the batches of all steps."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", default="tiny", choices=FAMILIES["gpt"].sizes)
    parser.add_argument("--turns", type=int, default=200, help="of three steps, for each side")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    size = FAMILIES["gpt"].sizes[options.size]
    steps, batch = TURN * (options.turns + WARM_UP), size.settings["micro_batch_size"]
    shape = (steps, batch, size.settings["sequence_length"] + 1)
    tokens = torch.randint(size.model["vocab_size"], shape, generator=torch.Generator().manual_seed(0))
    return options, size, (tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous())
