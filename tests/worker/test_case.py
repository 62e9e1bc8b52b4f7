from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.suite import costs
from llmbench.worker.case import run_case, train_base
from llmbench.worker.methods.lora import LoRALinear

from .conftest import OURS, Events, Job, configuration


@pytest.mark.slow
@pytest.mark.parametrize("family", OURS)
def test_the_same_case_gives_bitwise_the_same_losses(family: str, job: Callable[..., Job]) -> None:
    one, again = (run_case(job(family), Events()) for _ in range(2))
    assert one["losses"] == again["losses"]
    assert one["eval_loss"] == again["eval_loss"]
    assert one["metrics"] == again["metrics"]
    assert one["references"] == again["references"]
    assert one["facts"]["batches_sha256"] == again["facts"]["batches_sha256"]
    torch.manual_seed(99)  # nor does it matter what happened before in the process
    assert run_case(job(family), Events())["losses"] == one["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("family", OURS)
def test_another_seed_is_another_training_on_other_batches(family: str, job: Callable[..., Job]) -> None:
    one, other = (run_case(job(family, seed=seed), Events()) for seed in (1, 2))
    assert one["losses"][0] != other["losses"][0]
    assert one["facts"]["batches_sha256"] != other["facts"]["batches_sha256"]


@pytest.mark.parametrize("family", OURS)
def test_what_a_case_tells(family: str, job: Callable[..., Job], events: Events) -> None:
    found = run_case(job(family, steps=20), events)
    assert events.phases == ["build", "compile", "warmup", "timed", "evaluate"]
    assert set(found["phases"]) == {"import", "build", "compile", "warmup", "timed", "evaluate"}
    assert all(seconds > 0 for seconds in found["phases"].values())
    assert len(found["losses"]) == 20
    assert len(found["step_seconds"]) == 19
    assert found["window_seconds"] == pytest.approx(sum(found["step_seconds"][found["first_timed_step"] - 1 :]))
    assert math.isfinite(found["eval_loss"])
    assert found["wrong"] == []
    assert all(math.isfinite(reference["value"]) for reference in found["references"])
    assert found["input_wait_seconds"] > 0
    assert (found["energy"] is None) == (found["energy_reason"] is not None)
    assert found["peak"] is None  # a CPU has no data sheet here
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("family", OURS)
def test_the_parameters_are_those_of_the_plan(family: str, job: Callable[..., Job]) -> None:
    config = configuration(family)
    total, trainable = costs.parameters(family, {"n_segments": 2} | config["model"], lora_rank=config["lora_rank"])
    found = run_case(job(family), Events())["parameters"]
    assert found == {"total": total, "trainable": trainable}


@pytest.mark.parametrize("family", OURS)
def test_every_workload_learns(family: str, job: Callable[..., Job]) -> None:
    found = run_case(job(family, steps=100, learning_rate=0.1 if family == "regression" else 1e-2), Events())
    losses = found["losses"]
    fall = 0.98 if family == "lora" else 0.9  # its base knows the words already
    assert sum(losses[-10:]) / 10 < fall * losses[0]
    assert found["eval_loss"] < fall * losses[0]


@pytest.mark.parametrize("family", OURS)
def test_bf16_stays_near_fp32_on_the_same_batches(family: str, job: Callable[..., Job]) -> None:
    fp32, bf16 = (run_case(job(family, mode), Events()) for mode in ([], ["bf16"]))
    assert fp32["facts"]["batches_sha256"] == bf16["facts"]["batches_sha256"]
    assert bf16["losses"] != fp32["losses"]
    assert bf16["losses"] == pytest.approx(fp32["losses"], rel=0.03)


def test_the_input_wait_is_that_of_the_window_only(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    from llmbench.worker.loop import Trainer

    waits: list[int] = []
    original = Trainer._next_batch

    def spied(self: Trainer) -> Any:
        batch = original(self)
        waits.append(self.done)
        self.input_wait += 1.0
        return batch

    monkeypatch.setattr(Trainer, "_next_batch", spied)
    found = run_case(job("regression", steps=20), Events())
    assert int(found["input_wait_seconds"]) == 20 - found["first_timed_step"] < len(waits)


# LoRA's base


def test_a_base_that_training_moves_is_wrong(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_case(job("lora"), Events())["facts"]["frozen_unchanged"] is True
    original = LoRALinear.forward

    @torch.no_grad()
    def move(layer: LoRALinear) -> None:
        weight = layer.base.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1e9))  # by the least that there is

    def moving(layer: LoRALinear, x_I: torch.Tensor) -> torch.Tensor:
        move(layer)
        return original(layer, x_I)

    monkeypatch.setattr(LoRALinear, "forward", moving)
    found = run_case(job("lora"), Events())
    assert found["facts"]["frozen_unchanged"] is False
    assert found["wrong"] == [
        "frozen weights changed: "
        + ", ".join(f"blocks.{name}.base.weight" for name in ("0.attention.qkv", "0.attention.proj", "1.attention.qkv"))
    ]


def test_a_model_without_frozen_weights_proves_nothing_of_them(job: Callable[..., Job]) -> None:
    assert "frozen_unchanged" not in run_case(job("gpt"), Events())["facts"]


def test_a_base_is_trained_and_kept(data: dict[str, Any], tmp_path: Path, events: Events) -> None:
    files = [tmp_path / name for name in ("one.pt", "two.pt")]
    losses = []
    for file in files:
        config = configuration("gpt", steps=20)
        losses.append(train_base({"config": config, "device": "cpu", "data": data, "weights": str(file)}, events))
    one, two = (torch.load(file, weights_only=True) for file in files)
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0]["eval_loss"])
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.pt", "two.pt"]
    assert events.phases == ["base", "base"]
