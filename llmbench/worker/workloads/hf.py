"""Peers: the models of transformers and peft, on our data, from our weights, through the same loop.

They are made from configurations only, and set up to their best: no dropout (ours has none), no cache of keys and
values (of use in generation only), no padding token (which would have each batch searched for it), and the attention
that transformers takes by itself, torch's ``scaled_dot_product_attention``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from llmbench.worker.faults import Unavailable
from llmbench.worker.models.bert import BERTConfig
from llmbench.worker.models.gpt import GPTConfig
from llmbench.worker.models.vocabulary import cross_entropy
from llmbench.worker.workloads import hf_weights
from llmbench.worker.workloads.bert import BertMLM
from llmbench.worker.workloads.gpt import GPTLanguageModel
from llmbench.worker.workloads.lora import GPTLoRA

IGNORED = -100  # the label that transformers (and torch) leave out of the mean


def library(name: str) -> ModuleType:
    """The library (transformers or peft) of this environment.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # it is there, and broken: that is a failure
        raise Unavailable(f"{name} is not installed beside torch: pip install {name}") from None


class CausalLM(nn.Module):
    """A language model of transformers, called as ours are: logits, or with targets the mean loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def blocks(self) -> nn.ModuleList:
        return layers(self.model)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Logits_BTV, or with targets the mean cross-entropy in nats, in fp32.

        Not ``model(tokens, labels=tokens).loss``: that shifts the labels inside, and so trains one position less of
        each sequence than ours. This is the same arithmetic (logits to fp32, then ``cross_entropy``) on the targets
        that were staged, and it spares transformers the copy of the labels that its shift makes.
        """
        logits_BTV = self.model(input_ids=tokens_BT).logits
        return logits_BTV if targets_BT is None else cross_entropy(logits_BTV, targets_BT)


class MaskedLM(nn.Module):
    """A masked language model of transformers, called as our BERT is, but with a label for every position."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.nsp = hasattr(getattr(model, "cls", None), "seq_relationship")
        # Not every such model knows segments; all of ours that matter are 0, which is what it takes by itself then.
        self.segments = getattr(model.config, "type_vocab_size", 0) > 1

    @property
    def blocks(self) -> nn.ModuleList:
        return layers(self.model)

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        labels_BT: Tensor | None = None,
        next_B: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits_BTV (with NSP also nsp_B2), or with labels the mean loss.

        The loss is the model's own, the one that everybody trains with: its head computes the logits of all positions,
        and the mean is over those whose label is not -100. Ours computes them at the masked positions only.
        """
        inputs = {"input_ids": tokens_BT} | ({"token_type_ids": segments_BT} if self.segments else {})
        if labels_BT is not None:
            more = {"next_sentence_label": next_B} if self.nsp else {}
            return self.model(**inputs, labels=labels_BT, **more).loss
        output = self.model(**inputs)
        return (output.prediction_logits, output.seq_relationship_logits) if self.nsp else output.logits


def layers(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a model: its outermost list of modules, or none."""
    return next((module for module in model.modules() if isinstance(module, nn.ModuleList)), nn.ModuleList())


def gpt2(config: GPTConfig) -> nn.Module:
    """GPT-2 of transformers at this size, with weights of its own."""
    transformers = library("transformers")
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.d_model,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def bert(config: BERTConfig) -> nn.Module:
    """BERT of transformers at this size, with weights of its own."""
    transformers = library("transformers")
    architecture = transformers.BertForPreTraining if config.nsp else transformers.BertForMaskedLM
    return architecture(
        transformers.BertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.n_positions,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            type_vocab_size=config.n_segments,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            use_cache=False,
            pad_token_id=None,
        )
    )


def lora(model: nn.Module, rank: int) -> nn.Module:
    """LoRA of peft on GPT-2, as in ``llmbench/worker/methods/lora.py``: both projections of attention, alpha 2 r."""
    peft = library("peft")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=["c_attn", "attn.c_proj"],
        fan_in_fan_out=True,  # Conv1D
    )
    return peft.get_peft_model(model, config)


class HFGPT2(GPTLanguageModel):
    """transformers' ``GPT2LMHeadModel``, beside the family ``gpt``."""

    def build(self) -> nn.Module:
        config = GPTConfig(**self.config["model"])
        ours = super().build()  # first: from the seed, as without transformers
        model = gpt2(config)
        model.load_state_dict(hf_weights.gpt2(ours.state_dict(), config))
        return CausalLM(model)


class HFBert(BertMLM):
    """transformers' ``BertForMaskedLM`` (with NSP ``BertForPreTraining``), beside the family ``bert``."""

    def build(self) -> nn.Module:
        config = BERTConfig(**self.config["model"])
        ours = super().build()
        model = bert(config)
        model.load_state_dict(hf_weights.bert(ours.state_dict(), config))
        return MaskedLM(model)

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        """As ours, with the labels spread over all positions before the clock runs."""
        tokens_SBT, segments_SBT, positions_SBK, labels_SBK, *next_SB = super().stage(steps)
        return tokens_SBT, segments_SBT, everywhere(tokens_SBT, positions_SBK, labels_SBK), *next_SB


def everywhere(tokens_BT: Tensor, positions_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Labels_BT of all positions: -100 where nothing is masked."""
    return torch.full_like(tokens_BT, IGNORED).scatter(-1, positions_BK, labels_BK)


class PeftLoRA(GPTLoRA):
    """peft's LoRA on ``GPT2LMHeadModel``, beside the family ``lora``: it adapts the same base."""

    def build(self) -> nn.Module:
        config = GPTConfig(**self.config["model"])
        ours = super().build()
        model = lora(gpt2(config), self.config["lora_rank"])
        model.load_state_dict(hf_weights.peft_gpt2(ours.state_dict(), config))
        return CausalLM(model)

    def merged(self, model: nn.Module) -> nn.Module:
        model.model = model.model.merge_and_unload()
        return model
