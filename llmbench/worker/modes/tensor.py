"""Tensor parallelism: whole heads of attention and parts of each MLP on every rank (Megatron, Shoeybi et al. 2019)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor

from llmbench.worker.modes.blocks import blocks
from llmbench.worker.world import World

# The first product of each pair is split by its outputs, the second by its inputs: one all-reduce for the pair.
BY_OUTPUTS = ("attention.qkv", "mlp.fc")
BY_INPUTS = ("attention.proj", "mlp.proj")

# How the tensors of a layer are split; those of LoRA so that its update is split as the base is.
WHOLE = Replicate()
OF_OUTPUTS = {"weight": Shard(0), "bias": Shard(0), "A": WHOLE, "B": Shard(0)}
OF_INPUTS = {"weight": Shard(1), "bias": WHOLE, "A": Shard(1), "B": WHOLE}


def apply_tensor_parallel(model: nn.Module, world: World) -> nn.Module:
    """Splits the linear layers of every block; embeddings, norms and the head stay whole on every rank."""
    for block in blocks(model):
        for name in BY_OUTPUTS:
            _split(block.get_submodule(name), world.mesh["tensor"], OF_OUTPUTS, WHOLE, Shard(-1))
        for name in BY_INPUTS:
            _split(block.get_submodule(name), world.mesh["tensor"], OF_INPUTS, Shard(-1), WHOLE)
    return model


def _split(layer: nn.Module, mesh: Any, placements: dict[str, Any], takes: Any, gives: Any) -> None:
    """Splits an ``nn.Linear`` or ``LoRALinear`` that takes and gives plain tensors: this rank's part, or the whole."""

    def partition(name: str, module: nn.Module, mesh: Any) -> None:
        for key, parameter in list(module.named_parameters(recurse=False)):
            split = distribute_tensor(parameter.detach(), mesh, [placements[key]])
            module.register_parameter(key, nn.Parameter(split, requires_grad=parameter.requires_grad))

    distribute_module(layer, mesh, partition, partial(_distributed, takes), partial(_local, gives))


def _distributed(takes: Any, layer: nn.Module, inputs: tuple[Tensor], mesh: Any) -> DTensor:
    return DTensor.from_local(inputs[0], mesh, [takes], run_check=False)


def _local(gives: Any, layer: nn.Module, output: DTensor, mesh: Any) -> Tensor:
    return output.redistribute(placements=[gives]).to_local()
