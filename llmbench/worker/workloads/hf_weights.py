"""Our weights under the names and in the layouts of transformers and peft: peers start from the very same model.

Conv1D of transformers' GPT-2 holds a weight as inputs × outputs, the other way round than ``nn.Linear``. Our
vocabulary is padded (``llmbench/worker/models/vocabulary.py``), theirs is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from llmbench.worker.models.bert import BERTConfig
from llmbench.worker.models.gpt import GPTConfig

Weights = Mapping[str, Tensor]

# The first pattern that is found is replaced, then the next is looked for in what came out.
_GPT2_NAMES = {
    r"^token_embedding": "transformer.wte",
    r"^position_embedding": "transformer.wpe",
    r"^norm": "transformer.ln_f",
    r"^blocks": "transformer.h",
    r"attention_norm": "ln_1",
    r"mlp_norm": "ln_2",
    r"attention\.qkv": "attn.c_attn",
    r"attention\.proj": "attn.c_proj",
    r"mlp\.fc": "mlp.c_fc",
    r"mlp\.proj": "mlp.c_proj",
}
_PEFT_NAMES = {r"\.base\.": ".base_layer.", r"\.A$": ".lora_A.default.weight", r"\.B$": ".lora_B.default.weight"}
_BERT_NAMES = {
    r"^token_embedding": "bert.embeddings.word_embeddings",
    r"^position_embedding": "bert.embeddings.position_embeddings",
    r"^segment_embedding": "bert.embeddings.token_type_embeddings",
    r"^embedding_norm": "bert.embeddings.LayerNorm",
    r"^pooler": "bert.pooler.dense",
    r"^blocks": "bert.encoder.layer",
    r"attention\.qkv": "attention.self.qkv",
    r"attention\.proj": "attention.output.dense",
    r"attention_norm": "attention.output.LayerNorm",
    r"mlp\.fc": "intermediate.dense",
    r"mlp\.proj": "output.dense",
    r"mlp_norm": "output.LayerNorm",
    r"^mlm_head\.dense": "cls.predictions.transform.dense",
    r"^mlm_head\.norm": "cls.predictions.transform.LayerNorm",
    r"^mlm_head\.vocabulary\.bias": "cls.predictions.bias",
    r"^nsp_head": "cls.seq_relationship",
}
_CONV1D = re.compile(r"(c_attn|c_proj|c_fc)(\.base)?\.weight$")


def gpt2(ours: Weights, config: GPTConfig) -> dict[str, Tensor]:
    """The state of a ``GPT2LMHeadModel`` from that of our GPT."""
    theirs = {}
    for name, tensor in ours.items():
        if ".qkv." in name and not name.endswith(".A"):
            tensor = torch.cat(_queries_keys_values(tensor, config.n_head))
        name = _renamed(name, _GPT2_NAMES)
        theirs[name] = tensor.T if _CONV1D.search(name) else tensor
    theirs["transformer.wte.weight"] = theirs["transformer.wte.weight"][: config.vocab_size]
    return theirs | {"lm_head.weight": theirs["transformer.wte.weight"]}  # tied


def peft_gpt2(ours: Weights, config: GPTConfig) -> dict[str, Tensor]:
    """The state of a ``GPT2LMHeadModel`` under peft's LoRA from that of our GPT under ours."""
    return {f"base_model.model.{_renamed(name, _PEFT_NAMES)}": tensor for name, tensor in gpt2(ours, config).items()}


def bert(ours: Weights, config: BERTConfig) -> dict[str, Tensor]:
    """The state of a ``BertForMaskedLM`` (with NSP of a ``BertForPreTraining``) from that of our BERT."""
    theirs = {}
    for name, tensor in ours.items():
        name = _renamed(name, _BERT_NAMES)
        if ".qkv." in name:
            parts = _queries_keys_values(tensor, config.n_head)
            for part, rows in zip(("query", "key", "value"), parts, strict=True):
                theirs[name.replace("qkv", part)] = rows
        else:
            theirs[name] = tensor
    words = theirs["bert.embeddings.word_embeddings.weight"][: config.vocab_size]
    tied = {
        "bert.embeddings.word_embeddings.weight": words,
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": theirs["cls.predictions.bias"],
    }
    return theirs | tied


def _queries_keys_values(qkv: Tensor, n_head: int) -> tuple[Tensor, ...]:
    """The rows of our one product, which are (head, q or k or v, E), as queries, keys and values of all heads."""
    return qkv.unflatten(0, (n_head, 3, -1)).transpose(0, 1).flatten(1, 2).unbind(0)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for pattern, new in names.items():
        name = re.sub(pattern, new, name)
    return name
