"""A user's own workload that is all right: what the broken ones beside it differ from in one thing each."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUTS, HIDDEN = 8, 16


class Line(nn.Module):
    """Two layers that learn a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(INPUTS, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        return F.mse_loss(self.out(F.relu(self.hidden(x_BI))).to(y_B1.dtype), y_B1)


class Healthy:
    """Learns a sum of squares."""

    unit = "samples/s"
    settings: ClassVar = {"micro_batch_size": 32, "learning_rate": 0.02}

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.eval_batch = tuple(tensor[0] for tensor in self.sample(1))

    def sample(self, steps: int) -> tuple[Tensor, Tensor]:
        x_SBI = torch.randn(steps, self.config["global_batch_size"], INPUTS, generator=self.generator)
        return x_SBI, x_SBI.square().mean(dim=-1, keepdim=True)

    def build(self) -> nn.Module:
        return Line()

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        return self.sample(steps)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        return model(*self.eval_batch).item(), {}
