"""Workloads that do not get through a comparison, or only alone."""

from __future__ import annotations

import fcntl
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.launch.own_line import Healthy, Line

AT = 13  # calls: within the turns, as the warm-up has ten steps
LOCK = Path(tempfile.gettempdir(), "llmbench-test-memory-of-one")


class Sleepy(Line):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == AT:
            time.sleep(3600)
        return super().forward(x_BI, y_B1)


class Hangs(Healthy):
    def build(self) -> nn.Module:
        return Sleepy()


class NeedsAllMemory(Healthy):
    """While another process has it, there is none."""

    def build(self) -> nn.Module:
        self.memory = open(LOCK, "w")  # noqa: SIM115  until the process ends
        try:
            fcntl.flock(self.memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise torch.OutOfMemoryError("Tried to allocate 7.00 GiB") from None
        return super().build()
