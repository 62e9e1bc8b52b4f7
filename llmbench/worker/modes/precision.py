"""Precision of the arithmetic: fp32 as it is, or half of it where that is safe."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.world import whole

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16, "bf16-params": torch.bfloat16}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


def missing(part: str, device: Device) -> str | None:
    """Why this machine lacks the arithmetic, with the cure; None if it has it."""
    half = part in ("bf16", "bf16-params", "fp8")
    if half and device.cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{device.name} has no bfloat16 arithmetic: leave {part} out on this device"
    if part == "tf32":
        if not device.cuda:
            return "TF32 is arithmetic of NVIDIA devices: run on CUDA"
        if torch.cuda.get_device_capability() < (8, 0):
            return f"{device.name} has no TF32: compute capability 8.0 or newer has"
    if part == "fp8":
        if not device.cuda:
            return "float8 products need a CUDA device: run on CUDA"
        if torch.cuda.get_device_capability() < (8, 9):
            return f"{device.name} has no float8 arithmetic: compute capability 8.9 or newer has"
        if importlib.util.find_spec("torchao") is None:
            return "torchao is not installed, which fp8 needs: pip install torchao"
    return None


def cast(model: nn.Module, mode: list[str]) -> nn.Module:
    """The weights in the type that they are trained in."""
    return model.to(torch.bfloat16) if "bf16-params" in mode else model


def apply_precision(model: nn.Module, mode: list[str]) -> nn.Module:
    """Changes the layers where the precision is a property of them, and torch's switch for TF32."""
    torch.set_float32_matmul_precision("high" if "tf32" in mode else "highest")
    if "fp8" in mode:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        # Sizes that are no multiple of 16 have no float8 kernel. Those of a layer are known; the rows of a batch are
        # the inner size of the product for the gradient of the weight, and are padded where they must be.
        model = convert_to_float8_training(
            model,
            module_filter_fn=lambda module, name: _divisible(module),
            config=Float8LinearConfig(pad_inner_dim=True),
        )
    return model


def _divisible(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.in_features % 16 == 0 and module.out_features % 16 == 0


def autocast(mode: list[str], device: Device) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of the context for the forward pass.

    FSDP2 has a precision policy of its own (``parallel.py``), which takes autocast's place.
    """
    dtype = next((dtype for part, dtype in AUTOCAST.items() if part in mode), None)
    if dtype is None or {"fsdp", "hsdp"} & set(mode):
        return nullcontext
    return lambda: torch.autocast(device.kind, dtype=dtype)


def scaler(mode: list[str], device: Device) -> torch.amp.GradScaler:
    """Scales the loss so that small gradients do not vanish in float16; does nothing in other modes."""
    return torch.amp.GradScaler(device.kind, enabled="fp16" in mode)


def lowered(scaler: torch.amp.GradScaler, model: nn.Module) -> bool:
    """Whether the gradients that a model has now overflow, and may not at half the scale, which the scaler now has.

    A scaler finds its scale by skipping the steps that overflow. A training whose first step is skipped has no
    gradients to be judged by, and no optimizer state when memory is looked at.
    """
    if not scaler.is_enabled() or scaler.get_scale() <= 1.0:
        return False
    gradients = (whole(parameter.grad) for parameter in model.parameters() if parameter.grad is not None)
    if all(bool(gradient.isfinite().all()) for gradient in gradients):
        return False
    scaler.update(scaler.get_scale() / 2)
    return True
