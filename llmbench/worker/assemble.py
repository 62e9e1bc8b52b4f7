"""A case put together: workload, model in its mode, and this rank's batches as one training step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.events import Heartbeat
from llmbench.worker.loop import Trainer
from llmbench.worker.measure.parity import weights_fingerprint
from llmbench.worker.modes import Execution, apply, precision
from llmbench.worker.optimizer import adamw, warmup_cosine
from llmbench.worker.prepare import build
from llmbench.worker.tensors import fingerprint, frozen_weights
from llmbench.worker.world import World


@dataclass
class Assembled:
    """A case that can train.

    Attributes:
        facts: fingerprints of first weights and batches.
        frozen: of the weights that are not to be trained, by name.
        parameters: how many, ``total`` and ``trainable``, of the model before it was split.
    """

    workload: Any
    execution: Execution
    trainer: Trainer
    facts: dict[str, str]
    frozen: dict[str, str]
    parameters: dict[str, int]
    world: World
    mode: list[str]

    def losses(self) -> list[float]:
        """Of every training step. All ranks must ask."""
        losses = self.trainer.losses[:-1]
        if "pp" in self.mode:  # they are known on the last stage, and zero on the others
            dist.all_reduce(losses)
        return self.world.data_mean(losses).tolist()


def assemble(job: dict[str, Any], device: Device, world: World) -> Assembled:
    """Builds a case in its mode.

    Args:
        job: as for ``worker/case.py``'s ``run_case``.
    """
    config, mode = job["config"], job["mode"]
    workload, model, batches = build(job)
    facts = {"batches_sha256": fingerprint(*batches), "weights_sha256": weights_fingerprint(model)}
    model = precision.cast(model.to(device.torch), mode)
    workload.before(model)
    frozen, parameters = frozen_weights(model), _count(model)
    execution = apply(model, mode, device, config, world)
    optimizer = adamw(execution.model, config["learning_rate"], config["weight_decay"], "fused" in mode)
    schedule = warmup_cosine(config["learning_rate"], config["steps"], config["warmup_fraction"])
    heartbeat = Heartbeat(job["heartbeat"], int(os.environ.get("RANK", 0))) if job.get("heartbeat") else None
    own = device.move(_own(batches, world))
    trainer = Trainer(execution, own, optimizer, schedule, config["clip_norm"], heartbeat)
    return Assembled(workload, execution, trainer, facts, frozen, parameters, world, mode)


def _own(batches: tuple[Tensor, ...], world: World) -> tuple[Tensor, ...]:
    """This rank's part of every batch."""
    if world.data_size == 1:
        return batches
    return tuple(tensor.chunk(world.data_size, dim=1)[world.data_rank] for tensor in batches)


def _count(model: nn.Module) -> dict[str, int]:
    return {
        "total": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
