"""Any language model of transformers, from its ``config.json`` alone: random weights, our data, the same loop."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from llmbench.worker.workloads.bert import BertMLM
from llmbench.worker.workloads.gpt import GPTLanguageModel
from llmbench.worker.workloads.hf import CausalLM, MaskedLM, everywhere, layers, library

Config = dict[str, Any]


class HFCausal(GPTLanguageModel):
    """``config["foreign"]["hf"]`` is the model's ``config.json``."""

    def build(self) -> nn.Module:
        return CausalLM(model(self.config["foreign"]["hf"], "causal"))


class HFMasked(BertMLM):
    """As ``HFCausal``; the loss is the model's own over all positions."""

    def build(self) -> nn.Module:
        return MaskedLM(model(self.config["foreign"]["hf"], "masked"))

    def stage(self, steps: int) -> tuple[torch.Tensor, ...]:
        tokens_SBT, segments_SBT, positions_SBK, labels_SBK = super().stage(steps)
        return tokens_SBT, segments_SBT, everywhere(tokens_SBT, positions_SBK, labels_SBK)


def workload(config: dict[str, Any], data: dict[str, Any]) -> HFCausal | HFMasked:
    """The workload of a case ``hf:CONFIG_DIR``."""
    return (HFMasked if config["foreign"]["objective"] == "masked" else HFCausal)(config, data)


def model(values: Config, objective: str) -> nn.Module:
    """The model of a ``config.json``, in fp32, without dropout (every mode shall do the same arithmetic).

    Raises:
        Unavailable: transformers is not installed.
        ValueError: transformers does not know the model, or a value of its configuration cannot be.
    """
    transformers = library("transformers")
    auto = transformers.AutoModelForMaskedLM if objective == "masked" else transformers.AutoModelForCausalLM
    return auto.from_config(_config(values))


def describe(values: Config) -> dict[str, Any]:
    """What the control side must know of a ``config.json``: its objective, vocabulary, positions and parameters.

    The model is built without memory (on the device ``meta``), so that a configuration that cannot be is found before
    anything is prepared for it.

    Raises:
        Unavailable: transformers is not installed.
        ValueError: as ``model``, or it is neither a causal nor a masked language model.
    """
    transformers = library("transformers")
    if values["model_type"] not in transformers.CONFIG_MAPPING:
        near = get_close_matches(values["model_type"], list(transformers.CONFIG_MAPPING))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"model_type {values['model_type']!r} is unknown to transformers {transformers.__version__}{hint}"
        )
    config = _config(values)
    objective = _objective(values, config)
    with torch.device("meta"):
        built = model(values, objective)
    text = config.get_text_config()
    return {
        "objective": objective,
        "architecture": type(built).__name__,
        "vocab_size": text.vocab_size,
        "n_positions": _positions(built, getattr(text, "max_position_embeddings", None)),
        "n_layer": len(layers(built)),
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
    }


def _config(values: Config) -> Any:
    auto = library("transformers").AutoConfig
    # Weights are in fp32, as those of every other workload; a mode chooses the arithmetic.
    kept = {key: value for key, value in values.items() if key not in ("dtype", "torch_dtype")}
    config = auto.for_model(**kept)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for key, value in part.to_dict().items():
            if "drop" in key and isinstance(value, float):
                setattr(part, key, 0.0)
        part.use_cache = False  # of keys and values: of use in generation only
    return config


def _objective(values: Config, config: Any) -> str:
    """``masked`` if the architecture says so; where it says nothing, if the model can be and is no decoder."""
    transformers = library("transformers")
    named = " ".join(values.get("architectures") or [])
    can = {
        "masked": type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING,
        "causal": type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
    }
    if not any(can.values()):
        raise ValueError(f"model_type {config.model_type!r} is neither a causal nor a masked language model")
    if can["masked"] and ("MaskedLM" in named or "PreTraining" in named):
        return "masked"
    if can["causal"] and ("CausalLM" in named or "LMHead" in named or getattr(config, "is_decoder", False)):
        return "causal"
    return "masked" if can["masked"] else "causal"


def _positions(built: nn.Module, positions: int | None) -> int | None:
    """Positions that a sequence may have. RoBERTa and its like count them from behind the padding token's."""
    for module in built.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == positions and module.padding_idx is not None:
            return positions - module.padding_idx - 1
    return positions
