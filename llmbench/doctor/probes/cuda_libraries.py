"""The libraries that torch brings for its GPUs: cuDNN, cuBLASLt, NCCL; and which GPUs reach each other directly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    torch.cuda.init()  # else the devices are counted by NVML, which counts those that CUDA cannot use too
    yield {"step": "nccl"}
    yield {"nccl": nccl(torch), "step": "peers"}
    yield {"peers": peers(torch, arguments["count"]), "step": "cudnn version"}
    yield {"cudnn": torch.backends.cudnn.version(), "step": "cudnn convolution"}
    yield {"convolution_error": convolution_error(torch), "step": "cublas"}
    yield {"linear_error": linear_error(torch), "step": "done"}


def nccl(torch: Any) -> str | None:
    """Version, or None if this build has none."""
    try:
        version = torch.cuda.nccl.version()
    except (AttributeError, ImportError, RuntimeError):
        return None
    return ".".join(str(part) for part in version[:3]) if isinstance(version, tuple) else str(version)


def peers(torch: Any, count: int) -> dict:
    """How many ordered pairs of GPUs there are, and how many read each other's memory directly."""
    few = range(min(count, 16))
    pairs = [(a, b) for a in few for b in few if a != b]
    return {"pairs": len(pairs), "direct": sum(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)}


def convolution_error(torch: Any) -> float:
    """Largest error of a small convolution against the CPU's, relative to its largest value."""
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    image, kernel = torch.randn(2, 4, 16, 16), torch.randn(8, 4, 3, 3)
    return relative(torch.nn.functional.conv2d(image.cuda(), kernel.cuda()), torch.nn.functional.conv2d(image, kernel))


def linear_error(torch: Any) -> float:
    """The same for a layer with a bias, which cuBLASLt computes."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(32, 64), torch.randn(48, 64), torch.randn(48)
    there = torch.nn.functional.linear(inputs.cuda(), weight.cuda(), bias.cuda())
    return relative(there, torch.nn.functional.linear(inputs, weight, bias))


def relative(there: Any, here: Any) -> float:
    return float((there.cpu() - here).abs().max() / here.abs().max())
