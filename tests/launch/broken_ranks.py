"""Workloads of which rank 1 fails in the forward pass of its fifth step, each in its own way."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.launch.own_line import Healthy, Line

FIFTH = 5


class Fails(Line):
    """Asks ``fail`` on rank 1 at the fifth step."""

    def __init__(self, workload: Failing) -> None:
        super().__init__()
        self.workload = workload
        self.calls = 0

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == FIFTH and os.environ.get("RANK") == "1":
            self.workload.fail()
        return super().forward(x_BI, y_B1)


class Failing(Healthy):
    absent = False

    def build(self) -> nn.Module:
        return Fails(self)

    def fail(self) -> None:
        raise NotImplementedError


class Raises(Failing):
    def fail(self) -> None:
        raise ValueError("the sample is torn")


class IsKilled(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Crashes(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Leaves(Failing):
    def fail(self) -> None:
        os._exit(3)


class RunsOutOfMemory(Failing):
    def fail(self) -> None:
        torch.empty(2**60, dtype=torch.uint8)


class Stops(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class Sleeps(Failing):
    def fail(self) -> None:
        time.sleep(3600)


class AsksForMore(Failing):
    """Calls a collective that the others do not."""

    def fail(self) -> None:
        dist.all_reduce(torch.ones(7))


class Skips(Failing):
    """Does not take part in a collective of the others."""

    def build(self) -> nn.Module:
        return Counts(self)

    def fail(self) -> None:
        self.absent = True


class Counts(Fails):
    """Sums something over the ranks in every step."""

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        self.workload.absent = False
        loss = super().forward(x_BI, y_B1)
        if dist.is_initialized() and not self.workload.absent:
            dist.all_reduce(torch.ones(1))
        return loss
