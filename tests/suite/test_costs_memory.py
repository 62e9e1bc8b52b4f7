"""The estimate of memory against what torch really holds, in every mode, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from llmbench.suite import activations
from llmbench.suite.costs import memory_bytes, parameters
from llmbench.worker.modes import chunked
from llmbench.worker.modes.chunked import chunk_rows
from llmbench.worker.modes.pipeline import Stage
from tests.suite.training_steps import (
    OURS,
    PEERS,
    Step,
    Storages,
    context,
    count,
    in_mode,
    kept_bytes,
    peak_bytes,
)

SMALL = {"vocab_size": 2000, "n_positions": 128, "n_layer": 4, "n_head": 4, "d_model": 128}
SMALL_BERT = SMALL | {"d_ff": 512, "n_segments": 2}
FEW_WORDS = {"vocab_size": 128}

MODES = [
    "eager",
    "bf16",
    "bf16-params",
    "sdpa-math",
    "bf16+ac",
    "sac",
    "bf16+sac+sdpa-math",
    "chunked-ce",
    "bf16+chunked-ce",
]
MORE_MODES = [
    "fp16",
    "bf16+sdpa-math",
    "bf16-params+sdpa-math",
    "ac",
    "bf16+sac",
    "bf16-params+sac",
    "sac+sdpa-math",
    "bf16-params+chunked-ce",
    "bf16+ac+chunked-ce",
]
STEPS = {
    "gpt": Step("gpt", SMALL, 4, 128),
    "gpt-few-words": Step("gpt", SMALL | FEW_WORDS, 4, 128),  # activations of the blocks dominate, not the logits
    "gpt-short": Step("gpt", SMALL, 1, 16),  # gradients dominate
    "lora": Step("lora", SMALL, 4, 128, lora_rank=8),
    "bert": Step("bert", SMALL_BERT, 4, 128, masked=19),
    "mlp": Step("regression", {"d_in": 64, "d_hidden": 512, "n_hidden": 2, "d_out": 1}, 1024),
    "hf-gpt2": Step("hf-gpt2", SMALL, 4, 128),
    "hf-bert": Step("hf-bert", SMALL_BERT, 4, 128, masked=19),
    "peft-lora": Step("peft-lora", SMALL, 4, 128, lora_rank=8),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ingredients(mode: str) -> tuple[str, ...]:
    return () if mode == "eager" else tuple(mode.split("+"))


def possible(step: Step, mode: str) -> bool:
    if step.family == "regression":
        return not {"ac", "sac", "sdpa-math", "chunked-ce"} & set(ingredients(mode))
    return "chunked-ce" not in mode or step.family in ("gpt", "bert", "lora")


def in_modes(steps: dict[str, Step], modes: Sequence[str], slow: Callable[[str, str], bool]) -> list[Any]:
    def marks(name: str, mode: str) -> list[pytest.MarkDecorator]:
        peer = [pytest.mark.hf] if steps[name].family in PEERS else []
        return peer + ([pytest.mark.slow] if slow(name, mode) else [])

    return [
        pytest.param(step, mode, id=f"{name}-{mode}", marks=marks(name, mode))
        for name, step in steps.items()
        for mode in modes
        if possible(step, mode)
    ]


@pytest.mark.parametrize(
    ("step", "mode"), in_modes(OURS | PEERS, MODES + MORE_MODES, lambda _, mode: mode in MORE_MODES)
)
def test_activations_are_what_torch_keeps(step: Step, mode: str) -> None:
    network, inputs = in_mode(step, ingredients(mode))
    kept = kept_bytes(network, inputs, ingredients(mode))
    assert memory_bytes(**step.arguments(), mode=ingredients(mode))["activations"] == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize(
    ("step", "mode"),
    in_modes(STEPS, MODES, lambda name, mode: name not in ("gpt", "bert", "lora") and mode not in ("eager", "bf16")),
)
def test_total_is_the_peak_of_a_step(step: Step, mode: str) -> None:
    """Of AdamW in one kernel, which makes nothing of its own."""
    estimate = memory_bytes(**step.arguments(), mode=("fused", *ingredients(mode)))
    assert estimate["total"] == pytest.approx(peak_bytes(step, ingredients(mode)), rel=0.06)


@pytest.mark.parametrize("name", ["gpt", "gpt-few-words", "gpt-short", "lora"])
def test_gradients_of_several_micro_batches_are_there_all_the_time(name: str) -> None:
    step = STEPS[name]
    estimate = memory_bytes(**step.arguments(), mode=["fused"], grad_accum=3)
    assert estimate["total"] == pytest.approx(peak_bytes(step, grad_accum=3), rel=0.06)


def test_adamw_that_is_not_fused_makes_a_tensor_for_each_parameter() -> None:
    step = STEPS["gpt-short"]
    network, inputs = in_mode(step, ())
    optimizer = torch.optim.AdamW(network.parameters(), foreach=True)  # torch's choice on CUDA
    for _ in range(2):
        optimizer.zero_grad()
        network(*inputs).backward()
        tensors = [t for p in network.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
        with Storages(tensors) as storages:
            optimizer.step()
    estimate = memory_bytes(**step.arguments())
    assert estimate["temporary"] == 4 * count(network)[1]
    assert estimate["total"] == pytest.approx(storages.peak, rel=0.01)


@pytest.mark.parametrize("mode", ["eager", "bf16", "ac", "sac", "bf16+sac"])
def test_offloaded_activations_leave_only_what_selective_checkpointing_puts_by(mode: str) -> None:
    step, parts = STEPS["gpt"], ingredients(mode)
    network, inputs = in_mode(step, parts)
    with Storages(list(network.parameters())) as storages:
        before = storages.now
        with context(parts), torch.autograd.graph.saved_tensors_hooks(lambda t: t.to("meta"), lambda t: t):
            loss = network(*inputs)
        kept = storages.now - before - loss.untyped_storage().nbytes()
    estimate = memory_bytes(**step.arguments(), mode=[*parts, "cpu-offload"])["activations"]
    assert estimate == pytest.approx(kept, abs=0.002 * memory_bytes(**step.arguments())["activations"])


@pytest.mark.parametrize("mode", ["eager", "bf16", "ac", "bf16+sac"])
@pytest.mark.parametrize("name", ["gpt", "lora", "bert"])
def test_first_stage_of_a_pipeline(name: str, mode: str) -> None:
    """It has as many micro-batches in flight as there are stages, and keeps what it sent."""
    step, stages = Step(**STEPS[name].arguments() | {"model": STEPS[name].model | FEW_WORDS}), 2
    network, inputs = in_mode(step, ingredients(mode))
    stage = Stage(network, 0, stages)
    with Storages(list(stage.parameters())) as storages:
        before = storages.now
        batches = [[x.clone() for x in inputs[: network.embed_inputs]] for _ in range(stages)]
        with context(ingredients(mode)):
            sent = [stage(*batch) for batch in batches]
        kept = storages.now - before
    assert len(sent) == stages
    estimate = memory_bytes(**step.arguments(), mode=["pp", *ingredients(mode)], pipeline_stages=stages, grad_accum=4)
    assert estimate["parameters"] == 4 * count(stage)[0]
    assert estimate["gradients"] == 4 * count(stage)[1]
    assert estimate["activations"] == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("name", ["gpt", "bert", "lora"])
def test_last_stage_of_a_pipeline(name: str, stages: int) -> None:
    """With many words its logits make it the largest. It has a copy of the tied embedding, and one batch in flight."""
    step = Step(**STEPS[name].arguments() | {"model": STEPS[name].model | {"vocab_size": 20000}, "masked": None})
    network, inputs = in_mode(step, ())
    stage = Stage(network, stages - 1, stages)
    sent = torch.randn(step.batch, step.sequence, step.model["d_model"], requires_grad=True)
    with Storages([*stage.parameters(), sent]) as storages:
        before = storages.now
        loss = stage.module.finish(stage(sent), *(x.clone() for x in inputs[network.embed_inputs :]))
        kept = storages.now - before + sent.untyped_storage().nbytes()
    estimate = memory_bytes(**step.arguments(), mode=["pp"], pipeline_stages=stages, grad_accum=stages)
    assert loss.requires_grad
    assert estimate["parameters"] == 4 * count(stage)[0]
    assert estimate["activations"] == pytest.approx(kept, rel=0.02)


def test_both_sides_cut_chunks_alike() -> None:
    assert (activations.CHUNK_ROWS, activations.CHUNKS) == (chunked.MOST_ROWS, chunked.FEWEST_CHUNKS)
    assert chunk_rows(10) == 3


def test_the_parts_of_the_estimate() -> None:
    estimate = memory_bytes("lora", SMALL, 4, 128, lora_rank=8)
    total, trained = parameters("lora", SMALL, 8)
    assert list(estimate) == ["parameters", "gradients", "optimizer", "activations", "temporary", "total"]
    assert estimate["parameters"] == 4 * total
    assert estimate["gradients"] == 4 * trained
    assert estimate["optimizer"] == 8 * trained


@pytest.mark.parametrize(
    "mode",
    ["compile", "compile-blocks", "reduce-overhead", "max-autotune", "tf32", "sdpa-flash", "sdpa-cudnn", "flex"],
)
def test_what_other_kernels_change_is_not_estimated(mode: str) -> None:
    assert memory_bytes("gpt", SMALL, 4, 128, mode=[mode]) == memory_bytes("gpt", SMALL, 4, 128)


def test_buckets_of_ddp_outlive_the_step() -> None:
    plain, ddp = (memory_bytes("gpt", SMALL, 4, 128, mode=mode, data_parallel=2) for mode in ([], ["ddp"]))
    assert ddp == plain | {"total": plain["total"] + plain["gradients"]}
