from __future__ import annotations

import math

import pytest
import torch

from llmbench.worker.models.bert import BERT, BERTConfig

B, T, K, V = 3, 32, 5, 100


def model(nsp: bool = False) -> BERT:
    torch.manual_seed(0)
    return BERT(BERTConfig(vocab_size=V, n_positions=T, n_layer=2, n_head=4, d_model=48, d_ff=160, nsp=nsp))


@pytest.fixture
def batch() -> tuple[torch.Tensor, ...]:
    """Tokens_BT, segments_BT, positions_BK, labels_BK, next_B."""
    torch.manual_seed(1)
    positions_BK = torch.stack([torch.randperm(T)[:K] for _ in range(B)])
    tokens_BT, segments_BT = torch.randint(V, (B, T)), torch.randint(2, (B, T))
    return tokens_BT, segments_BT, positions_BK, torch.randint(V, (B, K)), torch.randint(2, (B,))


def test_a_later_token_changes_earlier_logits(batch: tuple[torch.Tensor, ...]) -> None:
    bert, (tokens_BT, segments_BT, *_) = model(), batch
    changed_BT = tokens_BT.clone()
    changed_BT[:, -1] = (changed_BT[:, -1] + 1) % V
    difference_BTV = bert(changed_BT, segments_BT) - bert(tokens_BT, segments_BT)
    assert (difference_BTV.abs().amax(dim=-1) > 1e-6).all()


def test_segments_matter(batch: tuple[torch.Tensor, ...]) -> None:
    bert, (tokens_BT, segments_BT, *_) = model(), batch
    assert not torch.allclose(bert(tokens_BT, segments_BT), bert(tokens_BT, 1 - segments_BT))


@pytest.mark.parametrize("nsp", [False, True])
def test_logits_at_positions_are_those_of_the_whole(nsp: bool, batch: tuple[torch.Tensor, ...]) -> None:
    bert, (tokens_BT, segments_BT, positions_BK, *_) = model(nsp), batch
    everywhere, there = bert(tokens_BT, segments_BT), bert(tokens_BT, segments_BT, positions_BK)
    if nsp:
        (everywhere, nsp_B2), (there, same_B2) = everywhere, there
        assert nsp_B2.shape == (B, 2)
        torch.testing.assert_close(same_B2, nsp_B2)
    assert there.shape == (B, K, 128)
    torch.testing.assert_close(there, everywhere[torch.arange(B).unsqueeze(1), positions_BK])


@pytest.mark.parametrize("nsp", [False, True])
def test_the_loss_is_that_of_the_logits(nsp: bool, batch: tuple[torch.Tensor, ...]) -> None:
    bert, (tokens_BT, segments_BT, positions_BK, labels_BK, next_B) = model(nsp), batch
    logits = bert(tokens_BT, segments_BT, positions_BK)
    mlm_BKV, nsp_B2 = logits if nsp else (logits, None)
    expected = -mlm_BKV.log_softmax(dim=-1).gather(2, labels_BK.unsqueeze(2)).mean()
    if nsp_B2 is not None:
        expected = expected - nsp_B2.log_softmax(dim=-1).gather(1, next_B.unsqueeze(1)).mean()
    loss = bert(tokens_BT, segments_BT, positions_BK, labels_BK, next_B if nsp else None)
    torch.testing.assert_close(loss, expected)
    assert loss.item() == pytest.approx(math.log(V) + nsp * math.log(2), abs=0.1)


def test_a_label_of_minus_100_is_left_out(batch: tuple[torch.Tensor, ...]) -> None:
    bert, (tokens_BT, segments_BT, positions_BK, labels_BK, _) = model(), batch
    labels_BK[:, 3:] = -100
    fewer = bert(tokens_BT, segments_BT, positions_BK[:, :3], labels_BK[:, :3])
    torch.testing.assert_close(bert(tokens_BT, segments_BT, positions_BK, labels_BK), fewer)


@pytest.mark.parametrize("nsp", [False, True])
def test_every_parameter_is_trained(nsp: bool, batch: tuple[torch.Tensor, ...]) -> None:
    bert = model(nsp)
    bert(*batch).backward()
    assert [name for name, parameter in bert.named_parameters() if parameter.grad is None] == []
    assert any("nsp" in name for name, _ in bert.named_parameters()) == nsp


@pytest.mark.parametrize("nsp", [False, True])
def test_it_learns_a_repeating_sequence(nsp: bool, batch: tuple[torch.Tensor, ...]) -> None:
    bert, (_, segments_BT, positions_BK, _, next_B) = model(nsp), batch
    optimizer = torch.optim.AdamW(bert.parameters(), lr=3e-3)
    sequence_BT = (torch.arange(T) % 7).expand(B, -1)
    labels_BK = sequence_BT.gather(1, positions_BK)
    masked_BT = sequence_BT.scatter(1, positions_BK, 99)
    losses = []
    for _ in range(30):
        loss = bert(masked_BT, segments_BT, positions_BK, labels_BK, next_B)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.3 * losses[0]


def test_a_compiler_sees_one_graph(batch: tuple[torch.Tensor, ...]) -> None:
    bert = model(nsp=True)
    compiled = torch.compile(bert, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*batch), bert(*batch))


def test_initial_weights_are_berts() -> None:
    for name, parameter in model(nsp=True).named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all()
        elif "bias" in name:
            assert (parameter == 0).all()
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
