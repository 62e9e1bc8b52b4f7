"""What one CUDA (or ROCm) device computes, step by step: the last step told is the one that failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    index = arguments["device"]
    yield {"step": "making a context"}
    torch.cuda.set_device(index)
    free, total = torch.cuda.mem_get_info(index)
    yield {"free_bytes": free, "memory_bytes": total, "step": "its first allocation"}
    block = torch.zeros(1 << 20, device=f"cuda:{index}")
    yield {"step": "a kernel of torch"}
    yield {"kernel": float((block + 1).sum().cpu()), "step": "a matmul (cuBLAS)"}
    repeats, error = matmul(torch, index)
    yield {"relative_error": error, "repeats": repeats, "step": "done"}


def matmul(torch: Any, index: int) -> tuple[bool, float]:
    """Whether an fp32 matmul gives the same bits twice, and its largest error as a share of |A| |B|.

    TF32 is off, so that fp32's own bound holds.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    there_a, there_b = a.cuda(index), b.cuda(index)
    results = [(there_a @ there_b).cpu().double() for _ in range(2)]
    exact, magnitude = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    errors = [float(((result - exact).abs() / magnitude).max()) for result in results]
    # A NaN must win: max() would lose it.
    worst = max(errors) if all(error == error for error in errors) else float("nan")
    return torch.equal(*results), worst
