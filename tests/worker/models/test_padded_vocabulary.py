from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.worker.models.vocabulary import PADDING_LOGIT, cross_entropy, padded, tied_logits


@given(st.integers(1, 200_000))
def test_padded_is_the_next_multiple_of_64(vocab_size: int) -> None:
    assert padded(vocab_size) % 64 == 0
    assert 0 <= padded(vocab_size) - vocab_size < 64


@settings(deadline=None, max_examples=50)
@given(vocab_size=st.integers(2, 200), bias=st.booleans(), seed=st.integers(0, 2**31), size=st.floats(0, 100))
def test_padding_changes_neither_loss_nor_gradients(vocab_size: int, bias: bool, seed: int, size: float) -> None:
    """Whatever stands in the padding rows, all is as in a model of which the embedding has no such rows."""
    torch.manual_seed(seed)
    x_ND, targets_N = torch.randn(6, 8, requires_grad=True), torch.randint(vocab_size, (6,))
    rows_VD = torch.randn(vocab_size, 8)
    bias_V = torch.randn(vocab_size, requires_grad=True) if bias else None
    padding_PD = size * torch.randn(padded(vocab_size) - vocab_size, 8)

    def train(embedding_VD: torch.Tensor, loss: torch.Tensor) -> list[torch.Tensor]:
        wanted = [x_ND, embedding_VD] + ([bias_V] if bias_V is not None else [])
        return [loss, *torch.autograd.grad(loss, wanted)]

    plain_VD = rows_VD.clone().requires_grad_()
    plain = train(plain_VD, F.cross_entropy(F.linear(x_ND, plain_VD, bias_V), targets_N))
    with_padding_VD = torch.cat([rows_VD, padding_PD]).requires_grad_()
    with_padding = train(
        with_padding_VD, cross_entropy(tied_logits(x_ND, with_padding_VD, vocab_size, bias_V), targets_N)
    )

    assert (with_padding[2][vocab_size:] == 0).all()
    with_padding[2] = with_padding[2][:vocab_size]
    for padded_value, plain_value in zip(with_padding, plain, strict=True):
        torch.testing.assert_close(padded_value, plain_value, rtol=1e-5, atol=1e-6)


def test_padding_is_never_the_prediction_in_any_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits_P = tied_logits(torch.ones(8, dtype=dtype), torch.full((64, 8), -100.0, dtype=dtype), vocab_size=60)
        assert logits_P[:60].max() == -800
        assert logits_P.argmax() < 60
        assert (logits_P.softmax(dim=0)[60:] == 0).all()


def test_a_vocabulary_that_needs_no_padding_is_left_alone() -> None:
    x_D, embedding_VD = torch.randn(8), torch.randn(64, 8)
    assert torch.equal(tied_logits(x_D, embedding_VD, 64), F.linear(x_D, embedding_VD))
    assert tied_logits(x_D, embedding_VD, 64).min() > PADDING_LOGIT
