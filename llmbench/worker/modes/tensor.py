"""Tensor parallelism: whole heads of attention, and parts of each MLP, on every rank (Shoeybi et al. 2019, Megatron)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from llmbench.worker.methods.lora import LoRALinear
from llmbench.worker.modes.blocks import blocks
from llmbench.worker.world import World

# The first product of each pair is split by its outputs, the second by its inputs: one all-reduce for the pair.
PLAN = {
    "attention.qkv": ColwiseParallel,
    "attention.proj": RowwiseParallel,
    "mlp.fc": ColwiseParallel,
    "mlp.proj": RowwiseParallel,
}


def apply_tensor_parallel(model: nn.Module, world: World) -> nn.Module:
    """Splits the linear layers of every block; embeddings, norms and the head stay whole on every rank."""
    for block in blocks(model):
        plan: dict[str, Any] = {name: style() for name, style in PLAN.items() if _there(block, name)}
        parallelize_module(block, world.mesh["tensor"], plan)
    return model


def _there(block: nn.Module, name: str) -> bool:
    module: Any = block
    for part in name.split("."):
        module = getattr(module, part, None)
    return isinstance(module, nn.Linear)
