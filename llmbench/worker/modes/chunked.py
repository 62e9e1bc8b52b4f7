"""Cross-entropy in chunks of rows: the logits of all positions, a model's largest tensor, never exist at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmbench.worker.models.vocabulary import TiedHead, tied_logits

MOST_ROWS = 1024  # smaller chunks cost time (torchtune and TRL measured it), so no smaller than there is need
FEWEST_CHUNKS = 4


class ChunkedHead(TiedHead):
    """A ``TiedHead`` whose loss goes chunk by chunk; the backward pass computes each chunk's logits again."""

    @classmethod
    def of(cls, head: TiedHead) -> ChunkedHead:
        chunked = cls(head.vocab_size)
        chunked.bias = head.bias
        return chunked

    def forward(self, x_D: Tensor, embedding_PD: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return super().forward(x_D, embedding_PD)
        x_ND, targets_N = x_D.flatten(0, -2), targets.flatten()
        rows = chunk_rows(len(x_ND))
        total = torch.zeros((), device=x_D.device)
        for x_RD, targets_R in zip(x_ND.split(rows), targets_N.split(rows), strict=True):
            total = total + checkpoint(
                self._loss, x_RD, embedding_PD, targets_R, use_reentrant=False, preserve_rng_state=False
            )
        return total / (targets_N != -100).sum()

    def _loss(self, x_RD: Tensor, embedding_PD: Tensor, targets_R: Tensor) -> Tensor:
        logits_RP = tied_logits(x_RD, embedding_PD, self.vocab_size, self.bias)
        wide = torch.promote_types(logits_RP.dtype, torch.float32)
        return F.cross_entropy(logits_RP.to(wide), targets_R, reduction="sum")


def chunk_rows(rows: int) -> int:
    """Rows of one chunk."""
    return min(MOST_ROWS, -(-rows // FEWEST_CHUNKS))


def apply_chunked_ce(model: nn.Module) -> nn.Module:
    """Puts chunked heads in the place of the model's, with the same parameters."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is TiedHead:
                setattr(module, name, ChunkedHead.of(child))
    return model
