"""Models can be cut into stages: what goes in, the blocks, and what comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.modes.pipeline import Stage
from tests.worker.conftest import MODELS

B, T, K = 2, 16, 3


def tokens(*shape: int) -> Tensor:
    return torch.randint(MODELS["gpt"]["vocab_size"], shape)


def gpt() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return GPT(GPTConfig(**MODELS["gpt"])), (tokens(B, T), tokens(B, T))


def bert() -> tuple[nn.Module, tuple[Tensor, ...]]:
    positions_BK = torch.randint(T, (B, K))
    batch = (tokens(B, T), torch.randint(2, (B, T)), positions_BK, tokens(B, K), torch.randint(2, (B,)))
    return BERT(BERTConfig(**MODELS["bert"], nsp=True)), batch


def mlp() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return MLP(MLPConfig(d_in=3, d_hidden=8, n_hidden=2, d_out=1)), (torch.randn(B, 3), torch.randn(B, 1))


def half_mlp() -> tuple[nn.Module, tuple[Tensor, ...]]:
    model, batch = mlp()
    return model.to(torch.bfloat16), batch  # its inputs stay as they are


Make = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]
each = pytest.mark.parametrize("make", [gpt, bert, mlp, half_mlp])


@each
def test_the_parts_are_the_whole(make: Make) -> None:
    model, _ = make()
    named = {name for part in model.parts.values() for name in part}
    assert named | {"blocks"} == {name for name, _ in model.named_children()}


@each
@pytest.mark.parametrize("size", [1, 2])
def test_stages_one_after_the_other_are_the_model(make: Make, size: int) -> None:
    torch.manual_seed(0)
    model, batch = make()
    stages = [Stage(copy.deepcopy(model), rank, size) for rank in range(size)]
    inputs, targets = batch[: model.embed_inputs], batch[model.embed_inputs :]
    x = stages[0](*inputs)
    for stage in stages[1:]:
        x = stage(x)
    assert torch.equal(stages[-1].module.finish(x, *targets), model(*batch))


@each
def test_stages_hold_every_tensor_under_its_name(make: Make) -> None:
    model, _ = make()
    held = [dict(Stage(copy.deepcopy(model), rank, 2).module.named_parameters()) for rank in range(2)]
    names = {name for name, _ in model.named_parameters()}
    assert held[0].keys() | held[1].keys() == names
    assert held[0].keys() & held[1].keys() == names & {"token_embedding.weight"}
