"""BERT (Devlin et al. 2019, arXiv 1810.04805) with its two objectives, masked tokens (MLM) and next sentence (NSP).

Letters in names are dimensions: B batch, T positions, K masked positions of a sequence, D ``d_model``, F ``d_ff``,
V padded vocabulary.

Sequences are full, so there is no padding mask: every position sees every other. There is no dropout, for the
reason that stands in ``gpt.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbench.worker.models.attention import SelfAttention
from llmbench.worker.models.vocabulary import TiedHead, cross_entropy, padded


@dataclass(frozen=True)
class BERTConfig:
    """A size of BERT. ``d_model`` is a multiple of ``n_head``; ``nsp`` adds the pooler and the next-sentence head."""

    vocab_size: int
    n_positions: int
    n_layer: int
    n_head: int
    d_model: int
    d_ff: int
    n_segments: int = 2
    nsp: bool = False

    @property
    def padded_vocab_size(self) -> int:
        return padded(self.vocab_size)


class MLP(nn.Module):
    """Two layers, ``d_ff`` wide inside."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.d_model, config.d_ff)
        self.proj = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.proj(F.gelu(self.fc(x_BTD)))


class Block(nn.Module):
    """One layer: the norms come after attention and MLP (post-LN)."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.d_model, config.n_head, causal=False)
        self.attention_norm = nn.LayerNorm(config.d_model, eps=1e-12)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=1e-12)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD))
        return self.mlp_norm(x_BTD + self.mlp(x_BTD))


class MaskedTokenHead(nn.Module):
    """A dense layer, GELU and norm; then the product with the token embedding, with a bias of its own."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, eps=1e-12)
        self.vocabulary = TiedHead(config.vocab_size, bias=True)

    def forward(self, x_BKD: Tensor, embedding_VD: Tensor, labels_BK: Tensor | None = None) -> Tensor:
        return self.vocabulary(self.norm(F.gelu(self.dense(x_BKD))), embedding_VD, labels_BK)


class BERT(nn.Module):
    """The encoder with its heads. Without NSP there is no pooler either, so that every parameter is trained."""

    # What each end uses beside the blocks.
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "embed": ("token_embedding", "position_embedding", "segment_embedding", "embedding_norm"),
        "finish": ("mlm_head", "pooler", "nsp_head", "token_embedding"),
    }
    embed_inputs = 2  # tensors of a batch that ``embed`` takes; the others go to ``finish``

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.n_positions, config.d_model)
        self.segment_embedding = nn.Embedding(config.n_segments, config.d_model)
        self.embedding_norm = nn.LayerNorm(config.d_model, eps=1e-12)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.mlm_head = MaskedTokenHead(config)
        if config.nsp:
            self.pooler = nn.Linear(config.d_model, config.d_model)
            self.nsp_head = nn.Linear(config.d_model, 2)
        self.apply(_initialize)

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        positions_BK: Tensor | None = None,
        labels_BK: Tensor | None = None,
        next_B: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or with labels the loss: the mean MLM cross-entropy plus, with ``nsp``, that of ``next_B``.

        The logits are (B, T, V), or (B, K, V) at ``positions_BK``; with ``nsp`` they come as (mlm, nsp_B2). Only the
        masked positions are worth the head's product with the vocabulary, and K is the same for every sequence so
        that shapes stay static; a label of -100 leaves a position out of the mean. ``next_B`` is 0 where the second
        segment follows the first, 1 where it does not.
        """
        x_BTD = self.embed(tokens_BT, segments_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.finish(x_BTD, positions_BK, labels_BK, next_B)

    def embed(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        x_BTD = (
            self.token_embedding(tokens_BT)
            + self.position_embedding.weight[: tokens_BT.size(1)]
            + self.segment_embedding(segments_BT)
        )
        return self.embedding_norm(x_BTD)

    def finish(
        self,
        x_BTD: Tensor,
        positions_BK: Tensor | None = None,
        labels_BK: Tensor | None = None,
        next_B: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        x_BKD = x_BTD if positions_BK is None else _at(x_BTD, positions_BK)
        mlm = self.mlm_head(x_BKD, self.token_embedding.weight, labels_BK)  # logits_BKV, or the loss
        if not self.config.nsp:
            return mlm
        first_BD = x_BTD[:, 0].contiguous()  # a copy: as a view it would keep all of x for its backward
        nsp_B2 = self.nsp_head(torch.tanh(self.pooler(first_BD)))
        return (mlm, nsp_B2) if labels_BK is None else mlm + cross_entropy(nsp_B2, next_B)


def _at(x_BTD: Tensor, positions_BK: Tensor) -> Tensor:
    # Whole rows by index_select: gather would index each element, and keep all of x for its backward.
    B, T, D = x_BTD.shape
    first_B1 = T * torch.arange(B, device=x_BTD.device).unsqueeze(1)
    return x_BTD.reshape(B * T, D).index_select(0, (first_B1 + positions_BK).flatten()).view(B, -1, D)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
