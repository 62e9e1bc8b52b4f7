"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), as OpenAI released it.

Letters in names are dimensions: B batch, T positions, D ``d_model``, H heads, E ``d_model / n_head``, V padded
vocabulary.

There is no dropout: every mode shall do the same arithmetic on the same batch, so that its losses and gradients can be
held against eager fp32, and fused attention kernels draw other random numbers than plain ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from llmbench.worker.models.vocabulary import cross_entropy, padded, tied_logits


@dataclass(frozen=True)
class GPTConfig:
    """A size of GPT-2. ``d_model`` is a multiple of ``n_head``."""

    vocab_size: int
    n_positions: int
    n_layer: int
    n_head: int
    d_model: int

    @property
    def padded_vocab_size(self) -> int:
        return padded(self.vocab_size)


class Attention(nn.Module):
    """Causal self-attention with one product for queries, keys and values."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q_BHTE, k_BHTE, v_BHTE = (
            part_BTD.view(B, T, self.n_head, D // self.n_head).transpose(1, 2)
            for part_BTD in self.qkv(x_BTD).split(D, dim=2)
        )
        y_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True)
        return self.proj(y_BHTE.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Two layers, four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.d_model, 4 * config.d_model)
        self.proj = nn.Linear(4 * config.d_model, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.proj(F.gelu(self.fc(x_BTD), approximate="tanh"))


class Block(nn.Module):
    """One layer: the norms come before attention and MLP (pre-LN)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class GPT(nn.Module):
    """The decoder; its head is tied to the token embedding."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.n_positions, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.apply(_initialize)
        for block in self.blocks:
            for residual in (block.attention.proj, block.mlp.proj):
                nn.init.normal_(residual.weight, std=0.02 / math.sqrt(2 * config.n_layer))

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Logits_BTV (padding at ``PADDING_LOGIT``), or with targets the mean cross-entropy in nats, in fp32 or wider.

        The loss is part of the model so that compiling or wrapping the model covers it.
        """
        x_BTD = self.token_embedding(tokens_BT) + self.position_embedding.weight[: tokens_BT.size(1)]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = tied_logits(self.norm(x_BTD), self.token_embedding.weight, self.config.vocab_size)
        return logits_BTV if targets_BT is None else cross_entropy(logits_BTV, targets_BT)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
