from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbench.worker.workloads.regression import EVAL_SAMPLES, NOISE, SLOPE, Regression
from tests.worker.conftest import configuration

LINE = {"d_in": 1, "d_hidden": 0, "n_hidden": 0, "d_out": 1}


def workload(**changes: object) -> Regression:
    return Regression(configuration("regression", **changes), {})


def test_y_is_three_x_and_noise() -> None:
    x_SB1, y_SB1 = workload(model=LINE, micro_batch_size=500).stage(40)
    noise = (y_SB1 - 3 * x_SB1).flatten()
    assert SLOPE == 3.0
    assert noise.mean().item() == pytest.approx(0, abs=4 * NOISE / len(noise) ** 0.5)
    assert noise.std().item() == pytest.approx(NOISE, rel=0.03)
    assert torch.corrcoef(torch.stack([noise, x_SB1.flatten()]))[0, 1].item() == pytest.approx(0, abs=0.03)


def test_with_several_inputs_y_varies_as_much() -> None:
    x_SBI, y_SB1 = workload(micro_batch_size=500).stage(40)
    assert x_SBI.shape == (40, 500, 3)
    assert y_SB1.shape == (40, 500, 1)
    assert y_SB1.var().item() == pytest.approx(SLOPE**2 + NOISE**2, rel=0.05)


def test_no_batch_is_like_another_nor_like_the_held_out_samples() -> None:
    regression = workload(micro_batch_size=8)
    x_SBI, _ = regression.stage(20)
    samples = torch.cat([x_SBI.flatten(0, 1), regression.eval_x_EI])
    assert len(samples.unique(dim=0)) == 20 * 8 + EVAL_SAMPLES


def test_the_reference_is_the_least_squares_solution_of_numpy() -> None:
    regression = workload(micro_batch_size=16)
    x_CI, y_C1 = (tensor.flatten(0, 1).double().numpy() for tensor in regression.stage(25))
    with_one = np.hstack([x_CI, np.ones((len(x_CI), 1))])
    solution, *_ = np.linalg.lstsq(with_one, y_C1, rcond=None)
    held_out = np.hstack([regression.eval_x_EI.double().numpy(), np.ones((EVAL_SAMPLES, 1))])
    loss = np.square(held_out @ solution - regression.eval_y_E1.numpy()).mean()
    (reference,) = regression.references()
    assert reference["value"] == pytest.approx(loss, rel=1e-9)
    assert (reference["name"], reference["kind"]) == ("least squares", "floor")
    assert loss == pytest.approx(NOISE**2, rel=0.1)


def test_the_true_line_is_evaluated_to_the_noise() -> None:
    regression = workload(model=LINE)
    model = regression.build()
    with torch.no_grad():
        model.head.weight.fill_(SLOPE)
        model.head.bias.zero_()
    loss, metrics = regression.evaluate(model)
    noise = (regression.eval_y_E1 - SLOPE * regression.eval_x_EI).square().mean().item()
    assert loss == metrics["mse"] == pytest.approx(noise, rel=1e-5)
    assert metrics["r2"] == pytest.approx(1 - noise / regression.eval_y_E1.var(correction=0).item(), rel=1e-5)
    assert regression.proofs(model) == ({"slope": 3.0, "intercept": 0.0}, [])


def test_the_mean_explains_nothing() -> None:
    regression = workload()
    model = regression.build()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(regression.eval_y_E1.mean())
    assert regression.evaluate(model)[1]["r2"] == pytest.approx(0, abs=1e-6)


def test_the_slope_of_several_inputs_is_along_their_mean_direction() -> None:
    regression = workload()
    model = regression.build()
    with torch.no_grad():
        model.head.weight.fill_(SLOPE / 3**0.5)
        model.head.bias.fill_(0.5)
    facts, wrong = regression.proofs(model)
    assert facts == {"slope": pytest.approx(3.0), "intercept": 0.5}
    assert wrong == []


def test_an_mlp_has_no_slope() -> None:
    regression = workload(model={"d_in": 3, "d_hidden": 8, "n_hidden": 2, "d_out": 1})
    model = regression.build()
    assert len(model.blocks) == 2
    assert regression.proofs(model) == ({}, [])
