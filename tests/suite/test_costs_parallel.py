"""The estimate of one rank's memory against what torch really holds, among ranks that only seem to be there.

torch's "fake" process group has any number of ranks and moves nothing: values are wrong, memory is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from llmbench.suite.costs import memory_bytes
from llmbench.worker.device import Device
from llmbench.worker.modes.parallel import apply_data_parallel
from llmbench.worker.modes.tensor import apply_tensor_parallel
from llmbench.worker.optimizer import by_placement
from llmbench.worker.world import World, mesh_shape
from tests.suite.training_steps import Step, Storages, context, in_mode

RANKS = 4
MODEL = {"vocab_size": 2000, "n_positions": 128, "n_layer": 4, "n_head": 4, "d_model": 128}
FEW_WORDS = MODEL | {"vocab_size": 128}
STEPS = {
    "gpt": Step("gpt", MODEL, 4, 128),
    "gpt-few-words": Step("gpt", FEW_WORDS, 4, 128),
    "gpt-short": Step("gpt", MODEL, 1, 16),
    "lora": Step("lora", MODEL, 4, 128, lora_rank=8),
    "bert": Step("bert", MODEL | {"d_ff": 512, "n_segments": 2}, 4, 128, masked=19),
    "hf-gpt2": Step("hf-gpt2", MODEL, 4, 128),
}
SHARDED = ["fsdp", "bf16+fsdp", "bf16-params+fsdp", "ac+fsdp", "bf16+sac+fsdp", "hsdp", "accum4+fsdp"]
SPLIT = ["tp", "bf16+tp", "ac+tp", "fsdp+tp"]
FEW = ["fsdp", "tp", "fsdp+tp"]


def marks(name: str, mode: str) -> list[pytest.MarkDecorator]:
    peer = [pytest.mark.hf] if "hf" in name else []
    return peer + ([] if name == "gpt" or mode in FEW else [pytest.mark.slow])


CASES = [
    pytest.param(step, mode, id=f"{name}-{mode}", marks=marks(name, mode))
    for name, step in STEPS.items()
    for mode in [*SHARDED, *(SPLIT if step.family in ("gpt", "bert", "lora") else [])]
]


@pytest.fixture(autouse=True)
def ranks() -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()
    torch.set_num_threads(threads)


def degrees(mode: str) -> dict[str, int]:
    tensor = {"tp": RANKS, "fsdp+tp": 2}.get("+".join(part for part in mode.split("+") if part in ("fsdp", "tp")), 1)
    return {"data_parallel": RANKS // tensor, "tensor_parallel": tensor, "pipeline_stages": 1}


def local(tensor: Tensor) -> Tensor:
    return getattr(tensor, "_local_tensor", tensor)


def held_and_peak(step: Step, mode: str, micro_batches: int) -> tuple[int, int]:
    """Bytes of parameters and moments, and the most in an optimizer step, of rank 0."""
    parts = mode.split("+")
    shape = mesh_shape(parts, degrees(mode))
    mesh = init_device_mesh("cpu", tuple(shape.values()), mesh_dim_names=tuple(shape))
    world = World(size=RANKS, data_size=degrees(mode)["data_parallel"], mesh=mesh)
    network, inputs = in_mode(step, parts)
    if "tp" in parts:
        apply_tensor_parallel(network, world)
    network, sync = apply_data_parallel(network, parts, world, Device("cpu"))
    parameters = list(network.parameters())
    optimizers = [torch.optim.AdamW(group, fused=True) for group in by_placement(parameters)]

    def train() -> None:
        for index in range(micro_batches):
            with sync(index == micro_batches - 1), context(parts):
                loss = network(*inputs)
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    train()
    moments = [local(t) for o in optimizers for state in o.state.values() for t in state.values()]
    with Storages([*map(local, parameters), *moments]) as storages:
        held = storages.now
        train()
    return held, storages.peak


@pytest.mark.slow
@pytest.mark.parametrize(("step", "mode"), CASES)
def test_one_rank_holds_what_is_estimated(step: Step, mode: str) -> None:
    micro_batches = 4 if "accum4" in mode else 1
    estimate = memory_bytes(
        **step.arguments(), mode=["fused", *mode.split("+")], **degrees(mode), grad_accum=micro_batches
    )
    held, peak = held_and_peak(step, mode, micro_batches)
    assert estimate["parameters"] + estimate["optimizer"] == pytest.approx(held, rel=0.01)
    assert estimate["total"] == pytest.approx(peak, rel=0.15)


def test_hsdp_shards_over_what_its_copies_leave() -> None:
    def estimate(mode: str, ranks: int) -> dict[str, Any]:
        return memory_bytes("gpt", MODEL, 4, 128, mode=[mode], data_parallel=ranks)

    assert estimate("hsdp", 8) == estimate("fsdp", 4)
    assert estimate("hsdp", 15) == estimate("fsdp", 5)
    assert estimate("hsdp", 2) == estimate("hsdp", 1) == estimate("fsdp", 1)


def test_offloaded_shards_leave_what_is_gathered() -> None:
    fsdp, offloaded = (
        memory_bytes("gpt", MODEL, 4, 128, mode=["fused", *more, "fsdp"], data_parallel=4)
        for more in ([], ["cpu-offload"])
    )
    assert [offloaded[kind] for kind in ("parameters", "gradients", "optimizer")] == [0, 0, 0]
    assert offloaded["activations"] == fsdp["activations"]
    assert offloaded["total"] == fsdp["total"] - fsdp["parameters"] - fsdp["optimizer"]
