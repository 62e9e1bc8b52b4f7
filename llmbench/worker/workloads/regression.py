"""Regression: y = 3x + noise, by a line or by an MLP. The least-squares solution is known in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.workloads.batches import global_batch

SLOPE = 3.0
NOISE = 0.5  # standard deviation
EVAL_SAMPLES = 8192


class Regression:
    """x_BI ~ N(0, 1), y_B1 = 3 · mean direction of x + N(0, 0.5²): for one input, y = 3x + noise."""

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.model_config = MLPConfig(**config["model"])
        generator = torch.Generator().manual_seed(config["seed"] + 1)
        self.eval_x_EI, self.eval_y_E1 = self._sample(EVAL_SAMPLES, generator)
        self._generator = generator
        self._staged: tuple[Tensor, ...] = ()

    def _sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        d_in = self.model_config.d_in
        x_CI = torch.randn(count, d_in, generator=generator)
        noise_C1 = NOISE * torch.randn(count, 1, generator=generator)
        return x_CI, SLOPE * x_CI.sum(dim=1, keepdim=True) / d_in**0.5 + noise_C1

    def build(self) -> nn.Module:
        return MLP(self.model_config)

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        batch = global_batch(self.config)
        x_CI, y_C1 = self._sample(steps * batch, self._generator)
        self._staged = (x_CI.view(steps, batch, -1), y_C1.view(steps, batch, 1))
        return self._staged

    def before(self, model: nn.Module) -> None:
        return

    def references(self) -> list[dict[str, Any]]:
        """The line through all training samples by the normal equations, judged on the held-out samples."""
        x_CI, y_C1 = (tensor.flatten(0, 1).double() for tensor in self._staged)
        x_CI = torch.cat([x_CI, torch.ones(len(x_CI), 1, dtype=torch.float64)], dim=1)
        weights_I1 = torch.linalg.solve(x_CI.T @ x_CI, x_CI.T @ y_C1)
        predicted_E1 = self.eval_x_EI.double() @ weights_I1[:-1] + weights_I1[-1]
        loss = (predicted_E1 - self.eval_y_E1).square().mean().item()
        return [{"name": "least squares", "value": loss, "kind": "floor"}]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        device = next(model.parameters()).device
        predicted_E1 = model(self.eval_x_EI.to(device)).float().cpu()
        mse = (predicted_E1 - self.eval_y_E1).square().mean().item()
        variance = self.eval_y_E1.var(correction=0).item()
        return mse, {"mse": mse, "r2": 1 - mse / variance}

    def proofs(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        if self.model_config.n_hidden:
            return {}, []
        line = next(module for module in model.modules() if isinstance(module, nn.Linear))
        return {"slope": line.weight.sum().item() / self.model_config.d_in**0.5, "intercept": line.bias.item()}, []
