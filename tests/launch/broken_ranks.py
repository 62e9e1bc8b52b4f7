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
    """Asks the workload to ``fail`` on rank 1 at the fifth step. In each step, it sums something over the ranks."""

    def __init__(self, workload: Failing) -> None:
        super().__init__()
        self.workload = workload
        self.calls = 0

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        if dist.is_initialized():
            self.calls += 1
            if self.calls == FIFTH and dist.get_rank() == 1:
                self.workload.fail()
            else:
                self.workload.together()
        return super().forward(x_BI, y_B1)


class Failing(Healthy):
    def build(self) -> nn.Module:
        return Fails(self)

    def together(self) -> None:
        dist.all_reduce(torch.ones(1))
        dist.broadcast(torch.ones(2), src=0)

    def fail(self) -> None:
        raise NotImplementedError


class Raises(Failing):
    def fail(self) -> None:
        raise ValueError("the sample is torn")


class IsKilled(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class IsTerminated(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class Crashes(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Leaves(Failing):
    def fail(self) -> None:
        os._exit(3)


class HasNoMemory(Failing):
    def fail(self) -> None:
        raise MemoryError


class Stops(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class Sleeps(Failing):
    def fail(self) -> None:
        time.sleep(3600)


class CallsOneMore(Failing):
    def fail(self) -> None:
        dist.all_reduce(torch.ones(7))
        self.together()


class CallsOneLess(Failing):
    def fail(self) -> None:
        dist.all_reduce(torch.ones(1))


class CallsInAnotherOrder(Failing):
    def fail(self) -> None:
        dist.broadcast(torch.ones(2), src=0)
        dist.all_reduce(torch.ones(1))


class LeavesWell(Failing):
    def fail(self) -> None:
        os._exit(0)
