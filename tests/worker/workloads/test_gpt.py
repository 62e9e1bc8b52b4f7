from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from llmbench.worker import tokens
from llmbench.worker.workloads.gpt import GPTLanguageModel
from tests.worker.conftest import VOCABULARY, configuration


def test_each_target_is_the_next_token(data: dict[str, Any]) -> None:
    inputs_SBT, targets_SBT = GPTLanguageModel(configuration("gpt"), data).stage(10)
    assert inputs_SBT.shape == targets_SBT.shape == (10, 4, 16)
    assert torch.equal(inputs_SBT[..., 1:], targets_SBT[..., :-1])
    text = tokens.read(data["train"]).tolist()
    windows = {tuple(text[start : start + 17]) for start in range(len(text) - 16)}
    for inputs_T, last in zip(inputs_SBT.flatten(0, 1).tolist(), targets_SBT[..., -1].flatten().tolist(), strict=True):
        assert (*inputs_T, last) in windows


def test_the_batches_are_those_of_the_seed(data: dict[str, Any]) -> None:
    one, same, other = (GPTLanguageModel(configuration("gpt", seed=seed), data).stage(10)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_the_held_out_text_is_evaluated_from_its_beginning_without_gaps(data: dict[str, Any]) -> None:
    workload = GPTLanguageModel(configuration("gpt"), data)
    text = tokens.read(data["valid"])
    assert len(workload.eval_CL) == 2 * 4
    assert torch.equal(workload.eval_CL[:, 1:].flatten(), text[1 : 1 + 2 * 4 * 16].long())
    everything = GPTLanguageModel(configuration("gpt", eval_batches=1000), data)
    assert len(everything.eval_CL) == (len(text) - 1) // 16


def test_evaluation_is_the_mean_over_all_held_out_tokens(data: dict[str, Any]) -> None:
    """Also where the last batch is smaller than the others."""
    config = configuration("gpt", micro_batch_size=5, eval_batches=1000)
    workload = GPTLanguageModel(config, data)
    assert len(workload.eval_CL) % 5 != 0
    model = workload.build()
    loss, metrics = workload.evaluate(model)
    logits_CTV = model(workload.eval_CL[:, :-1])[..., :VOCABULARY]
    by_hand = -logits_CTV.log_softmax(-1).gather(2, workload.eval_CL[:, 1:, None]).mean().item()
    assert loss == pytest.approx(by_hand, rel=1e-5)
    assert metrics == {"perplexity": math.exp(loss)}


def test_a_loss_beyond_all_measure_has_an_infinite_perplexity(data: dict[str, Any]) -> None:
    workload = GPTLanguageModel(configuration("gpt"), data)
    model = workload.build()
    with torch.no_grad():
        model.norm.weight.mul_(1e7)
    loss, metrics = workload.evaluate(model)
    assert loss > 700
    assert metrics["perplexity"] == math.inf


def test_the_references(data: dict[str, Any]) -> None:
    workload = GPTLanguageModel(configuration("gpt"), data)
    (unigram,) = workload.references()
    targets = workload.eval_CL[:, 1:]
    expected = tokens.unigram_loss(tokens.read(data["train"]), targets, VOCABULARY)
    assert unigram == {"name": "unigram", "value": expected, "kind": "baseline"}
    _, floor = GPTLanguageModel(configuration("gpt"), data | {"floor": 1.25}).references()
    assert floor == {"name": "source entropy", "value": 1.25, "kind": "floor"}


def test_an_untrained_model_knows_no_more_than_the_size_of_the_vocabulary(data: dict[str, Any]) -> None:
    torch.manual_seed(0)
    workload = GPTLanguageModel(configuration("gpt"), data)
    loss, _ = workload.evaluate(workload.build())
    assert loss == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert workload.proofs(workload.build()) == ({}, [])
