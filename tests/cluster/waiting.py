"""A workload whose parallel steps take a while for as long as a file ``slow`` lies in the working folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn

from tests.launch.own_line import Healthy, Line

SLOW = Path("slow")


class Waiting(Line):
    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        if dist.is_initialized() and SLOW.exists():
            time.sleep(0.5)
        return super().forward(x_BI, y_B1)


class Waits(Healthy):
    def build(self) -> nn.Module:
        return Waiting()
