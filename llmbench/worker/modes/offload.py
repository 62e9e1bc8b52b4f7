"""Activations in host memory between forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch

from llmbench.worker.device import Device


def missing(device: Device) -> str | None:
    return None if device.cuda else "the CPU's memory is the host's already: run on CUDA"


def offloading(context: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    """The context of the forward pass, in which saved activations go to pinned host memory."""

    def both() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(context())
        stack.enter_context(torch.autograd.graph.save_on_cpu(pin_memory=True))
        return stack

    return both
