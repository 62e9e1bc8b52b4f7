"""Trains a few steps in a mode, as a case does, and shows what a record does not: gradients and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmbench.suite.layout import batches as batch_sizes
from llmbench.suite.layout import degrees
from llmbench.worker.device import Device
from llmbench.worker.loop import Trainer
from llmbench.worker.measure.parity import compare_gradients
from llmbench.worker.modes import apply, precision
from llmbench.worker.optimizer import adamw
from llmbench.worker.prepare import build
from llmbench.worker.world import World, gather_weights, place, unwrapped, whole

Job = dict[str, Any]
LAYOUT = {"tensor_parallel_size": None, "pipeline_micro_batches": 4, "scaling": "strong"}


@dataclass
class Found:
    """Of a training: whole tensors, whatever the ranks hold of them.

    Attributes:
        losses: of each step, over the global batch.
        gradients: of the first step, before they are clipped.
        weights: after the last step.
        parity: the first step's gradients against the reference, if the job names one.
    """

    losses: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    parity: dict[str, Any] | None


def laid_out(job: Job, world_size: int = 1) -> Job:
    """The job with its batches spread over so many ranks, as the suite does it."""
    mode = "+".join(job["mode"]) or "eager"
    settings = LAYOUT | job["config"]
    layout = degrees(mode, world_size, settings)
    return job | {"config": job["config"] | layout | batch_sizes(mode, settings, layout)}


def train(job: Job, steps: int = 1) -> Found:
    device, config, mode = Device("cpu"), job["config"], job["mode"]
    world = place(mode, config, device) if dist.is_initialized() else World()
    _, model, batches = build(job)
    execution = apply(precision.cast(model, mode), mode, device, config, world)
    optimizer = adamw(execution.model, config["learning_rate"], config["weight_decay"], "fused" in mode)
    own = tuple(tensor.chunk(world.data_size, dim=1)[world.data_rank] for tensor in batches)
    trainer = Trainer(execution, own, optimizer, lambda step: config["learning_rate"], config["clip_norm"])
    parity, gradients = None, {}
    for step in range(steps):
        trainer.compute_gradients()
        if step == 0:
            gradients = gather_gradients(execution.model, world)
            if job.get("gradients"):
                parity = compare_gradients(execution.model, world, job["gradients"], job["precision"])
        trainer.update()
    losses = trainer.losses[:steps].clone()
    if "pp" in mode:
        dist.all_reduce(losses)
    return Found(world.data_mean(losses).tolist(), gradients, gather_weights(execution.model, world), parity)


def gather_gradients(model: torch.nn.Module, world: World) -> dict[str, Tensor]:
    own = {
        name: whole(each.grad).detach().clone()
        for name, each in unwrapped(model).named_parameters()
        if each.grad is not None
    }
    return {name: tensor for part in world.all(own) for name, tensor in part.items()}
