"""Activations in host memory between forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from llmbench.worker.device import Device


def missing(device: Device) -> str | None:
    return None if device.cuda else "the CPU's memory is the host's already: run on CUDA"


def offloading(
    context: Callable[[], AbstractContextManager[Any]], model: nn.Module
) -> Callable[[], AbstractContextManager[Any]]:
    """The context of the forward pass, in which saved activations go to the host's memory.

    Parameters are saved too, and views of them, but stay where they are: to copy them would free nothing. What
    autocast makes of them goes with the activations, as it is freed after the forward pass.
    """
    weights = {_memory(parameter) for parameter in model.parameters()}

    def pack(tensor: Tensor) -> tuple[torch.device | None, Tensor]:
        return (None, tensor) if _memory(tensor) in weights else (tensor.device, to_host(tensor))

    def unpack(packed: tuple[torch.device | None, Tensor]) -> Tensor:
        device, tensor = packed
        return tensor if device is None else tensor.to(device, non_blocking=True)

    def both() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(context())
        stack.enter_context(saved_tensors_hooks(pack, unpack))
        return stack

    return both


def _memory(tensor: Tensor) -> int:
    """Where the tensor lies, on this rank; views lie where their base does."""
    tensor = tensor.detach()
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).untyped_storage().data_ptr()


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, pinned so that the device need not wait for it; of a split tensor a plain one."""
    if hasattr(tensor, "to_local") or tensor.layout != torch.strided:
        return tensor.to("cpu", copy=True)
    host = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=tensor.is_cuda)
