"""What the device could do at best: by its data sheet, and by a matrix multiplication measured here."""

from __future__ import annotations

import re
import time
from typing import Any

import torch

from llmbench.worker.device import Device
from llmbench.worker.events import Events

NVIDIA = "https://www.nvidia.com/en-us/data-center"
# Dense TFLOP/s without sparsity, by whole words of the device's name, the more particular first.
# fp32 is CUDA-core arithmetic: torch does not use TF32 for it by default.
DATA_SHEET: list[tuple[str, dict[str, float], str]] = [
    ("H200 NVL", {"fp32": 60.0, "bf16": 835.5}, f"{NVIDIA}/h200 (NVL)"),
    ("H200", {"fp32": 67.0, "bf16": 989.4}, f"{NVIDIA}/h200 (SXM)"),
    ("H100 PCIe", {"fp32": 51.0, "bf16": 756.0}, f"{NVIDIA}/h100 (PCIe)"),
    ("H100 80GB HBM3", {"fp32": 67.0, "bf16": 989.4}, f"{NVIDIA}/h100 (SXM)"),
    ("A100", {"fp32": 19.5, "bf16": 312.0}, f"{NVIDIA}/a100"),
    ("L40S", {"fp32": 91.6, "bf16": 362.05}, f"{NVIDIA}/l40s"),
    ("L4", {"fp32": 30.3, "bf16": 121.0}, f"{NVIDIA}/l4"),
    ("A10G", {"fp32": 31.5, "bf16": 70.0}, "AWS g5 instance description"),
    ("A10", {"fp32": 31.2, "bf16": 125.0}, f"{NVIDIA}/products/a10-gpu"),
    ("V100-SXM2", {"fp32": 15.7}, f"{NVIDIA}/v100 (SXM2)"),
    ("V100-PCIE", {"fp32": 14.0}, f"{NVIDIA}/v100 (PCIe)"),
    ("T4", {"fp32": 8.1}, f"{NVIDIA}/tesla-t4"),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def data_sheet(device_name: str, dtype: str) -> dict[str, Any] | None:
    """The published peak of a device by name; None for one that is not in the table, whose MFU nobody can know."""
    for part, peaks, source in DATA_SHEET:
        if re.search(rf"\b{part}\b", device_name):
            return {"tflops": peaks[dtype], "source": source} if dtype in peaks else None
    return None


def measure_peaks(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """TFLOP/s of a square matmul, best of several, by dtype: what this machine reaches, not what was promised."""
    device = Device(job["device"])
    size, repeats = (8192, 20) if device.cuda else (1024, 8)
    return {"peaks": {name: _matmul(device, dtype, size, repeats) for name, dtype in DTYPES.items()}, "size": size}


def _matmul(device: Device, dtype: torch.dtype, size: int, repeats: int) -> float:
    a = torch.randn(size, size, device=device.torch).to(dtype)
    b = torch.randn(size, size, device=device.torch).to(dtype)
    best = float("inf")
    for _ in range(repeats + 2):  # the first two warm up, and are never the best
        device.synchronize()
        begin = time.perf_counter()
        a @ b
        device.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e12
