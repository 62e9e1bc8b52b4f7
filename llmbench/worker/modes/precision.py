"""Precision of the arithmetic: fp32, or bfloat16 where autocast finds it safe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from llmbench.worker.device import Device
from llmbench.worker.faults import Unavailable


def autocast(mode: list[str], device: Device) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of the context for the forward pass.

    Raises:
        Unavailable: the device has no bfloat16 arithmetic.
    """
    if "bf16" not in mode:
        return nullcontext
    if device.cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise Unavailable(f"{device.name} has no bfloat16 arithmetic: leave bf16 out on this device")
    return lambda: torch.autocast(device.kind, dtype=torch.bfloat16)
