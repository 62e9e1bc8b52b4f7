"""What keeping evidence costs a training of two ranks: the step time with it, as a ratio to that without.

``python -m tests.cluster.evidence_cost [PAIRS]``. Stretches with and without alternate in the same two processes, so
that the load of the machine meets both; what is printed is the geometric mean of the ratios of neighbours, with its
95 % interval, and the CPU time of a heartbeat, which no load changes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from llmbench.worker import evidence
from llmbench.worker.events import Heartbeat
from llmbench.worker.ranks import launch_on_this_host

SECONDS = 3.0  # of each stretch: three heartbeats
WARM_UP = 100  # steps
BEATS = 1000


class _Training:
    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat, self.done = heartbeat, 0
        model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
        self.model = nn.parallel.DistributedDataParallel(model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.x_BI = torch.randn(256, 256)

    def steps(self, count: int) -> list[float]:
        """Seconds of each."""
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            self.model(self.x_BI).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
            self.heartbeat.beat(self.done)
            seconds.append(time.perf_counter() - begin)
        return seconds


def _rank(folder: str, pairs: int) -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    steps = os.path.join(folder, "steps")
    job: dict[str, Any] = {"heartbeat": steps, "world_size": 2, "evidence": folder}
    training = _Training(Heartbeat(steps, rank))
    count = torch.tensor([int(SECONDS / median(training.steps(WARM_UP)))])
    dist.broadcast(count, src=0)
    found: list[dict[str, list[float]]] = []
    for pair in range(pairs):
        both = {}
        for keep in (True, False) if pair % 2 else (False, True):
            with ExitStack() as stack:
                if keep:
                    stack.enter_context(evidence.open_for(job, rank))
                both["with" if keep else "without"] = training.steps(int(count))
        found.append(both)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
        Path(folder, "beat").write_text(str(_of_a_beat(job)))
    dist.destroy_process_group()


def _of_a_beat(job: dict[str, Any]) -> float:
    """CPU seconds of what the thread does once a second."""
    kept, begin = evidence.open_for(job, 0), time.thread_time()
    for _ in range(BEATS):
        kept.beat()
    return (time.thread_time() - begin) / BEATS


def interval(ratios: list[float]) -> str:
    logs = [math.log(ratio) for ratio in ratios]
    middle, half = fmean(logs), 1.96 * stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(middle):.4f} (95 % {math.exp(middle - half):.4f} to {math.exp(middle + half):.4f})"


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "steps").touch()
        launch_on_this_host(2, _rank, folder, pairs)
        found = json.loads(Path(folder, "found.json").read_text())
        beat = float(Path(folder, "beat").read_text())
    print(f"{pairs} pairs of {len(found[0]['with'])} steps of {1e3 * median(found[0]['without']):.3f} ms")
    print(f"CPU time of a heartbeat, one a second: {1e6 * beat:.0f} µs")
    for name, of in (("median", median), ("mean", fmean)):
        print(f"{name} step with / without: {interval([of(both['with']) / of(both['without']) for both in found])}")


if __name__ == "__main__":
    main()
