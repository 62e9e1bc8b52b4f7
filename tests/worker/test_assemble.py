"""A case put together in its mode: all that trains it comes from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmbench.worker.assemble import assemble
from llmbench.worker.device import Device
from llmbench.worker.world import World

from .conftest import Job

CPU = Device("cpu")


def test_twice_the_same(job: Callable[..., Job]) -> None:
    one, other = (assemble(job("gpt"), CPU, World()) for _ in range(2))
    assert one.facts == other.facts
    for _ in range(3):
        one.trainer.step()
        other.trainer.step()
    assert one.losses()[:3] == other.losses()[:3]
    assert all(torch.isfinite(torch.tensor(one.losses()[:3])))
    another = assemble(job("gpt", seed=4321), CPU, World())
    assert {key for key in one.facts if one.facts[key] != another.facts[key]} == set(one.facts)


def test_parameters_and_frozen_weights(job: Callable[..., Job]) -> None:
    plain, lora = assemble(job("gpt"), CPU, World()), assemble(job("lora"), CPU, World())
    assert plain.frozen == {}
    assert plain.parameters["total"] == plain.parameters["trainable"]
    assert lora.frozen
    assert lora.parameters["trainable"] < lora.parameters["total"]
    assert lora.parameters["total"] - lora.parameters["trainable"] == plain.parameters["total"]


def test_each_data_rank_has_its_part_of_the_batch(job: Callable[..., Job]) -> None:
    whole = assemble(job("regression"), CPU, World()).trainer.batches
    parts = [
        assemble(job("regression"), CPU, World(rank=rank, size=2, data_rank=rank, data_size=2)).trainer.batches
        for rank in range(2)
    ]
    for number, tensor in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts], dim=1), tensor)


@pytest.mark.parametrize("given", [True, False])
def test_the_heartbeat_counts_if_there_is_one(job: Callable[..., Job], given: bool, tmp_path: Path) -> None:
    file = tmp_path / "steps"
    file.touch()
    assembled = assemble(job("regression") | ({"heartbeat": str(file)} if given else {}), CPU, World())
    for _ in range(3):
        assembled.trainer.step()
    assert int.from_bytes(file.read_bytes()[:8], "little") == (3 if given else 0)
