"""Several ranks train what one process trains."""

from __future__ import annotations

import math

import pytest
import torch

from llmbench.suite.modes import refusal
from llmbench.worker.measure.communication import measure_communication

from .conftest import STEPS, Case, Train
from .ranks import Ranks
from .training import CPU, Found, Job, Tensors, prepared, train

PARALLEL = ("ddp", "fsdp", "hsdp", "tp", "pp", "fsdp+tp")
WITH = ("bf16", "fp16", "bf16-params", "fused", "ac", "sac", "accum4", "chunked-ce", "sdpa-math", "sdpa-flash")
COMBINED = (
    "bf16+accum4+ddp",
    "bf16+fused+ac+chunked-ce+fsdp",
    "bf16+sac+accum4+fsdp",
    "bf16-params+accum4+fsdp",
    "bf16+ac+hsdp",
    "bf16+accum4+chunked-ce+tp",
    "bf16+ac+pp",
    "bf16+ac+fsdp+tp",
)
HALF = {"bf16", "fp16", "bf16-params"}


PAIRS = [f"{other}+{mode}" for mode in PARALLEL for other in WITH if refusal([other, *mode.split("+")]) is None]
FEW = {mode for mode in PAIRS if mode.endswith(("ddp", "+fsdp", "pp")) or mode in ("bf16+tp", "ac+tp", "bf16+fsdp+tp")}


def check(found: Found, right: Found, mode: str) -> None:
    """Gradients, moments, losses and weights are those of one process."""
    assert found.parity["passed"], found.parity
    assert found.parity["value"] <= 0.5 * found.parity["limit"], "healthy, but close to the limit"
    half = bool(HALF & set(mode.split("+")))
    assert found.losses == pytest.approx(right.losses, rel=5e-3 if half else 1e-5)
    assert set(found.gradients) == set(right.gradients)
    assert norm(found.gradients) == pytest.approx(norm(right.gradients), rel=2e-2 if half else 1e-5)
    assert norm(found.moments) == pytest.approx(norm(right.moments), rel=2e-2 if half else 1e-5)
    if not half:  # Adam makes much of the sign of a small gradient, so in half precision weights go their own way
        assert_near(found.weights, right.weights)


def norm(tensors: Tensors) -> float:
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors.values()))


def assert_near(mine: Tensors, right: Tensors) -> None:
    assert set(mine) == set(right)
    for name, tensor in right.items():
        torch.testing.assert_close(
            mine[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_same(mine: Tensors, right: Tensors) -> None:
    assert set(mine) == set(right)
    assert [name for name, tensor in right.items() if not torch.equal(mine[name], tensor)] == []


@pytest.mark.parametrize("family", ["gpt", "bert", "lora"])
@pytest.mark.parametrize("mode", PARALLEL)
def test_two_ranks_train_as_one(mode: str, family: str, two: Ranks, case: Case, eager: Train) -> None:
    for found in two.call(train, case(family, mode, 2), STEPS):  # what each rank gathered is the same
        check(found, eager(family), mode)


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "hsdp", "pp", "bf16-params+pp"])
def test_a_perceptron_is_trained_too(mode: str, two: Ranks, case: Case, eager: Train) -> None:
    hidden = {"model": {"d_hidden": 8, "n_hidden": 2}}
    found, _ = two.call(train, case("regression", mode, 2, **hidden), STEPS)
    check(found, eager("regression", **hidden), mode)


@pytest.mark.parametrize(
    "mode",
    [mode if mode in FEW else pytest.param(mode, marks=pytest.mark.slow) for mode in (*PAIRS, *COMBINED)],
)
def test_with_every_other_ingredient(mode: str, two: Ranks, case: Case, eager: Train) -> None:
    found, _ = two.call(train, case("gpt", mode, 2), STEPS)
    check(found, eager("gpt"), mode)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "lora"])
@pytest.mark.parametrize("mode", [*PAIRS, *COMBINED])
def test_the_same_of_bert_and_lora(mode: str, family: str, two: Ranks, case: Case, eager: Train) -> None:
    found, _ = two.call(train, case(family, mode, 2), STEPS)
    check(found, eager(family), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*PARALLEL, "bf16+fsdp+tp", "accum4+fsdp+tp", "ac+hsdp"])
def test_four_ranks_train_as_one(mode: str, four: Ranks, case: Case, eager: Train) -> None:
    changes = {"model": {"n_layer": 4, "n_head": 4}, "micro_batch_size": 16}
    for found in four.call(train, case("gpt", mode, 4, **changes), STEPS):
        check(found, eager("gpt", **changes), mode)


@pytest.mark.parametrize("family", ["gpt", "bert", "lora"])
@pytest.mark.parametrize("mode", ["ddp", "fsdp", "hsdp", "ac+ddp", "sac+fsdp"])
def test_a_world_of_one_is_bitwise_eager(mode: str, family: str, one: Ranks, case: Case, eager: Train) -> None:
    [found] = one.call(train, case(family, mode, 1, clip_norm=0.05), 4)
    right = eager(family, 4, clip_norm=0.05)
    assert norm(right.gradients) > 0.05  # so it was clipped, too
    assert found.losses == right.losses
    assert_same(found.gradients, right.gradients)
    assert_same(found.moments, right.moments)
    assert_same(found.weights, right.weights)


