"""Copies and shards of a model over the ranks: DDP and FSDP2."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.modes.blocks import blocks
from llmbench.worker.modes.precision import HALF
from llmbench.worker.world import World

Sync = Callable[[bool], AbstractContextManager[Any]]
"""A maker of the context of one micro-batch, told whether it is the last, after which gradients are reduced."""


def no_sync_needed(last: bool) -> AbstractContextManager[Any]:
    return nullcontext()


def apply_data_parallel(model: nn.Module, mode: list[str], world: World, device: Device) -> tuple[nn.Module, Sync]:
    """The model with its gradients averaged over the parts of the global batch."""
    if "ddp" in mode:
        return _ddp(model, world, device)
    if "fsdp" in mode or "hsdp" in mode:
        return _fsdp(model, mode, world)
    return model, no_sync_needed


def _ddp(model: nn.Module, world: World, device: Device) -> tuple[nn.Module, Sync]:
    # Gradients live in the buckets: no copy to and fro, and no second set of them in memory.
    wrapped = nn.parallel.DistributedDataParallel(
        model, device_ids=[world.local_rank] if device.cuda else None, gradient_as_bucket_view=True
    )

    def sync(last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else wrapped.no_sync()

    return wrapped, sync


def _fsdp(model: nn.Module, mode: list[str], world: World) -> tuple[nn.Module, Sync]:
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    # Gradients are summed in fp32 whatever the arithmetic: sums over many ranks would lose small ones.
    precision = {
        "param_dtype": next((dtype for part, dtype in (HALF | {"fp8": torch.bfloat16}).items() if part in mode), None),
        "reduce_dtype": torch.float32,
    }
    options = {
        "mesh": world.mesh["data"] if "tp" in mode else world.mesh,
        "offload_policy": CPUOffloadPolicy() if "cpu-offload" in mode else OffloadPolicy(),
    }
    for block in blocks(model):
        fully_shard(block, mp_policy=MixedPrecisionPolicy(**precision), **options)
    # The tensors of a batch are the model's business: what is no activation is not to be rounded.
    fully_shard(model, mp_policy=MixedPrecisionPolicy(**precision, cast_forward_inputs=False), **options)

    def sync(last: bool) -> AbstractContextManager[Any]:
        model.set_requires_gradient_sync(last)
        return nullcontext()

    return model, sync
