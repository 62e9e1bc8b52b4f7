from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmbench.worker.methods.lora import LoRALinear
from llmbench.worker.workloads.gpt import GPTLanguageModel
from llmbench.worker.workloads.lora import GPTLoRA
from tests.worker.conftest import configuration


@pytest.fixture
def adapted(data: dict[str, Any], base: str) -> tuple[GPTLoRA, nn.Module]:
    """A workload and its model, whose updates do something."""
    torch.manual_seed(0)
    workload = GPTLoRA(configuration("lora"), data | {"base": base})
    model = workload.build()
    workload.before(model)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.B, std=0.3)
    return workload, model


def test_it_starts_from_the_base(data: dict[str, Any], base: str) -> None:
    workload = GPTLoRA(configuration("lora"), data | {"base": base})
    model = workload.build()
    workload.before(model)
    weights = torch.load(base, weights_only=True)
    assert torch.equal(model.blocks[0].attention.qkv.base.weight, weights["blocks.0.attention.qkv.weight"])
    assert torch.equal(model.token_embedding.weight, weights["token_embedding.weight"])
    plain = GPTLanguageModel(configuration("gpt"), data)
    base_model = plain.build()
    base_model.load_state_dict(weights)
    loss, _ = plain.evaluate(base_model)
    assert workload.evaluate(model)[0] == loss  # the updates begin at nothing
    assert workload.references()[-1] == {"name": "base before adaptation", "value": loss, "kind": "baseline"}
    assert [reference["name"] for reference in workload.references()] == ["unigram", "base before adaptation"]


def test_all_is_proved_of_a_model_that_is_right(adapted: tuple[GPTLoRA, nn.Module]) -> None:
    workload, model = adapted
    facts, wrong = workload.proofs(model)
    assert wrong == []
    assert 0 < facts["merge_relative_difference"] < 1e-5
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert facts["trainable_fraction"] == trained / sum(parameter.numel() for parameter in model.parameters())
    assert any(isinstance(module, LoRALinear) for module in model.modules())  # it was merged in a copy


def test_the_proof_is_of_the_merge_and_not_of_the_arithmetic(adapted: tuple[GPTLoRA, nn.Module]) -> None:
    """Weights in bfloat16 cannot hold an update exactly; that is the mode's affair."""
    workload, model = adapted
    facts, wrong = workload.proofs(model.to(torch.bfloat16))
    assert wrong == []
    assert 0 < facts["merge_relative_difference"] < 1e-5
    assert next(model.parameters()).dtype == torch.bfloat16


def test_a_wrong_merge_is_caught(adapted: tuple[GPTLoRA, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    workload, model = adapted
    monkeypatch.setattr(LoRALinear, "merged", lambda layer: layer.base)  # forgets the update
    facts, wrong = workload.proofs(model)
    assert facts["merge_relative_difference"] > 1e-3
    (message,) = wrong
    assert message.startswith("merged weights give other logits: relative difference ")


def test_a_slightly_wrong_merge_is_caught(adapted: tuple[GPTLoRA, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """The large constant logits of the vocabulary's padding must not hide it."""
    workload, model = adapted
    original = LoRALinear.merged

    def halved(layer: LoRALinear) -> nn.Linear:
        layer.scale *= 0.99
        return original(layer)

    monkeypatch.setattr(LoRALinear, "merged", halved)
    assert len(workload.proofs(model)[1]) == 1


def test_a_merge_that_gives_no_number_is_caught(
    adapted: tuple[GPTLoRA, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, model = adapted

    def broken(layer: LoRALinear) -> nn.Linear:
        nn.init.constant_(layer.base.weight, torch.nan)
        return layer.base

    monkeypatch.setattr(LoRALinear, "merged", broken)
    assert "relative difference nan" in workload.proofs(model)[1][0]


def test_a_base_of_another_size_is_refused(data: dict[str, Any], base: str) -> None:
    config = configuration("lora", model={"d_model": 32})
    with pytest.raises(RuntimeError, match="size mismatch"):
        GPTLoRA(config, data | {"base": base}).build()
