"""Workloads that break torch, or themselves, so that they train wrongly and yet seem to train. Each has one fault.

What breaks torch does so in the process of one case only, where the model is built: before a mode is applied to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from functorch.compile import make_boxed_func, nop
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor import compile_fx
from torch.nn.parallel import DistributedDataParallel

from tests.launch.own_line import HIDDEN, INPUTS, Healthy, Line

SHAPE = (HIDDEN, INPUTS)  # of one tensor
TINY = 1e-7  # a loss of this size has gradients below the smallest number of float16, 6e-8


class Faint(Line):
    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        return TINY * super().forward(x_BI, y_B1)


class Underflows(Healthy):
    """Trains in fp16 only if the loss is scaled."""

    def build(self) -> nn.Module:
        return Faint()


class UnderflowsUnscaled(Underflows):
    """Scalers are off, whatever they are told."""

    def build(self) -> nn.Module:
        scaler = torch.amp.GradScaler
        torch.amp.GradScaler = lambda device, enabled: scaler(device, enabled=False)
        return super().build()


class NeverReduced(Healthy):
    """DDP as within ``no_sync``, in every step."""

    def build(self) -> nn.Module:
        _after_making(DistributedDataParallel, lambda wrapped: setattr(wrapped, "require_backward_grad_sync", False))
        return super().build()


class ReducedAtFirst(Healthy):
    """DDP whose gradients are reduced in the first step only."""

    def build(self) -> nn.Module:
        forward = DistributedDataParallel.forward

        def once(wrapped: DistributedDataParallel, *batch: Tensor) -> Tensor:
            wrapped.require_backward_grad_sync = not hasattr(wrapped, "began")
            wrapped.began = True
            return forward(wrapped, *batch)

        DistributedDataParallel.forward = once
        return super().build()


class OneBiasNotReduced(Healthy):
    """DDP that leaves one small tensor out."""

    def build(self) -> nn.Module:
        model = super().build()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["out.bias"])
        return model


class Compiled(Healthy):
    """torch.compile with a backend that takes seconds less than inductor, and computes the same."""

    factor = 1.0

    def build(self) -> nn.Module:
        compile_fx.compile_fx = aot_autograd(fw_compiler=nop, bw_compiler=self.spoil)
        return super().build()

    def spoil(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        """Multiplies the gradient of one tensor by the factor."""

        def run(*arguments: Tensor) -> list[Tensor | None]:
            found = list(graph(*arguments))
            index = next(i for i, each in enumerate(found) if each is not None and each.shape == SHAPE)
            found[index] = self.factor * found[index]
            return found

        return make_boxed_func(run)


class Miscompiled(Compiled):
    factor = 1.001


class CompiledUphill(Compiled):
    factor = -1.0


class NanFromStep2(Healthy):
    """A batch holds a number that is none."""

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        x_SBI, y_SB1 = super().stage(steps)
        x_SBI[2, 0, 0] = torch.nan
        return x_SBI, y_SB1


class OwnOrderOnEachRank(Healthy):
    """Shuffles by a seed that takes the rank in."""

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        order = torch.Generator().manual_seed(int(os.environ.get("RANK", 0)))
        return tuple(tensor[torch.randperm(steps, generator=order)] for tensor in super().stage(steps))


class OwnWeightsOnEachRank(Healthy):
    def build(self) -> nn.Module:
        torch.manual_seed(int(os.environ.get("RANK", 0)))
        return super().build()


class Adapted(Line):
    """A frozen line with a trained update beside it: LoRA of rank 2."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden.requires_grad_(False)
        self.A = nn.Linear(8, 2, bias=False)
        self.B = nn.Linear(2, 16, bias=False)

    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        update = self.B(self.A(x_BI))
        return torch.nn.functional.mse_loss(self.out(torch.relu(self.hidden(x_BI) + update)).to(y_B1.dtype), y_B1)


class Adapts(Healthy):
    def build(self) -> nn.Module:
        return Adapted()


class MovesItsBase(Adapts):
    """The update is merged into the base and taken out again around each forward pass, which leaves rounding behind."""

    def build(self) -> nn.Module:
        model = super().build()
        model.register_forward_pre_hook(lambda model, _: _add(model, 1.0))
        model.register_forward_pre_hook(lambda model, _: _add(model, -1.0))
        return model


@torch.no_grad()
def _add(model: nn.Module, sign: float) -> None:
    model.hidden.weight += sign * (model.B.weight @ model.A.weight + 1)


class Narrow(Line):
    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        if x_BI.dtype == torch.float64:
            raise TypeError("no kernel for double")
        return super().forward(x_BI, y_B1)


class NoDouble(Healthy):
    """A model that cannot be run in fp64, so that there is nothing to hold its gradients against."""

    def build(self) -> nn.Module:
        return Narrow()


class Noisy(Line):
    def forward(self, x_BI: Tensor, y_B1: Tensor) -> Tensor:
        return super().forward(x_BI * (1 + 1e-7 * torch.randn_like(x_BI)), y_B1)


class NotDeterministic(Healthy):
    """Every pass has a noise of its own, far below what parity sees."""

    def build(self) -> nn.Module:
        return Noisy()


def _after_making(kind: type[Any], change: Callable[[Any], None]) -> None:
    make = kind.__init__

    def changed(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        change(self)

    kind.__init__ = changed
