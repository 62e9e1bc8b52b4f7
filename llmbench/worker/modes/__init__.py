"""How a model is executed: functions ``model -> model`` and contexts from outside, applied in one fixed order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.modes.compile import apply_compile
from llmbench.worker.modes.precision import autocast


def apply(
    model: nn.Module, mode: list[str], device: Device, config: dict[str, Any]
) -> tuple[nn.Module, Callable[[], AbstractContextManager[Any]]]:
    """The model in its mode, and the context in which its forward pass runs.

    Args:
        mode: the ingredients, e.g. ``["compile", "bf16"]``.

    Raises:
        Unavailable: the machine lacks what the mode needs.
    """
    context = autocast(mode, device)
    if "compile" in mode:
        model = apply_compile(model, config["compile_scope"], device)
    return model, context
