from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.world import World, gather_weights, join, mesh_shape, place, smallest_factor, unwrapped, whole
from tests.worker.modes.ranks import Ranks

CPU = Device("cpu")


def layout(data: int = 1, tensor: int = 1, stages: int = 1) -> dict[str, int]:
    return {"data_parallel": data, "tensor_parallel": tensor, "pipeline_stages": stages}


@pytest.fixture(scope="module")
def four() -> Iterator[Ranks]:
    ranks = Ranks(4)
    yield ranks
    ranks.close()


def test_without_a_launcher_it_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    world = join(["ddp"], layout(), CPU)
    assert (world.rank, world.size, world.data_rank, world.data_size, world.mesh) == (0, 1, 0, 1, None)
    assert world.all("mine") == ["mine"]
    assert world.data_mean(torch.tensor([1.0, 2.0])).tolist() == [1, 2]
    world.leave()  # there is nothing to leave


@pytest.mark.parametrize(
    ("mode", "config", "shape"),
    [
        (["ddp"], layout(4), {"data": 4}),
        (["bf16", "fsdp"], layout(3), {"data": 3}),
        (["hsdp"], layout(8), {"replicate": 2, "shard": 4}),
        (["hsdp"], layout(9), {"replicate": 3, "shard": 3}),
        (["hsdp"], layout(1), {"replicate": 1, "shard": 1}),
        (["tp"], layout(1, 4), {"data": 1, "tensor": 4}),
        (["fsdp", "tp"], layout(3, 2), {"data": 3, "tensor": 2}),
        (["pp"], layout(1, 1, 4), {"pipeline": 4}),
    ],
)
def test_the_mesh_of_a_mode(mode: list[str], config: dict[str, int], shape: dict[str, int]) -> None:
    assert mesh_shape(mode, config) == shape


@pytest.mark.parametrize(("number", "factor"), [(1, 1), (2, 2), (3, 3), (4, 2), (15, 3), (49, 7), (97, 97)])
def test_the_smallest_factor(number: int, factor: int) -> None:
    assert smallest_factor(number) == factor


def who(mode: list[str], config: dict[str, int]) -> dict[str, Any]:
    world = place(mode, config, CPU)
    return {
        "rank": world.rank,
        "size": world.size,
        "data": (world.data_rank, world.data_size),
        "ranks": world.all(world.rank * 10),
        "mean": world.data_mean(torch.tensor([float(world.data_rank)])).item(),
    }


@pytest.mark.parametrize(
    ("mode", "config", "data", "mean"),
    [
        (["ddp"], layout(4), [(0, 4), (1, 4), (2, 4), (3, 4)], 1.5),
        (["hsdp"], layout(4), [(0, 4), (1, 4), (2, 4), (3, 4)], 1.5),
        (["fsdp", "tp"], layout(2, 2), [(0, 2), (0, 2), (1, 2), (1, 2)], 0.5),
        (["tp"], layout(1, 4), [(0, 1)] * 4, 0.0),
        (["pp"], layout(1, 1, 4), [(0, 1)] * 4, 0.0),
    ],
)
def test_ranks_that_split_a_model_share_a_part_of_the_batch(
    mode: list[str], config: dict[str, int], data: list[tuple[int, int]], mean: float, four: Ranks
) -> None:
    found = four.call(who, mode, config)
    assert [rank["rank"] for rank in found] == [0, 1, 2, 3]
    assert {rank["size"] for rank in found} == {4}
    assert [rank["data"] for rank in found] == data
    assert {tuple(rank["ranks"]) for rank in found} == {(0, 10, 20, 30)}
    assert {rank["mean"] for rank in found} == {mean}


def test_a_rank_that_raises_ends_the_group_and_the_next_call_has_a_new_one(four: Ranks) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank \d: .*KeyError: 'data_parallel'"):
        four.call(who, ["ddp"], {})
    assert len(four.call(who, ["ddp"], layout(4))) == 4


def test_the_weights_of_one_process_are_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    found = gather_weights(model, World())
    assert set(found) == set(model.state_dict())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.items())
    assert unwrapped(model) is model
    assert whole(model[0].weight) is model[0].weight
