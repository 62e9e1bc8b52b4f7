"""Trains a few steps in a mode, as a case does, and shows what a record does not: gradients, moments and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters

from llmbench.suite.layout import batches as batch_sizes
from llmbench.suite.layout import degrees
from llmbench.worker.device import Device
from llmbench.worker.loop import Trainer
from llmbench.worker.measure.parity import compare_gradients
from llmbench.worker.modes import Execution, apply, compile, precision
from llmbench.worker.optimizer import adamw
from llmbench.worker.prepare import build
from llmbench.worker.world import World, gather_weights, place, unwrapped, whole

Job = dict[str, Any]
Tensors = dict[str, Tensor]
CPU = Device("cpu")
LAYOUT = {"tensor_parallel_size": None, "pipeline_micro_batches": 4, "scaling": "strong"}


@dataclass
class Found:
    """Of a training: whole tensors by name, whatever the ranks hold of them.

    Attributes:
        losses: of each step, over the global batch.
        gradients: of the first step, before they are clipped.
        moments: the optimizer's first ones after the first step, a tenth of the clipped gradients.
        weights: after the last step.
        parity: the first step's gradients against the reference.
        held: shapes of the parameters that this rank holds.
        graphs: that were compiled.
    """

    losses: list[float]
    gradients: Tensors
    moments: Tensors
    weights: Tensors
    parity: dict[str, Any]
    held: dict[str, tuple[int, ...]]
    graphs: int


def laid_out(job: Job, world_size: int = 1) -> Job:
    """The job with its batches spread over so many ranks, as the suite does it."""
    mode = "+".join(job["mode"]) or "eager"
    settings = LAYOUT | job["config"]
    layout = degrees(mode, world_size, settings)
    return job | {"config": job["config"] | layout | batch_sizes(mode, settings, layout)}


def prepared(job: Job) -> tuple[Trainer, Execution, World]:
    """A trainer of this rank's part, within the process group if there is one."""
    config, mode = job["config"], job["mode"]
    world = place(mode, config, CPU) if dist.is_initialized() else World()
    _, model, batches = build(job)
    execution = apply(precision.cast(model, mode), mode, CPU, config, world)
    optimizer = adamw(execution.model, config["learning_rate"], config["weight_decay"], "fused" in mode)
    own = tuple(tensor.chunk(world.data_size, dim=1)[world.data_rank] for tensor in batches)
    trainer = Trainer(execution, own, optimizer, lambda step: config["learning_rate"], config["clip_norm"])
    return trainer, execution, world


def train(job: Job, steps: int) -> Found:
    """Trains so many steps; all ranks must."""
    compiled = bool(compile.SCOPES.keys() & set(job["mode"]))
    if compiled:
        torch.compiler.reset()
        counters.clear()
    trainer, execution, world = prepared(job)
    model = execution.model
    state = trainer.optimizer.state
    for step in range(steps):
        trainer.compute_gradients()
        if step == 0:
            gradients = gather(model, world, lambda parameter: parameter.grad)
            parity = compare_gradients(model, world, job["gradients"], job["precision"])
        trainer.update()
        if step == 0:
            moments = gather(model, world, lambda parameter: state.get(parameter, {}).get("exp_avg"))
    losses = trainer.losses[:steps].clone()
    if "pp" in job["mode"]:
        dist.all_reduce(losses)
    return Found(
        losses=world.data_mean(losses).tolist(),
        gradients=gradients,
        moments=moments,
        weights=gather_weights(model, world),
        parity=parity,
        held={name: tuple(local(each).shape) for name, each in unwrapped(model).named_parameters()},
        graphs=compile.facts()["graphs"] if compiled else 0,
    )


def gather(model: nn.Module, world: World, of: Callable[[nn.Parameter], Tensor | None]) -> Tensors:
    """A tensor of each parameter that has one, whole; in a pipeline those of all stages."""
    own = {name: of(parameter) for name, parameter in unwrapped(model).named_parameters()}
    found = {name: whole(tensor.detach()).clone() for name, tensor in own.items() if tensor is not None}
    return {name: tensor for part in world.all(found) for name, tensor in part.items()}


def local(tensor: Tensor) -> Tensor:
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()
