from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from llmbench.worker.methods.lora import apply_lora
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.optimizer import BETAS, adamw, by_placement, clip, warmup_cosine

from .conftest import MODELS


def gpt() -> nn.Module:
    torch.manual_seed(0)
    return GPT(GPTConfig(**MODELS["gpt"]))


def bert() -> nn.Module:
    return BERT(BERTConfig(**MODELS["bert"], nsp=True))


# The schedule


def test_the_rate_rises_in_a_line_and_falls_by_a_cosine() -> None:
    rate = warmup_cosine(peak=2.0, steps=220, warmup_fraction=20 / 220)
    assert [rate(step) for step in range(20)] == pytest.approx([0.1 * (step + 1) for step in range(20)])
    assert rate(20) == 2.0
    assert rate(120) == pytest.approx(0.55 * 2.0)  # half way, between the peak and a tenth of it
    assert rate(70) == pytest.approx(2.0 * (0.1 + 0.45 * (1 + math.cos(math.pi / 4))))
    assert rate(219) == pytest.approx(0.2, rel=1e-2)
    assert [rate(step) for step in (220, 221, 500)] == [0, 0, 0]  # timed on, but trained no more


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_rate_stays_between_zero_and_its_peak(fraction: float) -> None:
    rate = warmup_cosine(peak=1e-3, steps=40, warmup_fraction=fraction)
    rates = [rate(step) for step in range(40)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-3)
    assert min(rates) > 0
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("steps", [10, 30, 100])
def test_a_short_training_warms_up_as_slowly_as_a_longer_one(steps: int) -> None:
    rate = warmup_cosine(1e-3, steps, 0.1)
    rising = range(min(20, steps))
    assert [rate(step) for step in rising] == pytest.approx([5e-5 * (step + 1) for step in rising])


def test_without_warm_up_it_begins_at_the_peak() -> None:
    assert warmup_cosine(1e-3, 40, 0.0)(0) == 1e-3


def test_with_nothing_but_warm_up_it_ends_at_the_peak() -> None:
    assert warmup_cosine(1e-3, 40, 1.0)(39) == 1e-3


# AdamW


def decays(model: nn.Module) -> dict[str, float]:
    """The weight decay of each parameter by name; each must be in one group only."""
    optimizer = adamw(model, 1e-3, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("make", [gpt, bert])
def test_matrices_decay_and_biases_and_norms_do_not(make: Callable[[], nn.Module]) -> None:
    model = make()
    found = decays(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert {name for name, decay in found.items() if decay == 0.0} == {
        name for name in found if name.endswith("bias") or "norm" in name
    }
    assert set(found.values()) == {0.0, 0.1}


def test_what_is_frozen_is_left_out() -> None:
    assert {name.rsplit(".", 1)[1] for name in decays(apply_lora(gpt(), rank=2))} == {"A", "B"}


def test_a_model_without_matrices() -> None:
    assert decays(nn.LayerNorm(4)) == {"weight": 0.0, "bias": 0.0}


@pytest.mark.parametrize(("fused", "asked"), [(False, None), (True, True)])
def test_it_is_fused_if_asked_and_has_the_momenta_of_language_models(fused: bool, asked: bool | None) -> None:
    optimizer = adamw(gpt(), 1e-3, 0.1, fused)
    assert BETAS == (0.9, 0.95)
    for group in optimizer.param_groups:
        assert (group["fused"], group["betas"], group["lr"]) == (asked, BETAS, 1e-3)


def test_a_step_is_that_of_the_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, by hand for one matrix and one vector."""
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
    optimizer = adamw(model, learning_rate=0.01, weight_decay=0.5)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        decay = 0.5 if parameter.dim() == 2 else 0.0
        moved = old * (1 - 0.01 * decay) - 0.01 * gradient / (gradient.abs() + 1e-8)  # both momenta are corrected
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-5, atol=1e-7)


# Clipping


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
    return parameters


def left(parameters: list[nn.Parameter]) -> list[float]:
    return [value for parameter in parameters for value in parameter.grad.tolist()]


@pytest.mark.parametrize(
    ("most", "expected"), [(1.3, [0.3, 0.4, 0.0, 1.2]), (13.0, [3, 4, 0, 12]), (99, [3, 4, 0, 12])]
)
def test_clipping_is_by_the_norm_of_all_gradients(most: float, expected: list[float]) -> None:
    parameters = with_gradients([3, 4], [0, 12])
    clip([parameters], most)
    assert left(parameters) == pytest.approx(expected, rel=1e-5)


def test_it_is_that_of_torch() -> None:
    mine, theirs = (with_gradients([3, -4, 0.1], [7]) for _ in range(2))
    clip([mine], 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    assert left(mine) == pytest.approx(left(theirs), rel=1e-6)


def test_groups_have_one_norm() -> None:
    one, other = with_gradients([3, 4]), with_gradients([0, 12])
    clip([one, other], 1.3)
    assert left(one + other) == pytest.approx([0.3, 0.4, 0.0, 1.2], rel=1e-5)


def test_a_tensor_that_another_rank_counts_is_clipped_all_the_same() -> None:
    parameters = with_gradients([3, 4], [0, 12])
    clip([parameters], 0.5, counted_elsewhere={parameters[1]})
    assert left(parameters) == pytest.approx([0.3, 0.4, 0.0, 1.2], rel=1e-5)


def test_the_norm_is_over_all_ranks() -> None:
    parameters = with_gradients([3, 4])
    clip([parameters], 1.3, over_ranks=lambda square: square + 144.0)  # what the other ranks have
    assert left(parameters) == pytest.approx([0.3, 0.4], rel=1e-5)


def test_a_parameter_without_a_gradient_is_no_obstacle() -> None:
    parameters = [*with_gradients([3, 4]), nn.Parameter(torch.zeros(1))]
    clip([parameters], 0.5)
    assert parameters[0].grad.tolist() == pytest.approx([0.3, 0.4], rel=1e-5)
    assert parameters[1].grad is None


def test_a_model_of_one_process_is_one_group_of_what_is_trained() -> None:
    model = apply_lora(gpt(), rank=2)
    [group] = by_placement(model.parameters())
    assert {id(parameter) for parameter in group} == {id(p) for p in model.parameters() if p.requires_grad}
