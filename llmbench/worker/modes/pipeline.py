"""Pipeline parallelism: consecutive blocks on each rank, micro-batches in turn (1F1B, Narayanan et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from llmbench.worker.device import Device
from llmbench.worker.world import World


class Stage(nn.Module):
    """The part of a model that one rank holds, under the names of the whole model.

    The embeddings are on the first stage, what follows the blocks on the last. A tensor that both need, such as a
    tied embedding, is on both.
    """

    def __init__(self, model: nn.Module, rank: int, size: int) -> None:
        super().__init__()
        self.first, self.last = rank == 0, rank == size - 1
        count = len(model.blocks)
        own = range(rank * count // size, (rank + 1) * count // size)
        model.blocks = nn.ModuleDict({str(index): model.blocks[index] for index in own})
        kept = {"blocks", *(model.parts["embed"] if self.first else ()), *(model.parts["finish"] if self.last else ())}
        for name in [name for name, _ in model.named_children() if name not in kept]:
            delattr(model, name)
        self.module = model

    @property
    def blocks(self) -> nn.ModuleDict:
        return self.module.blocks

    def forward(self, *inputs: Tensor) -> Tensor:
        x = self.module.embed(*inputs) if self.first else inputs[0]
        for block in self.blocks.values():
            x = block(x)
        return x


class Pipeline:
    """Forward and backward pass of a batch through all stages."""

    def __init__(
        self,
        stage: Stage,
        world: World,
        device: Device,
        micro_batches: int,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._stage = stage
        self._context = context
        self._device = device
        self._inputs = stage.module.embed_inputs
        self._widths: list[int] = []
        self.watch: Callable[[], AbstractContextManager[Any]] = (
            nullcontext  # a schedule mixes forward and backward passes: there is nothing to watch apart
        )
        group = world.mesh.get_group("pipeline")
        pipeline = PipelineStage(stage, world.rank, world.size, device.torch, group=group)
        self._schedule = Schedule1F1B(pipeline, micro_batches, loss_fn=self._loss)

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Leaves gradients; returns the mean loss on the last stage, and zero on the others."""
        inputs, targets = batch[: self._inputs], batch[self._inputs :]
        losses: list[Tensor] = []
        arguments: dict[str, Any] = {}
        if self._stage.last:
            arguments = {"target": self._pack(targets), "losses": losses}
        with self._context():
            self._schedule.step(*(inputs if self._stage.first else ()), **arguments)
        if not losses:
            return torch.zeros((), device=self._device.torch)
        return torch.stack([loss.detach() for loss in losses]).mean()

    def _pack(self, targets: tuple[Tensor, ...]) -> Tensor:
        """Schedules take one tensor of targets: those of a batch side by side."""
        columns = [target.flatten(1) if target.dim() > 1 else target[:, None] for target in targets]
        self._widths = [column.size(1) for column in columns]
        self._shapes = [target.shape[1:] for target in targets]
        return torch.cat(columns, dim=1)

    def _loss(self, x: Tensor, packed: Tensor) -> Tensor:
        columns = packed.split(self._widths, dim=1)
        targets = [column.reshape(-1, *shape) for column, shape in zip(columns, self._shapes, strict=True)]
        return self._stage.module.finish(x, *targets)


class TiedGradients:
    """Gradients of the tensors that the first and the last stage both use: their sum is that of the tensor."""

    def __init__(self, stage: Stage, world: World) -> None:
        own = {name: each for name, each in stage.module.named_parameters() if each.requires_grad}
        names = world.all(set(own))
        ends = [0, world.size - 1]
        self._group = dist.new_group(ends) if world.size > 1 else None  # every rank must make it
        shared = names[0] & names[-1] if world.size > 1 and world.rank in ends else set()
        self._parameters = [own[name] for name in sorted(shared)]
        self.counted_elsewhere = set(self._parameters) if stage.last else set()

    def reduce(self) -> None:
        for parameter in self._parameters:
            dist.all_reduce(parameter.grad, group=self._group)
