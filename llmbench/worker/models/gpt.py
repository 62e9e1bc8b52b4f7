"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), as OpenAI released it.

Letters in names are dimensions: B batch, T positions, D ``d_model``, V padded
vocabulary.

There is no dropout: every mode shall do the same arithmetic on the same batch, so that its losses and gradients can be
held against eager fp32, and fused attention kernels draw other random numbers than plain ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from llmbench.worker.models.attention import SelfAttention
from llmbench.worker.models.vocabulary import TiedHead, padded


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
        self.attention = SelfAttention(config.d_model, config.n_head, causal=True)
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class GPT(nn.Module):
    """The decoder; its head is tied to the token embedding."""

    # What each end uses beside the blocks.
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "embed": ("token_embedding", "position_embedding"),
        "finish": ("norm", "vocabulary", "token_embedding"),
    }
    embed_inputs = 1  # tensors of a batch that ``embed`` takes; the others go to ``finish``

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.n_positions, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.vocabulary = TiedHead(config.vocab_size)
        self.apply(_initialize)
        for block in self.blocks:
            for residual in (block.attention.proj, block.mlp.proj):
                nn.init.normal_(residual.weight, std=0.02 / math.sqrt(2 * config.n_layer))

    def embed(self, tokens_BT: Tensor) -> Tensor:
        return self.token_embedding(tokens_BT) + self.position_embedding.weight[: tokens_BT.size(1)]

    def finish(self, x_BTD: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        return self.vocabulary(self.norm(x_BTD), self.token_embedding.weight, targets_BT)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Logits_BTV (padding at ``PADDING_LOGIT``), or with targets the mean cross-entropy in nats, in fp32 or wider.

        The loss is part of the model so that compiling or wrapping the model covers it.
        """
        x_BTD = self.embed(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.finish(x_BTD, targets_BT)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
