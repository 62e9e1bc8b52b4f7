from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmbench.worker.faults import Unavailable
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.workloads.bert import BertMLM
from llmbench.worker.workloads.gpt import GPTLanguageModel
from llmbench.worker.workloads.hf import HFGPT2, HFBert, PeftLoRA, library
from llmbench.worker.workloads.lora import GPTLoRA
from tests.worker.conftest import MODELS, configuration

needs_hf = pytest.mark.hf
Workloads = tuple[Any, Any]


@pytest.fixture
def base(tmp_path: Path) -> str:
    """The file of a base for LoRA: of what quality it is does not matter here."""
    torch.manual_seed(1)
    file = tmp_path / "base.pt"
    torch.save(GPT(GPTConfig(**MODELS["gpt"])).state_dict(), file)
    return str(file)


@pytest.fixture
def side_by_side(data: dict[str, Any], base: str) -> Callable[..., tuple[Workloads, Workloads]]:
    """Both workloads of a pair with their models, each from the same seed: ``(ours, model), (theirs, model)``."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    pairs = {"gpt": (GPTLanguageModel, HFGPT2), "bert": (BertMLM, HFBert), "lora": (GPTLoRA, PeftLoRA)}

    def make(family: str, **changes: Any) -> tuple[Workloads, Workloads]:
        made = []
        for kind in pairs[family]:
            workload = kind(configuration(family, **changes), data | {"base": base})
            torch.manual_seed(0)
            made.append((workload, workload.build()))
        return made[0], made[1]

    return make


def loss(workload: Any, model: nn.Module, steps: int = 1) -> torch.Tensor:
    """Of the last of the staged batches."""
    return model(*(tensor[-1] for tensor in workload.stage(steps)))


def train(workload: Any, model: nn.Module, steps: int = 5) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for batch in zip(*workload.stage(steps), strict=True):
        value = model(*batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


@needs_hf
@pytest.mark.parametrize(
    ("family", "changes"), [("gpt", {}), ("bert", {}), ("bert", {"model": {"nsp": True}}), ("lora", {})]
)
def test_both_train_the_same_model_on_the_same_batches(
    family: str, changes: dict[str, Any], side_by_side: Callable[..., Any]
) -> None:
    """Equal curves: the same weights, batches, loss and gradients, step after step."""
    (ours, our_model), (theirs, their_model) = side_by_side(family, **changes)
    assert train(theirs, their_model) == pytest.approx(train(ours, our_model), rel=1e-5)
    our_loss, our_metrics = ours.evaluate(our_model)
    their_loss, their_metrics = theirs.evaluate(their_model)
    assert their_loss == pytest.approx(our_loss, rel=1e-5)
    assert their_metrics == pytest.approx(our_metrics, rel=1e-4)
    assert theirs.references()[0]["name"] == "unigram"


@needs_hf
def test_lora_adapts_the_same_base_by_the_same_updates(side_by_side: Callable[..., Any]) -> None:
    """Also once the updates are no longer zero, which is how they begin."""
    (ours, our_model), (theirs, their_model) = side_by_side("lora")
    for workload, model in ((ours, our_model), (theirs, their_model)):
        train(workload, model)
    tokens_BT = ours.eval_CL[:2, :-1]
    our_logits = our_model(tokens_BT)[..., : ours.vocab_size]
    torch.testing.assert_close(their_model(tokens_BT), our_logits, rtol=1e-3, atol=1e-4)
    facts, wrong = theirs.proofs(their_model)
    assert wrong == []
    trained = sum(p.numel() for p in their_model.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in our_model.parameters() if p.requires_grad)
    assert facts["merge_relative_difference"] < 1e-5


@needs_hf
def test_the_proof_leaves_the_model_as_it_is(side_by_side: Callable[..., Any]) -> None:
    _, (theirs, model) = side_by_side("lora")
    train(theirs, model)
    before = copy.deepcopy(model.state_dict())
    theirs.proofs(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any("lora" in name for name in theirs.merged(model).state_dict())


@needs_hf
def test_a_wrong_merge_of_peft_is_caught(side_by_side: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, (theirs, model) = side_by_side("lora")
    train(theirs, model)
    monkeypatch.setattr(type(model.model), "merge_and_unload", lambda wrapped: wrapped.unload(), raising=False)
    _, (message,) = theirs.proofs(model)
    assert message.startswith("merged weights give other logits: relative difference ")


@needs_hf
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt", "model.transformer.h.1.attn.c_attn.weight"),
        ("bert", "model.bert.encoder.layer.1.attention.self.query.weight"),
        ("lora", "model.base_model.model.transformer.h.1.attn.c_attn.lora_A.default.weight"),
    ],
)
def test_it_is_the_model_of_the_library(family: str, name: str, side_by_side: Callable[..., Any]) -> None:
    _, (_, model) = side_by_side(family)
    assert name in model.state_dict()
    assert len(model.blocks) == 2
    assert {type(module).__name__ for module in model.blocks} <= {"GPT2Block", "BertLayer"}
    inner = getattr(model.model, "base_model", model.model)
    assert model.model.config._attn_implementation == "sdpa"
    assert all(module.p == 0 for module in inner.modules() if isinstance(module, nn.Dropout))


@needs_hf
def test_the_labels_are_spread_before_the_clock_runs(side_by_side: Callable[..., Any]) -> None:
    (ours, _), (theirs, _) = side_by_side("bert")
    tokens_SBT, _, positions_SBK, labels_SBK = ours.stage(3)
    their_tokens_SBT, _, labels_SBT = theirs.stage(3)
    assert torch.equal(tokens_SBT, their_tokens_SBT)
    assert torch.equal(labels_SBT.gather(-1, positions_SBK), labels_SBK)
    assert (labels_SBT != -100).sum() == labels_SBK.numel()


def test_a_library_that_is_not_there_is_a_reason_to_skip(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as Python has it for what cannot be imported
    with pytest.raises(Unavailable, match=r"^transformers is not installed beside torch: pip install transformers$"):
        HFGPT2(configuration("gpt"), data).build()
    with pytest.raises(Unavailable, match="pip install transformers"):
        HFBert(configuration("bert"), data).build()


@needs_hf
def test_without_peft_its_lora_is_skipped(data: dict[str, Any], base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Unavailable, match="peft is not installed beside torch: pip install peft"):
        PeftLoRA(configuration("lora"), data | {"base": base}).build()


def test_a_library_that_is_there_and_broken_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import something_that_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="something_that_it_needs"):
        library("half_installed")
