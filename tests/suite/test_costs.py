"""The formulas against the models themselves: parameters exactly, FLOPs as torch counts them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmbench.suite.costs import FAMILIES, flops_per_step, known, memory_bytes, padded_vocabulary, parameters
from llmbench.suite.workloads import WORKLOADS
from llmbench.worker.models.vocabulary import padded
from tests.suite.training_steps import BERTS, GPT_MODEL, OURS, PEERS, Step, build, count

STEPS = [pytest.param(step, id=name) for name, step in OURS.items()] + [
    pytest.param(step, id=name, marks=pytest.mark.hf) for name, step in PEERS.items()
]
NAMES = [
    pytest.param(name, marks=pytest.mark.hf if workload.family.name in {step.family for step in PEERS.values()} else ())
    for name, workload in WORKLOADS.items()
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def of_workload(name: str, **changes: Any) -> Step:
    """A step of a workload, with what its cases have besides the model of its size."""
    family, model = WORKLOADS[name].family.name, WORKLOADS[name].size.model
    return Step(
        family,
        model | changes,
        batch=2,
        sequence=min(48, model.get("n_positions", 1)),
        masked=7 if family in BERTS else None,
        lora_rank=8 if "lora" in family else None,
    )


def counted_flops(step: Step, device: str = "cpu") -> int:
    with torch.device(device):
        network, inputs = step.network(), step.inputs()
        # Of the CPU's fused attention FlopCounterMode has no formula and counts 0; plain products it counts.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            network(*inputs).backward()
    return counter.get_total_flops()


def test_every_family_of_the_suites_is_known() -> None:
    assert {workload.family.name for workload in WORKLOADS.values()} == set(FAMILIES)
    assert all(known(family) for family in FAMILIES)
    assert not known("hf:/some/model")


@pytest.mark.parametrize("step", STEPS)
def test_parameters(step: Step) -> None:
    assert parameters(step.family, step.model, step.lora_rank) == count(step.network())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_every_workload(name: str) -> None:
    step = of_workload(name)
    for model in [step.model, step.model | {"nsp": True}] if step.family in BERTS else [step.model]:
        with torch.device("meta"):
            assert parameters(step.family, model, step.lora_rank) == count(build(step.family, model, step.lora_rank))


@pytest.mark.parametrize(
    ("size", "published"),
    [
        # transformers' parameter counts of openai-community/gpt2, -medium, -large, -xl
        ("124m", 124_439_808),
        ("355m", 354_823_168),
        ("774m", 774_030_080),
        ("1.5b", 1_557_611_200),
    ],
)
def test_gpt2_has_its_published_size_and_ours_the_padding(size: str, published: int) -> None:
    model = WORKLOADS[f"gpt-{size}"].size.model
    assert parameters("gpt", model)[0] == published + (50304 - 50257) * model["d_model"]
    assert parameters("hf-gpt2", model)[0] == published


def test_both_sides_pad_the_vocabulary_alike() -> None:
    assert [padded_vocabulary(size) for size in range(1, 300)] == [padded(size) for size in range(1, 300)]


@pytest.mark.parametrize("step", STEPS)
def test_flops_are_those_that_torch_counts(step: Step) -> None:
    assert flops_per_step(**step.arguments()) == counted_flops(step)


@pytest.mark.parametrize("name", NAMES)
def test_flops_of_every_workload(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without data, so that the largest can be counted; of layers that are all alike the first three."""
    layers = "n_layer" if "n_layer" in WORKLOADS[name].size.model else "n_hidden"
    step = of_workload(name, **{layers: min(3, WORKLOADS[name].size.model[layers])})
    if step.family in ("hf-gpt2", "peft-lora") and find_spec("transformers.masking_utils"):
        # It looks at the values of the positions, for sequences packed into one, and finds none.
        monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    assert flops_per_step(**step.arguments()) == pytest.approx(counted_flops(step, "meta"), rel=0.01)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    family = draw(st.sampled_from(["regression", "bert", "gpt", "lora"]))
    small = st.integers(1, 5)
    if family == "regression":
        shape = {
            "d_in": draw(small),
            "d_hidden": draw(small),
            "n_hidden": draw(st.integers(0, 3)),
            "d_out": draw(small),
        }
        return Step(family, shape, draw(small))
    heads = draw(small)
    model = {
        "vocab_size": draw(st.integers(2, 200)),
        "n_positions": 32,
        "n_layer": draw(st.integers(1, 3)),
        "n_head": heads,
        "d_model": heads * draw(small),
    }
    sequence = draw(st.integers(2, 32))
    if family == "bert":
        model |= {"d_ff": draw(st.integers(1, 40)), "n_segments": 2, "nsp": draw(st.booleans())}
    masked = draw(st.integers(1, sequence)) if family == "bert" else None
    return Step(family, model, draw(small), sequence, masked, draw(small) if family == "lora" else None)


@settings(max_examples=40)
@given(step=steps())
def test_any_shape(step: Step) -> None:
    assert parameters(step.family, step.model, step.lora_rank) == count(step.network())
    assert flops_per_step(**step.arguments()) == counted_flops(step)


def test_flops_of_gpt2_are_six_for_each_weight_and_twelve_for_attention() -> None:
    model, B, T, d, layers = WORKLOADS["gpt-124m"].size.model, 2, 1024, 768, 12
    weights = layers * 12 * d**2 + 50304 * d
    assert flops_per_step("gpt", model, B, T) == B * T * (6 * weights + 12 * layers * d * T)


def test_lora_costs_about_two_thirds_of_full_training() -> None:
    model = WORKLOADS["gpt-124m"].size.model
    ratio = flops_per_step("lora", model, 2, 128, lora_rank=8) / flops_per_step("gpt", model, 2, 128)
    assert 0.66 < ratio < 0.70


def test_a_peer_does_our_work_but_for_the_padding() -> None:
    model = GPT_MODEL | {"vocab_size": 1024}
    assert flops_per_step("hf-gpt2", model, 4, 56) == flops_per_step("gpt", model, 4, 56)
    assert flops_per_step("peft-lora", model, 4, 56, lora_rank=5) == flops_per_step("lora", model, 4, 56, lora_rank=5)
    # 24 positions of padding in the vocabulary of 1000: two gradients and a product of 4 · 56 rows and 48 columns
    padding = flops_per_step("gpt", GPT_MODEL, 4, 56) - flops_per_step("hf-gpt2", GPT_MODEL, 4, 56)
    assert padding == 6 * 4 * 56 * 48 * 24


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("vision", GPT_MODEL, 1, 8), "unknown family 'vision'"),
        (("lora", GPT_MODEL, 1, 8), "the family lora needs a rank"),
        (("peft-lora", GPT_MODEL, 1, 8), "the family peft-lora needs a rank"),
        (("gpt", GPT_MODEL, 1, None), "the family gpt needs a sequence length"),
    ],
)
def test_what_has_no_cost_is_refused(arguments: tuple[Any, ...], reason: str) -> None:
    for cost in (flops_per_step, memory_bytes):
        with pytest.raises(ValueError, match=reason):
            cost(*arguments)
