"""The kernel of attention as a module of its own, so that a mode can put another in its place."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SDPA(nn.Module):
    """torch's scaled dot-product attention, with the kernel that torch chooses."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        """(B, H, T, E) of queries, keys and values -> (B, H, T, E)."""
        return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=self.causal)


class SelfAttention(nn.Module):
    """Self-attention with one product for queries, keys and values.

    The rows of ``qkv`` are in the order (head, q or k or v, E): a block of rows is a block of whole heads, so that
    tensor parallelism can split them as it splits any other matrix.
    """

    def __init__(self, d_model: int, n_head: int, causal: bool) -> None:
        super().__init__()
        self.d_head = d_model // n_head
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.kernel = SDPA(causal)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        qkv_BHT3E = self.qkv(x_BTD).view(B, T, -1, 3, self.d_head).transpose(1, 2)
        y_BHTE = self.kernel(*qkv_BHT3E.unbind(3))
        return self.proj(y_BHTE.transpose(1, 2).reshape(B, T, -1))
