from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.measure.parity import compare_gradients, measure_reference
from llmbench.worker.modes import apply, precision
from llmbench.worker.prepare import build
from llmbench.worker.world import World
from tests.worker.conftest import Events, Job

CPU = Device("cpu")
PRECISIONS = ("fp32", "bf16", "fp16", "bf16-params")
FAMILIES = ("gpt", "bert", "lora", "regression")

Step = Callable[..., nn.Module]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "reference.pt")


@pytest.fixture
def step(job: Callable[..., Job], file: str) -> Step:
    """Makes the reference of a training, and a model after the backward pass of its first step in a precision."""

    def make(family: str, mode: str = "fp32", **changes: Any) -> nn.Module:
        made = job(family, **{"micro_batch_size": 8} | changes)
        measure_reference(made | {"precisions": [mode], "gradients": file}, Events())
        _, model, batches = build(made)
        parts = [] if mode == "fp32" else [mode]
        execution = apply(precision.cast(model, parts), parts, CPU, made["config"])
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
        execution.gradients(tuple(tensor[0] for tensor in batches))
        execution.scaler.unscale_(optimizer)
        return execution.model

    return make


def compare(model: nn.Module, file: str, mode: str = "fp32") -> dict[str, Any]:
    return compare_gradients(model, World(), file, mode)


def exact(file: str) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["exact"]


# The reference


def test_the_reference_is_the_gradient_in_double_precision(step: Step, file: str) -> None:
    model = step("gpt")
    gradients = exact(file)
    assert {name for name, _ in model.named_parameters()} == set(gradients)
    for name, parameter in model.named_parameters():
        assert gradients[name].dtype == torch.float64
        torch.testing.assert_close(parameter.grad.double(), gradients[name], rtol=1e-3, atol=1e-7)


def test_it_has_the_errors_of_eager_in_the_precisions_that_are_needed(job: Callable[..., Job], file: str) -> None:
    measure_reference(job("gpt") | {"precisions": [*PRECISIONS, "fp8"], "gradients": file}, Events())
    errors = torch.load(file, weights_only=True)["errors"]
    assert set(errors) == {*PRECISIONS, "fp16-params"}  # and of all weights halved, as FSDP halves them
    total = {name: math.hypot(*error.values()) for name, error in errors.items()}
    assert 100 * total["fp32"] < total["fp16"] < total["bf16"] < 2 * total["bf16-params"]


def test_what_it_tells(job: Callable[..., Job], file: str) -> None:
    made = job("gpt") | {"precisions": ["fp32"], "gradients": file}
    found, again = (measure_reference(made, Events()) for _ in range(2))
    assert found == again
    assert found["deterministic"]
    assert found["loss"] == pytest.approx(math.log(90), rel=0.05)
    _, model, batches = build(made)
    assert model(*(tensor[0] for tensor in batches)).item() == pytest.approx(found["loss"], rel=1e-6)
    other = measure_reference(job("gpt", seed=7) | {"precisions": ["fp32"], "gradients": file}, Events())
    assert {other[key] == found[key] for key in ("weights_sha256", "batches_sha256")} == {False}


def test_a_float16_reference_is_at_a_scale_without_overflow(step: Step, file: str) -> None:
    step("regression", "fp16")  # its first gradient overflows at the scale that torch's scaler begins with
    errors = torch.load(file, weights_only=True)["errors"]["fp16"]
    assert all(0 < error < 1e-2 * exact(file)[name].abs().max() for name, error in errors.items())


# Healthy trainings pass with room


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mode", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_healthy_training_is_far_from_the_limit(family: str, mode: str, seed: int, step: Step, file: str) -> None:
    found = compare(step(family, mode, seed=seed), file, mode)
    assert found["passed"]
    assert found["value"] <= found["limit"] / (10 if mode == "fp32" else 2)
    assert found["metric"] == "RMS error / RMS of the gradient of the first step"


# Faults do not


