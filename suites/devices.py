"""Where the micro suite runs, in which precisions, and the clock that waits for the device."""

from __future__ import annotations

import time
from typing import Any

import torch

from llmbench.worker.device import Device

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}

_USED = Device("auto")


def clock() -> float:
    """Seconds by a monotonic clock, read when the device has ended all that it was given.

    A round of pytest-benchmark reads the clock before its first iteration and after its last. So a round of CUDA
    kernels is launched without waiting in between, and counts until the last of them has ended.
    """
    _USED.synchronize()
    return time.perf_counter()


def describe(benchmark: Any, device: str, dtype: str, shape: list[int], **work: float | str | bool) -> None:
    """Says in the JSON what one iteration is.

    Args:
        benchmark: pytest-benchmark's fixture.
        device: ``cpu`` or ``cuda``.
        dtype: of the operands.
        shape: of the problem.
        work: of one iteration: ``flops``, ``bytes``, ``bus_bytes``, ``tokens`` or ``samples``, of which the report
            makes rates (it draws the first); and whatever else shall be known, e.g. ``threads`` that are not ours.
    """
    here = {"device": device, "dtype": dtype, "shape": shape, "threads": torch.get_num_threads()}
    benchmark.extra_info |= here | work


def combinations(sizes: dict[str, tuple[int, ...]]) -> list[tuple[str, str, int]]:
    """(device, dtype, size) for every device that is there, with the sizes that suit it."""
    return [(device, dtype, size) for device in DEVICES for size in sizes[device] for dtype in PRECISIONS[device]]


def random_tensor(*shape: int, device: str, dtype: str, gradient: bool = False) -> torch.Tensor:
    """From the normal distribution: a GPU draws less power, and so runs faster, on zeros."""
    return torch.randn(shape, device=device, dtype=DTYPES[dtype], requires_grad=gradient)
