"""LoRA (Hu et al. 2021, arXiv 2106.09685): W x becomes W x + (alpha / rank) B A x, and only A and B are trained.

Letters in names are dimensions: N rows (batch times positions), I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer with a trained update of low rank. B starts at zero, so at first nothing changes."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x_I: Tensor) -> Tensor:
        """(…, I) -> (…, O). The last product adds to the base's output: the update is never a tensor of its own."""
        x_NI = x_I.reshape(-1, self.base.in_features)
        y_NO = torch.addmm(self.base(x_NI), F.linear(x_NI, self.A), self.B.t(), alpha=self.scale)
        return y_NO.view(*x_I.shape[:-1], -1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the update added to its weight, in fp32 or wider before it is rounded."""
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) + self.scale * (self.B.to(wide) @ self.A.to(wide)))
        return self.base


def apply_lora(model: nn.Module, rank: int, alpha: float | None = None) -> nn.Module:
    """Freezes the model and gives the attention projections of every block a trained update, in place.

    Args:
        model: a GPT or BERT; ``model.blocks[i].attention`` has ``qkv`` and ``proj``.
        rank: of the updates, at least 1.
        alpha: the update is scaled by alpha / rank. By default 2 · rank: a scale that does not depend on the rank, so
            neither does the best learning rate.

    Raises:
        ValueError: the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA is {rank}, and must be at least 1")
    model.requires_grad_(False)
    for block in model.blocks:
        for name in ("qkv", "proj"):
            base = getattr(block.attention, name)
            setattr(block.attention, name, LoRALinear(base, rank, 2 * rank if alpha is None else alpha))
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Folds every update into its base layer, in place: plain linear layers again, with the same outputs."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoRALinear):
                setattr(module, name, child.merged())
    return model


def trainable_fraction(model: nn.Module) -> float:
    """Trained parameters / all parameters, each shared tensor counted once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained) / sum(size for size, _ in sizes)