@pytest.mark.parametrize("family", FAMILIES)
def test_one_tensor_that_is_wrong_by_a_thousandth_is_found(family: str, step: Step, file: str) -> None:
    model = step(family)
    gradients = exact(file)
    checked = 0
    for name, parameter in model.named_parameters():
        if name not in gradients or not gradients[name].any():
            continue  # there is nothing of which a thousandth could be wrong
        right = parameter.grad.clone()
        parameter.grad *= 1.001
        found = compare(model, file)
        assert not found["passed"], name
        assert found["tensor"] == name
        assert found["value"] == pytest.approx(1e-3, rel=0.02)
        assert found["limit"] < 2e-4
        parameter.grad = right
        checked += 1
    assert checked >= 2
    assert compare(model, file)["passed"]


@pytest.mark.parametrize("mode", PRECISIONS)
def test_a_gradient_of_half_the_batch_is_found_in_any_precision(mode: str, step: Step, file: str) -> None:
    """As when ranks do not tell each other."""
    model = step("gpt", mode)
    half = step("gpt", mode, micro_batch_size=4)
    step("gpt", mode)  # the reference is that of the whole batch again
    assert not compare(half, file, mode)["passed"]
    assert compare(model, file, mode)["passed"]


def test_a_true_gradient_of_zero_may_be_rounding_but_not_more(step: Step, file: str) -> None:
    """LoRA's A gets none as long as B is zero."""
    model = step("lora")
    name = "blocks.0.attention.qkv.A"
    assert not exact(file)[name].any()
    a = model.get_parameter(name)
    size = exact(file)["blocks.0.attention.qkv.B"].square().mean().sqrt().item()
    a.grad = torch.full_like(a, 1e-7 * size)
    assert compare(model, file)["passed"]
    a.grad = torch.full_like(a, 1e-3 * size)
    found = compare(model, file)
    assert (found["passed"], found["tensor"]) == (False, name)


def test_the_gradient_of_the_keys_bias_is_zero_and_its_rounding_passes(step: Step, file: str) -> None:
    """Softmax does not see what all scores have in common."""
    model = step("gpt")
    bias_HQE = exact(file)["blocks.0.attention.qkv.bias"].view(2, 3, -1)
    assert bias_HQE[:, 1].abs().max() < 1e-12 * bias_HQE[:, 2].abs().max()
    assert model.blocks[0].attention.qkv.bias.grad.view(2, 3, -1)[:, 1].any()
    assert compare(model, file)["passed"]


def test_a_tensor_without_a_gradient_is_named(step: Step, file: str) -> None:
    model = step("gpt")
    model.norm.bias.grad = None
    found = compare(model, file)
    assert (found["passed"], found["tensor"], found["metric"]) == (False, "norm.bias", "has a gradient")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("mode", ["fp32", "fp8"])
def test_what_is_not_finite_fails(value: float, mode: str, step: Step, file: str) -> None:
    model = step("gpt")
    model.norm.bias.grad[3] = value
    found = compare(model, file, mode)
    assert (found["passed"], found["tensor"], found["value"]) == (False, "norm.bias", None)
    assert math.isfinite(found["limit"])


def test_an_eager_that_is_not_finite_allows_nothing(step: Step, file: str) -> None:
    model = step("gpt")
    reference = torch.load(file, weights_only=True)
    reference["errors"]["fp32"]["norm.bias"] = math.nan
    torch.save(reference, file)
    model.norm.bias.grad *= 1.1
    found = compare(model, file)
    assert (found["passed"], found["tensor"]) == (False, "norm.bias")


def test_float8_must_have_the_direction(step: Step, file: str) -> None:
    model = step("gpt")
    model.norm.bias.grad *= 1.2
    assert compare(model, file, "fp8")["passed"]
    model.norm.bias.grad[:4] += 0.2 * model.norm.bias.grad.norm()
    found = compare(model, file, "fp8")
    assert (found["passed"], found["tensor"]) == (False, "norm.bias")
    assert found["metric"].startswith("1 - cosine")
    assert found["value"] > found["limit"] == pytest.approx(0.01)
