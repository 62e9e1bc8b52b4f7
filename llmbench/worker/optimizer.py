"""AdamW with the usual groups, a warm-up and cosine schedule, and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

BETAS = (0.9, 0.95)  # GPT-3 (Brown et al. 2020, appendix B)


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trainable. Only matrices decay: biases and gains of norms are vectors, and do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One kernel for all tensors; there on CUDA since torch 1.13 and on the CPU since 2.4.
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def warmup_cosine(peak: float, steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Learning rate by step: linear to ``peak``, then half a cosine down to a tenth of it."""
    warmup = max(1, round(steps * warmup_fraction))

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate
