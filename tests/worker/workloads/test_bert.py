from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmbench.worker import tokens
from llmbench.worker.workloads.bert import BertMLM
from tests.worker.conftest import SPECIAL, VOCABULARY, configuration, write_tokens

CLS, SEP, MASK = SPECIAL["[CLS]"], SPECIAL["[SEP]"], SPECIAL["[MASK]"]
T, K = 16, 3


def workload(data: dict[str, Any], **changes: Any) -> BertMLM:
    return BertMLM(configuration("bert", **changes), data)


def staged(data: dict[str, Any], steps: int = 1, **changes: Any) -> tuple[Tensor, ...]:
    """All examples of the training, without the steps."""
    return tuple(tensor.flatten(0, 1) for tensor in workload(data, **changes).stage(steps))


def restored(examples: tuple[Tensor, ...]) -> Tensor:
    """The sequences before they were masked: tokens_CT."""
    tokens_CT, _, positions_CK, labels_CK, *_ = examples
    return tokens_CT.scatter(1, positions_CK, labels_CK)


def windows(data: dict[str, Any], length: int) -> set[tuple[int, ...]]:
    text = tokens.read(data["train"]).tolist()
    return {tuple(text[start : start + length]) for start in range(len(text) - length + 1)}


@pytest.fixture
def distinct(data: dict[str, Any], tmp_path: Any) -> dict[str, Any]:
    """A text in which each word stands once, so that its order tells where it comes from."""
    ids = list(range(len(SPECIAL), 4000))
    path = write_tokens(tmp_path / "distinct.bin", ids)
    return data | {"train": path, "valid": path, "vocab_size": 4000}


def test_a_sequence_is_text_between_cls_and_sep(data: dict[str, Any]) -> None:
    examples = staged(data, steps=20)
    tokens_CT = restored(examples)
    assert tokens_CT.shape == (80, T)
    assert tokens_CT[:, 0].unique().tolist() == [CLS]
    assert tokens_CT[:, -1].unique().tolist() == [SEP]
    assert {tuple(words) for words in tokens_CT[:, 1:-1].tolist()} <= windows(data, T - 2)
    assert examples[1].unique().tolist() == [0]
    assert len(examples) == 4


def test_the_batches_have_a_leading_step(data: dict[str, Any]) -> None:
    shapes = [tuple(tensor.shape) for tensor in workload(data, model={"nsp": True}).stage(5)]
    assert shapes == [(5, 4, T), (5, 4, T), (5, 4, K), (5, 4, K), (5, 4)]


def test_only_the_chosen_words_are_changed(data: dict[str, Any]) -> None:
    """Compared with a workload of the same seed that hides nothing."""
    tokens_CT, _, positions_CK, labels_CK = staged(data, steps=20)
    assert positions_CK.shape == labels_CK.shape == (80, K)
    assert all(len(set(positions)) == K for positions in positions_CK.tolist())
    assert positions_CK.tolist() == [sorted(positions) for positions in positions_CK.tolist()]
    known = windows(data, T - 2)
    untouched = torch.ones_like(tokens_CT, dtype=torch.bool).scatter(1, positions_CK, False)
    for words, kept in zip(tokens_CT[:, 1:-1].tolist(), untouched[:, 1:-1].tolist(), strict=True):
        assert any(
            all(word == original for word, original, same in zip(words, window, kept, strict=True) if same)
            for window in known
        )


@pytest.mark.parametrize("nsp", [False, True])
def test_cls_and_sep_are_never_masked(nsp: bool, data: dict[str, Any]) -> None:
    """Not even if so much is masked that every other word is."""
    words = T - (3 if nsp else 2)
    examples = staged(data, steps=50, masked=words, model={"nsp": nsp})
    labels_CK = examples[3]
    assert not torch.isin(labels_CK, torch.tensor([CLS, SEP])).any()
    everywhere = sorted(set(range(T)) - set(examples[2].flatten().tolist()))
    assert everywhere == [0, T - 1] if not nsp else everywhere == [0, 1 + words // 2, T - 1]


def test_80_percent_are_masked_10_random_10_stay(data: dict[str, Any]) -> None:
    tokens_CT, _, positions_CK, labels_CK = staged(data, steps=2500)
    shown_CK = tokens_CT.gather(1, positions_CK)
    count = labels_CK.numel()
    masked = (shown_CK == MASK).sum().item() / count
    same = (shown_CK == labels_CK).sum().item() / count
    by_chance = 0.1 / (VOCABULARY - len(SPECIAL))  # a random word may be the right one
    spread = 4 * math.sqrt(0.1 * 0.9 / count)
    assert masked == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / count))
    assert same == pytest.approx(0.1 + by_chance, abs=spread)
    others = shown_CK[(shown_CK != MASK) & (shown_CK != labels_CK)]
    assert set(others.tolist()) == set(range(len(SPECIAL), VOCABULARY))  # any word, and no special token


