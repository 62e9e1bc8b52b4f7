"""A workload of which rank 3 has a fault in the forward pass of its tenth step; the variable ``FAULT`` names it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn

from tests.launch.own_line import Healthy, Line

FAULT, FAULT_AT = "LLMBENCH_TEST_FAULT", "LLMBENCH_TEST_FAULT_AT"
"""Variables: what is to happen, and the file that gets the time at which it did."""
TENTH = 10
RANK = 3


def _raise() -> None:
    raise ValueError("the sample is torn")


def _no_memory() -> None:
    raise MemoryError("out of memory")


FAULTS: dict[str, Callable[[], object]] = {
    "raise": _raise,
    "no memory": _no_memory,
    "kill -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit 1": lambda: os._exit(1),
    "exit 0": lambda: os._exit(0),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda: time.sleep(3600),
    "launcher killed": lambda: os.kill(os.getppid(), signal.SIGKILL),
}
"""What the rank does; whatever else the variable names is done to it from outside."""


class Fails(Line):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == TENTH and dist.is_initialized() and dist.get_rank() == RANK:
            Path(os.environ[FAULT_AT]).write_text(str(time.time()))
            FAULTS.get(os.environ[FAULT], lambda: None)()
        return super().forward(x_BI, y_B1)


class Faulty(Healthy):
    def build(self) -> nn.Module:
        return Fails()
