from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmbench.worker.workloads import hf_config
from tests.worker.conftest import VOCABULARY, configuration

pytestmark = pytest.mark.hf
pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
}
LLAMA = SMALL | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_key_value_heads": 1}
ROBERTA = SMALL | {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "pad_token_id": 1}
BERT = SMALL | {"model_type": "bert", "type_vocab_size": 2, "hidden_dropout_prob": 0.1}


def of(values: dict[str, Any], data: dict[str, Any]) -> Any:
    """The workload of a case, as the control side asks for it."""
    config = configuration("gpt", model={}) | {"model": {"vocab_size": VOCABULARY, "n_positions": 16}}
    config["foreign"] = {"objective": hf_config.describe(values)["objective"], "hf": values}
    return hf_config.workload(config, data)


@pytest.mark.parametrize("values", [LLAMA, ROBERTA, BERT], ids=["llama", "roberta", "bert"])
def test_any_configuration_trains(values: dict[str, Any], data: dict[str, Any]) -> None:
    torch.manual_seed(0)
    workload = of(values, data)
    model = workload.build()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    before, _ = workload.evaluate(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in zip(*workload.stage(20), strict=True):
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after, metrics = workload.evaluate(model)
    assert after < before - 0.1
    assert metrics["perplexity"] > 1
    assert len(model.blocks) == 2


def test_the_causal_loss_is_of_the_next_token(data: dict[str, Any]) -> None:
    workload = of(LLAMA, data)
    model = workload.build()
    inputs_BT, targets_BT = (tensor[0] for tensor in workload.stage(1))
    log_p_BTV = model(inputs_BT).log_softmax(-1)
    by_hand = -log_p_BTV.gather(2, targets_BT[..., None]).mean()
    assert model(inputs_BT, targets_BT).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_masked_loss_is_of_the_masked_words(data: dict[str, Any]) -> None:
    workload = of(BERT, data)
    model = workload.build()
    tokens_BT, segments_BT, labels_BT = (tensor[0] for tensor in workload.stage(1))
    log_p_BTV = model(tokens_BT, segments_BT).log_softmax(-1)
    asked = labels_BT != -100
    by_hand = -log_p_BTV[asked].gather(1, labels_BT[asked][:, None]).mean()
    assert 0 < asked.sum() < asked.numel()
    assert model(tokens_BT, segments_BT, labels_BT).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_there_is_no_dropout_and_weights_are_fp32(data: dict[str, Any]) -> None:
    values = LLAMA | {"attention_dropout": 0.5, "torch_dtype": "bfloat16"}
    model = hf_config.model(values, "causal")
    assert model.config.attention_dropout == 0.0
    assert next(model.parameters()).dtype == torch.float32
    bert = hf_config.model(BERT, "masked")
    assert all(module.p == 0 for module in bert.modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize(
    ("values", "objective"),
    [
        (LLAMA, "causal"),
        (ROBERTA, "masked"),
        (BERT, "masked"),  # says nothing of itself; it can be both
        (BERT | {"is_decoder": True}, "causal"),
        (BERT | {"architectures": ["BertLMHeadModel"]}, "causal"),
        (BERT | {"architectures": ["BertForPreTraining"]}, "masked"),
        (SMALL | {"model_type": "gpt2", "n_embd": 16, "n_head": 2}, "causal"),
    ],
)
def test_the_objective_is_that_of_the_architecture(values: dict[str, Any], objective: str) -> None:
    assert hf_config.describe(values)["objective"] == objective


def test_a_description_counts_what_is_built() -> None:
    found = hf_config.describe(LLAMA)
    built = hf_config.model(LLAMA, "causal")
    assert found["parameters"] == sum(parameter.numel() for parameter in built.parameters())
    assert (found["vocab_size"], found["n_positions"]) == (VOCABULARY, 32)
    assert found["architecture"] == "LlamaForCausalLM"


def test_roberta_has_fewer_positions_than_it_says(data: dict[str, Any]) -> None:
    """It counts them from behind the padding token: the last of its 32 is reached by a sequence of 30."""
    found = hf_config.describe(ROBERTA)
    assert found["n_positions"] == 30
    model = hf_config.model(ROBERTA, "masked")
    words = torch.full((1, 31), 5)
    assert model(input_ids=words[:, :30]).logits.shape == (1, 30, VOCABULARY)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        model(input_ids=words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LLAMA | {"model_type": "lama"}, r"model_type 'lama' is unknown to transformers .*did you mean .*llama"),
        ({"model_type": "t5"}, "model_type 't5' is neither a causal nor a masked language model"),
        (BERT | {"num_attention_heads": 3}, "hidden size"),
    ],
)
def test_what_cannot_be_built_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf_config.describe(values)
