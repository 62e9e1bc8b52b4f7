"""Which cores the threads of torch may run on, once its OpenMP library has read its variables."""

from __future__ import annotations

import os
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    # A DataLoader worker is a fork of the main thread, and inherits its mask.
    yield {"main": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}
    torch.ones(1 << 18).add_(1)
    masks = [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]
    yield {"masks": masks}
