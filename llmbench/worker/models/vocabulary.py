"""What the language-model heads share: a padded vocabulary, logits from the tied embedding, and the loss.

Matrix products run best when their sizes are multiples of 64 (a quarter of the step of GPT-2 124M, nanoGPT commit
77e7e04c). So the embedding has rows that no token ever uses. Their logits are held at ``PADDING_LOGIT``, whose
exponential is exactly zero in every floating-point type: padding takes no probability, its rows have a gradient
of exactly zero, and loss, perplexity and gradients are those of the model without padding. Where the
vocabulary is a multiple of 64 already nothing is added at all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MULTIPLE = 64

PADDING_LOGIT = -1e4
"""Not minus infinity, which turns into NaN wherever a later objective multiplies it by a probability of zero."""


def padded(vocab_size: int) -> int:
    """The smallest multiple of 64 that holds the vocabulary."""
    return -(-vocab_size // MULTIPLE) * MULTIPLE


def tied_logits(x_D: Tensor, embedding_PD: Tensor, vocab_size: int, bias_V: Tensor | None = None) -> Tensor:
    """Logits (…, P) of hidden states (…, D) against the embedding, P = ``padded(vocab_size)``.

    The mask is the bias of the product, so it costs no pass over the logits, in forward or backward.
    """
    padding = padded(vocab_size) - vocab_size
    if padding:
        bias_V = embedding_PD.new_zeros(vocab_size) if bias_V is None else bias_V
        bias_V = F.pad(bias_V, (0, padding), value=PADDING_LOGIT)
    return F.linear(x_D, embedding_PD, bias_V)


class TiedHead(nn.Module):
    """The head over the vocabulary: the product with the token embedding, and with targets the loss."""

    def __init__(self, vocab_size: int, bias: bool = False) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, x_D: Tensor, embedding_PD: Tensor, targets: Tensor | None = None) -> Tensor:
        """(…, D) -> logits (…, P), or with targets (…) their mean cross-entropy."""
        logits_P = tied_logits(x_D, embedding_PD, self.vocab_size, self.bias)
        return logits_P if targets is None else cross_entropy(logits_P, targets)


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross-entropy in nats of (…, V) logits, in fp32 or wider; targets of -100 are left out."""
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return F.cross_entropy(logits_NV.flatten(0, -2).to(wide), targets_N.flatten())
