from __future__ import annotations

import pytest
import torch

from llmbench.worker.models.mlp import MLP, MLPConfig


def model(**config: int) -> MLP:
    torch.manual_seed(0)
    return MLP(MLPConfig(**config))


def test_without_hidden_layers_it_is_one_linear_layer() -> None:
    linear = model(d_in=3, d_hidden=0, n_hidden=0, d_out=2)
    assert len(linear.blocks) == 0
    assert [tuple(parameter.shape) for parameter in linear.parameters()] == [(2, 3), (2,)]
    x_BI = torch.randn(5, 3)
    torch.testing.assert_close(linear(x_BI), x_BI @ linear.head.weight.T + linear.head.bias)


def test_hidden_layers_have_their_widths() -> None:
    mlp = model(d_in=3, d_hidden=8, n_hidden=2, d_out=2)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(8, 3), (8,), (8, 8), (8,), (2, 8), (2,)]
    assert mlp(torch.randn(5, 3)).shape == (5, 2)


def test_hidden_layers_are_not_linear() -> None:
    mlp = model(d_in=3, d_hidden=8, n_hidden=1, d_out=1)
    x_BI = torch.randn(50, 3)
    assert not torch.allclose(mlp(x_BI) + mlp(-x_BI), 2 * mlp(torch.zeros(1, 3)), atol=1e-3)


def test_the_loss_is_the_mean_squared_error() -> None:
    mlp = model(d_in=3, d_hidden=8, n_hidden=1, d_out=2)
    x_BI, y_BO = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(mlp(x_BI, y_BO), ((mlp(x_BI) - y_BO) ** 2).sum() / 10)


def test_the_loss_is_in_fp32_under_autocast() -> None:
    mlp = model(d_in=3, d_hidden=8, n_hidden=1, d_out=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(torch.randn(5, 3), torch.randn(5, 2)).dtype == torch.float32


@pytest.mark.parametrize("n_hidden", [0, 2])
def test_it_learns_a_line(n_hidden: int) -> None:
    mlp = model(d_in=1, d_hidden=32, n_hidden=n_hidden, d_out=1)
    x_BI = torch.randn(256, 1)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.1 if n_hidden == 0 else 0.01)
    losses = []
    for _ in range(30):
        loss = mlp(x_BI, 3 * x_BI)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.3 * losses[0]
