"""How a model is executed: functions ``model -> model`` and contexts from outside, applied in one fixed order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.faults import Unavailable
from llmbench.worker.modes import attention, compile, offload, precision
from llmbench.worker.modes.chunked import apply_chunked_ce
from llmbench.worker.modes.parallel import Sync, apply_data_parallel
from llmbench.worker.modes.recompute import apply_recompute
from llmbench.worker.world import World


class Gradients(Protocol):
    """Forward and backward pass of a batch of this rank; leaves gradients, returns the mean loss.

    Attributes:
        watch: makes the context of an instrument around each forward pass, where there is one to be told apart.
    """

    watch: Callable[[], AbstractContextManager[Any]]

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor: ...


@dataclass
class Execution:
    """A model in its mode.

    Attributes:
        model: this rank's part of it; its parameters are to be trained.
        scaler: of the loss in float16; in other modes it passes everything through.
        tied: the tensors that two stages of a pipeline hold; None without one.
    """

    model: nn.Module
    scaler: torch.amp.GradScaler
    gradients: Gradients
    tied: Any = None


def missing(part: str, device: Device, mode: list[str]) -> str | None:
    """What this machine lacks to run an ingredient of a mode, with the cure; None if it lacks nothing."""
    if part in compile.SCOPES:
        return compile.missing(part, device)
    if part == "cpu-offload":
        return offload.missing(device)
    return precision.missing(part, device) or attention.missing(part, device, mode)


def apply(
    model: nn.Module, mode: list[str], device: Device, config: dict[str, Any], world: World | None = None
) -> Execution:
    """The model in its mode; changed in place where that is possible.

    Args:
        model: on the device, as the workload built it.
        mode: the ingredients, e.g. ``["compile", "bf16"]``.

    Raises:
        Unavailable: the machine lacks what the mode needs.
    """
    world = world or World()
    for part in mode:
        reason = missing(part, device, mode)
        if reason:
            raise Unavailable(reason)
    model = precision.apply_precision(model, mode)
    model = attention.apply_attention(model, mode, device, config.get("sequence_length"))
    if "chunked-ce" in mode:
        model = apply_chunked_ce(model)
    if "tp" in mode:
        from llmbench.worker.modes.tensor import apply_tensor_parallel

        model = apply_tensor_parallel(model, world)
    if "pp" in mode:
        from llmbench.worker.modes.pipeline import Stage

        model = Stage(model, world.rank, world.size)
    model = apply_recompute(model, mode)
    model = compile.apply_compile(model, mode)
    model, sync = apply_data_parallel(model, mode, world, device)

    context = precision.autocast(mode, device)
    if "cpu-offload" in mode and not {"fsdp", "hsdp"} & set(mode):
        context = offload.offloading(context, model)
    scaler = precision.scaler(mode, device)
    if "pp" in mode:
        from llmbench.worker.modes.pipeline import Pipeline, TiedGradients

        pipeline = Pipeline(model, world, device, config["grad_accum"], context)
        return Execution(model, scaler, pipeline, TiedGradients(model, world))
    begin = compile.before_forward(model, mode, device, config["grad_accum"])
    return Execution(model, scaler, MicroBatches(model, config["grad_accum"], context, sync, scaler, begin))


class MicroBatches:
    """Forward and backward pass of a batch, one micro-batch after the other.

    The first batch goes again at a smaller scale until its gradients do not overflow.

    Attributes:
        watch: makes the context of an instrument around each forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        count: int,
        context: Callable[[], AbstractContextManager[Any]],
        sync: Sync,
        scaler: torch.amp.GradScaler,
        before_forward: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.count = count
        self.context = context
        self.sync = sync
        self.scaler = scaler
        self.before_forward = before_forward
        self.watch: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._first = True

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        loss = self._accumulate(batch)
        while self._first and precision.lowered(self.scaler, self.model):
            self.model.zero_grad(set_to_none=True)
            loss = self._accumulate(batch)
        self._first = False
        return loss

    def _accumulate(self, batch: tuple[Tensor, ...]) -> Tensor:
        losses = []
        for index, part in enumerate(zip(*(tensor.chunk(self.count) for tensor in batch), strict=True)):
            with self.sync(index == self.count - 1):
                self.before_forward()
                with self.watch(), self.context():
                    loss = self.model(*part) / self.count
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        return losses[0] if self.count == 1 else torch.stack(losses).sum()
