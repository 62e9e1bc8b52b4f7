"""AdamW with the usual groups, a warm-up and cosine schedule, and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

BETAS = (0.9, 0.95)  # GPT-3 (Brown et al. 2020, appendix B)
MIN_WARMUP = 20  # steps; in fewer Adam, whose averages know little yet, overshoots, and rounding decides how far


def adamw(model: nn.Module, learning_rate: float, weight_decay: float, fused: bool = False) -> torch.optim.AdamW:
    """AdamW over what is trainable. Only matrices decay: biases and gains of norms are vectors, and do not.

    Args:
        fused: one kernel for all tensors, there on CUDA since torch 1.13 and on the CPU since 2.4. Otherwise torch
            decides: a loop over tensors on the CPU, "foreach" on CUDA.
    """
    groups = [
        {"params": parameters, "weight_decay": decay}
        for placed in by_placement(model.parameters())
        for parameters, decay in (
            ([p for p in placed if p.dim() >= 2], weight_decay),
            ([p for p in placed if p.dim() < 2], 0.0),
        )
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True if fused else None)


def by_placement(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The trainable ones, together where kernels may take them together: split over the same ranks in one way.

    A model of one process is one group. With tensor parallelism some tensors are split and others are not.
    """
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    return list(groups.values())


def clip(
    groups: list[list[nn.Parameter]],
    max_norm: float,
    counted_elsewhere: Container[nn.Parameter] = (),
    over_ranks: Callable[[Tensor], Tensor] = lambda square: square,
) -> None:
    """Scales all gradients so that their global norm is at most ``max_norm``.

    Args:
        groups: as ``by_placement`` makes them.
        counted_elsewhere: tensors that another rank holds too, and counts.
        over_ranks: the sum over the ranks of the squared norm, where they hold different tensors.
    """
    squares = []
    for group in groups:
        norm = get_total_norm([p.grad for p in group if p.grad is not None and p not in counted_elsewhere])
        squares.append((norm.full_tensor() if hasattr(norm, "full_tensor") else norm).square())
    total = over_ranks(torch.stack(squares).sum()).sqrt()
    for group in groups:
        clip_grads_with_norm_(group, max_norm, total)


def warmup_cosine(peak: float, steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Learning rate by step: linear to ``peak``, then half a cosine down to a tenth of it; 0 after the last step.

    It rises for at least ``MIN_WARMUP`` steps, be the training shorter, unless it is not to rise at all.
    """
    warmup = max(1, round(steps * warmup_fraction), MIN_WARMUP if warmup_fraction else 0)

    def rate(step: int) -> float:
        if step >= steps:
            return 0.0
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate
