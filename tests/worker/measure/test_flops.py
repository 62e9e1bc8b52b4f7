from __future__ import annotations

import pytest
import torch

from llmbench.suite import costs
from llmbench.worker.measure.flops import SOURCE, count_flops
from llmbench.worker.models.gpt import GPT, GPTConfig
from tests.worker.conftest import MODELS


def test_what_is_counted_is_what_the_formula_says_of_a_model_that_it_knows() -> None:
    model = GPT(GPTConfig(**MODELS["gpt"]))
    tokens_BT = torch.randint(90, (4, 16))
    found = count_flops(model, (tokens_BT, tokens_BT))
    assert found["flops_per_step"] == pytest.approx(costs.flops_per_step("gpt", MODELS["gpt"], 4, 16), rel=0.01)
    assert found["flops_source"] == SOURCE
    assert all(parameter.grad is None for parameter in model.parameters())  # the model itself is left alone