def test_every_place_is_masked_as_often(data: dict[str, Any]) -> None:
    positions_CK = staged(data, steps=2500)[2]
    counts = torch.bincount(positions_CK.flatten(), minlength=T)[1:-1].double()
    assert counts.min() > 0.9 * counts.mean()
    assert counts.max() < 1.1 * counts.mean()


# Next sentence


def test_the_second_segment_follows_in_half_of_the_examples(distinct: dict[str, Any]) -> None:
    examples = staged(distinct, steps=500, model={"nsp": True, "vocab_size": 4000})
    next_C = examples[4]
    tokens_CT, segments_CT = restored(examples), examples[1]
    assert next_C.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(next_C)))
    first = (T - 3) // 2
    assert segments_CT.unique(dim=0).tolist() == [[0] * (first + 2) + [1] * (T - first - 2)]
    ends = [0, first + 1, T - 1]
    assert tokens_CT[:, ends].unique(dim=0).tolist() == [[CLS, SEP, SEP]]
    one_CW, two_CW = tokens_CT[:, 1 : first + 1], tokens_CT[:, first + 2 : -1]
    for part in (one_CW, two_CW):
        assert (part.diff(dim=1) == 1).all()
    follows_C = two_CW[:, 0] == one_CW[:, -1] + 1
    assert follows_C[next_C == 0].all()
    assert follows_C[next_C == 1].double().mean() < 0.01  # by chance


# Evaluation


def test_every_mode_is_asked_the_same_questions(data: dict[str, Any]) -> None:
    one, other = workload(data), workload(data)
    one.stage(3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.eval_batch, other.eval_batch, strict=True))


def test_the_held_out_text_is_asked_from_its_beginning_without_gaps(data: dict[str, Any]) -> None:
    for eval_batches, count in ((2, 8), (1000, 600 // (T - 2))):
        tokens_CT = restored(workload(data, eval_batches=eval_batches).eval_batch)
        words = tokens_CT[:, 1:-1].flatten()
        assert len(tokens_CT) == count
        assert torch.equal(words, tokens.read(data["valid"])[: len(words)].long())


@pytest.mark.parametrize("nsp", [False, True])
def test_loss_and_accuracy_are_of_the_masked_words(nsp: bool, data: dict[str, Any]) -> None:
    torch.manual_seed(0)
    bert = workload(data, model={"nsp": nsp}, eval_batches=1000, micro_batch_size=5)
    model = bert.build()
    with torch.no_grad():
        model.mlm_head.vocabulary.bias.normal_()
    tokens_CT, segments_CT, positions_CK, labels_CK, *next_C = bert.eval_batch
    assert len(tokens_CT) % 5 != 0  # the last batch is smaller
    output = model(tokens_CT, segments_CT)
    mlm_CTV = output[0] if nsp else output
    rows = torch.arange(len(tokens_CT))[:, None]
    logits_CKV = mlm_CTV[rows, positions_CK][..., :VOCABULARY]
    loss, metrics = bert.evaluate(model)
    assert loss == pytest.approx(F.cross_entropy(logits_CKV.flatten(0, 1), labels_CK.flatten()).item(), rel=1e-5)
    assert metrics["perplexity"] == math.exp(loss)
    assert metrics["masked_accuracy"] == (logits_CKV.argmax(-1) == labels_CK).double().mean().item()
    if nsp:
        right = (output[1].argmax(-1) == next_C[0]).double().mean().item()
        assert metrics["next_sentence_accuracy"] == pytest.approx(right)
    else:
        assert "next_sentence_accuracy" not in metrics


def test_a_model_that_knows_the_words_is_always_right(data: dict[str, Any]) -> None:
    bert = workload(data)
    _, _, positions_CK, labels_CK = bert.eval_batch
    answers_CTV = torch.zeros(len(labels_CK), T, VOCABULARY)
    answers_CTV[torch.arange(len(labels_CK))[:, None], positions_CK, labels_CK] = 50.0

    class Oracle(torch.nn.Linear):
        asked = 0

        def forward(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
            self.asked += len(tokens_BT)
            return answers_CTV[self.asked - len(tokens_BT) : self.asked]

    loss, metrics = bert.evaluate(Oracle(1, 1))
    assert loss == pytest.approx(0, abs=1e-6)
    assert metrics["masked_accuracy"] == 1.0


def test_the_reference_is_of_the_masked_words(data: dict[str, Any]) -> None:
    bert = workload(data)
    (reference,) = bert.references()
    expected = tokens.unigram_loss(tokens.read(data["train"]), bert.eval_batch[3], VOCABULARY)
    assert reference == {"name": "unigram", "value": expected, "kind": "baseline"}
    assert bert.proofs(bert.build()) == ({}, [])
