"""The processes that train a case together: who they are, and what they tell each other.

A case without a parallel mode is a world of one that needs no process group. All others get their group from
torch's elastic launcher (``ranks.py``), a world of one included.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from llmbench.worker.device import Device

# Groups that were left, until the process ends. DDP's reducer refers to its group, and is freed with the GIL held: were
# its reference the last one, it would wait for gloo's threads, one of which may still wait for the GIL.
_LEFT: list[Any] = []


@dataclass
class World:
    """This process among those of its case.

    Attributes:
        data_rank: which part of the global batch is this rank's; ranks that split a model share one.
        data_size: parts of the global batch.
        mesh: the ranks by dimension (data, replicate, shard, tensor, pipeline); None in a world of one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    data_rank: int = 0
    data_size: int = 1
    mesh: Any = None
    host: str = field(default_factory=socket.gethostname)

    def all(self, value: Any) -> list[Any]:
        """What every rank has, by rank. All of them must ask."""
        if self.mesh is None:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def data_mean(self, tensor: Tensor) -> Tensor:
        """The mean over the parts of the global batch."""
        if self.data_size == 1:
            return tensor
        # Ranks that split a model hold the same value, so the mean over all ranks is that over the parts.
        dist.all_reduce(tensor)
        return tensor / self.size

    def leave(self) -> None:
        if self.mesh is not None:
            _LEFT.extend([dist.group.WORLD, *self.mesh.get_all_groups()])
            dist.destroy_process_group()


def join(mode: list[str], config: dict[str, Any], device: Device) -> World:
    """The world of this process, from the variables that the launcher set; a world of one without them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return World()
    # A rank that waits for another is watched over by the deadline of the case, which can tell who is missing.
    patience = timedelta(seconds=2 * config["deadline_seconds"] + 60)
    # What FSDP keeps in host memory is reduced there.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.cuda else "gloo", timeout=patience)
    return place(mode, config, device)


def place(mode: list[str], config: dict[str, Any], device: Device) -> World:
    """This process in the mesh of a case, within the process group that there is."""
    rank, shape = dist.get_rank(), mesh_shape(mode, config)
    mesh = init_device_mesh(device.kind, tuple(shape.values()), mesh_dim_names=tuple(shape))
    return World(
        rank=rank,
        size=dist.get_world_size(),
        local_rank=int(os.environ["LOCAL_RANK"]),
        data_rank=rank // (config["tensor_parallel"] * config["pipeline_stages"]),
        data_size=config["data_parallel"],
        mesh=mesh,
    )


def mesh_shape(mode: list[str], config: dict[str, Any]) -> dict[str, int]:
    """The dimensions of the mesh, the slowest first: neighbours split a model, as they are best connected."""
    data, tensor, stages = config["data_parallel"], config["tensor_parallel"], config["pipeline_stages"]
    if "hsdp" in mode:
        replicate = smallest_factor(data)
        return {"replicate": replicate, "shard": data // replicate}
    if "pp" in mode:
        return {"pipeline": stages}
    if "tp" in mode:
        return {"data": data, "tensor": tensor}
    return {"data": data}


def smallest_factor(number: int) -> int:
    """The smallest prime factor; of 1 it is 1."""
    return next((factor for factor in range(2, number + 1) if number % factor == 0), 1)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model as written, or this rank's part of it, under the wrappers that have it as ``module``."""
    wrappers = ("DistributedDataParallel", "Stage")
    return model.module if type(model).__name__ in wrappers else model


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its shards; every rank that holds one must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gather_weights(model: nn.Module, world: World) -> dict[str, Tensor]:
    """The weights and buffers of a model that is split over the ranks, whole and on the CPU."""
    own = {name: whole(tensor.detach()).cpu() for name, tensor in unwrapped(model).state_dict().items()}
    if world.mesh is None or "pipeline" not in world.mesh.mesh_dim_names:
        return own
    return {name: tensor for stage in world.all(own) for name, tensor in stage.items()}