@pytest.mark.parametrize("mode", PARALLEL)
def test_gradients_are_clipped_to_one_global_norm(mode: str, two: Ranks, case: Case, eager: Train) -> None:
    found, _ = two.call(train, case("gpt", mode, 2, clip_norm=0.01), 1)
    right = eager("gpt", 1, clip_norm=0.01)
    assert norm(right.moments) == pytest.approx(0.1 * 0.01, rel=1e-4)  # of the clipped gradient, a tenth
    assert norm(found.moments) == pytest.approx(norm(right.moments), rel=1e-5)
    for name, moment in right.moments.items():
        torch.testing.assert_close(found.moments[name], moment, rtol=1e-4, atol=1e-9)


# What the ranks hold


def test_fsdp_holds_a_half_of_every_tensor(two: Ranks, case: Case) -> None:
    found = two.call(train, case("gpt", "fsdp", 2), 1)
    for rank in found:
        whole = {name: tensor.numel() for name, tensor in rank.weights.items()}
        assert {name: 2 * math.prod(shape) for name, shape in rank.held.items()} == whole


def test_hsdp_of_two_ranks_is_two_copies(two: Ranks, case: Case) -> None:
    for rank in two.call(train, case("gpt", "hsdp", 2), 1):
        assert rank.held == {name: tuple(tensor.shape) for name, tensor in rank.weights.items()}


@pytest.mark.parametrize("family", ["gpt", "lora"])
def test_tp_splits_attention_and_mlp_and_nothing_else(family: str, two: Ranks, case: Case) -> None:
    found, _ = two.call(train, case(family, "tp", 2), 1)
    split = {name for name, tensor in found.weights.items() if found.held[name] != tuple(tensor.shape)}
    by_outputs = {"gpt": ("qkv.weight", "qkv.bias"), "lora": ("qkv.base.weight", "qkv.base.bias", "qkv.B")}[family]
    by_inputs = {"gpt": ("proj.weight",), "lora": ("proj.base.weight", "proj.A")}[family]
    names = [f"attention.{name}" for name in (*by_outputs, *by_inputs)]
    names += ["mlp.fc.weight", "mlp.fc.bias", "mlp.proj.weight"]
    assert split == {f"blocks.{block}.{name}" for block in range(2) for name in names}
    assert found.held["blocks.0.mlp.fc.weight"] == (32, 16)
    assert found.held["blocks.0.mlp.proj.weight"] == (16, 32)


def test_a_pipeline_holds_each_block_once_and_the_tied_embedding_at_both_ends(two: Ranks, case: Case) -> None:
    first, last = two.call(train, case("gpt", "pp", 2), 1)
    assert {name.split(".")[1] for name in first.held if name.startswith("blocks")} == {"0"}
    assert {name.split(".")[1] for name in last.held if name.startswith("blocks")} == {"1"}
    assert set(first.held) & set(last.held) == {"token_embedding.weight"}
    assert "position_embedding.weight" in first.held
    assert "norm.weight" in last.held


def test_lora_trains_only_its_update_however_it_is_split(two: Ranks, case: Case) -> None:
    for mode in PARALLEL:
        found, _ = two.call(train, case("lora", mode, 2), 1)
        assert {name.rsplit(".", 1)[1] for name in found.gradients} == {"A", "B"}
        assert {name.rsplit(".", 1)[1] for name in found.moments} == {"A", "B"}


# Time in communication


def communicated(job: Job) -> dict[str, object] | None:
    trainer, _, _ = prepared(job | {"config": job["config"] | {"learning_rate": 0.0, "weight_decay": 0.0}})
    return measure_communication(trainer, CPU)


@pytest.mark.parametrize("mode", ["ddp", "fsdp+tp", "pp"])
def test_every_rank_sees_its_collectives(mode: str, two: Ranks, case: Case) -> None:
    for found in two.call(communicated, case("gpt", mode, 2)):
        assert found is not None
        assert 0 < found["seconds_per_step"] < found["step_seconds"]
        assert found["source"] == "torch.profiler, gloo"


# Compiled


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.parametrize(
    "mode",
    [
        "compile+ddp",
        "compile+fsdp",
        "compile+tp",
        "compile+pp",
        "compile-blocks+fsdp",
        "compile-blocks+bf16+ac+fsdp",
        "compile-blocks+accum4+ddp",
        "compile-blocks+bf16+pp",
        "compile-blocks+fsdp+tp",
    ],
)
def test_compiled_ranks_train_as_one(mode: str, compiling: Ranks, case: Case, eager: Train) -> None:
    found, _ = compiling.call(train, case("gpt", mode, 2), STEPS)
    assert found.graphs > 0
    check(found, eager("gpt"), mode)
