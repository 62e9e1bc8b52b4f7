"""FLOPs of a step that no formula knows: torch's own counter, on eager fp32."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SOURCE = "FlopCounterMode, eager with attention as plain products"


def count_flops(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Any]:
    """``flops_per_step`` of the forward and backward pass of one batch, and ``flops_source``.

    Attention is computed as plain products meanwhile: the counter misses some of the fused kernels.
    """
    model = copy.deepcopy(model)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(*batch).backward()
    return {"flops_per_step": float(counter.get_total_flops()), "flops_source": SOURCE}
