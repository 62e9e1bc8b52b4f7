"""Which kernel computes attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.models.attention import SDPA
from llmbench.worker.modes.compile import missing_tool
from llmbench.worker.modes.precision import HALF

KERNELS = ("flash", "mem_efficient", "math", "cudnn")


def missing(part: str, device: Device, mode: list[str]) -> str | None:
    """Why this machine, or the precision of the mode, has no such kernel; None if there is one."""
    if part in ("sdpa-cudnn", "flex") and not device.cuda:
        what = "cuDNN is of CUDA" if part == "sdpa-cudnn" else "FlexAttention trains on CUDA only"
        return f"{what}: use sdpa-flash or sdpa-math on the CPU"
    if part == "flex":
        return missing_tool(device)
    if part in ("sdpa-flash", "sdpa-cudnn") and device.cuda:
        if not {*HALF, "fp8"} & set(mode):
            return f"{part} has no kernel for fp32: add bf16, fp16 or bf16-params"
        if torch.cuda.get_device_capability() < (8, 0):
            return f"{device.name} has no kernel for {part}: compute capability 8.0 or newer has"
    return None


def apply_attention(model: nn.Module, mode: list[str], device: Device, length: int | None) -> nn.Module:
    """Leaves torch only the kernel of the mode, or replaces the kernel's module.

    Args:
        length: of the sequences that the model will see.
    """
    chosen = next((part.removeprefix("sdpa-") for part in mode if part.startswith("sdpa-")), None)
    if chosen:
        for kernel in KERNELS:
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(kernel == chosen)  # the CPU heeds them too
    if "flex" in mode:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, SDPA):
                    setattr(module, name, Flex(block_mask(child.causal, length, device)))
    return model


class Flex(nn.Module):
    """FlexAttention in the place of ``SDPA``."""

    def __init__(self, mask: Any) -> None:
        super().__init__()
        from torch.nn.attention.flex_attention import flex_attention

        self._kernel = torch.compile(flex_attention)  # without compiling it is a slow model of itself
        self._mask = mask

    def forward(self, q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        return self._kernel(q_BHTE, k_BHTE, v_BHTE, block_mask=self._mask)


def block_mask(causal: bool, length: int | None, device: Device) -> Any:
    """Which blocks of the matrix of attention need to be computed; None if all do."""
    if not causal:
        return None
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(_causal, None, None, length, length, device=device.kind)


def _causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key
