"""What torch can do with each CUDA device: a matmul on it, against fp64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    yield {"architectures": torch.cuda.get_arch_list() if torch.version.cuda else []}
    available = torch.cuda.is_available()
    yield {"available": available, "count": torch.cuda.device_count() if available else 0}
    if not available:
        yield {"reason": why_not(torch)}
        return
    devices = []
    for index in range(torch.cuda.device_count()):
        devices.append(describe(torch, index))
        yield {"devices": devices}
        devices[-1]["relative_error"] = matmul_error(torch, index)
        yield {"devices": devices}


def why_not(torch: Any) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "torch.cuda.is_available() is False and torch gives no reason"


def describe(torch: Any, index: int) -> dict:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": total,
        "free_bytes": free,
        "bf16": torch.cuda.is_bf16_supported(),
    }


def matmul_error(torch: Any, index: int) -> float:
    """Largest error of an fp32 matmul, as a share of |A| |B|; TF32 is off, so that fp32's own bound holds."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    result = (a.cuda(index) @ b.cuda(index)).cpu().double()
    magnitude = a.double().abs() @ b.double().abs()
    return float(((result - a.double() @ b.double()).abs() / magnitude).max())
