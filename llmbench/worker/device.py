"""The one place that knows CPU from CUDA."""

from __future__ import annotations

import os
import time
from typing import Any

import torch


class Device:
    """Where a case trains.

    Args:
        kind: ``cpu``, ``cuda``, or ``auto`` (CUDA when torch can use it).
        index: of the GPU; by default that of this rank.

    Raises:
        RuntimeError: CUDA was asked for and torch cannot use it.
    """

    def __init__(self, kind: str, index: int | None = None) -> None:
        if kind == "auto":
            kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("CUDA was asked for, but torch.cuda.is_available() is False")
        self.kind = kind
        if index is None and kind == "cuda":
            index = int(os.environ.get("LOCAL_RANK", 0))
        self.torch = torch.device(kind, index)
        if self.cuda:
            torch.cuda.set_device(self.torch)

    @property
    def cuda(self) -> bool:
        return self.kind == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.cuda else "cpu"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def mark(self) -> Any:
        """A point in the device's time, taken without waiting for it."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        """Seconds between two marks; on CUDA only after ``synchronize``."""
        return begin.elapsed_time(end) / 1000 if self.cuda else end - begin

    def move(self, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.to(self.torch) for tensor in tensors)
