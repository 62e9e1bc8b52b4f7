"""What the device could do at best: by its data sheet, and by matrix multiplications and a copy measured here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from llmbench.worker.device import Device
from llmbench.worker.events import Events
from llmbench.worker.measure.memory import host_memory

NVIDIA = "https://www.nvidia.com/en-us"
HOPPER = "NVIDIA H100 Tensor Core GPU Architecture whitepaper"
GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper, V2"
ADA = "NVIDIA Ada GPU Architecture whitepaper, V2"
HOPPER_SXM = {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4, "fp8": 1978.9}
HOPPER_NVL = {"fp32": 60.0, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5, "fp8": 1670.5}

# Dense TFLOP/s by the whole name that torch gives the device, without "NVIDIA", "GeForce" and "Tesla". Where a source
# prints figures with sparsity, they are halved. Sums are kept in fp32, as torch does by default; fp32 is CUDA-core
# arithmetic, as torch does not use TF32 for it by default. A figure whose source could not be found is left out.
DATA_SHEET: list[tuple[str, dict[str, float], str]] = [
    (
        "B200",
        {"fp32": 75.0, "tf32": 1125.0, "bf16": 2250.0, "fp16": 2250.0, "fp8": 4500.0},
        "NVIDIA Blackwell datasheet (HGX B200, one GPU)",
    ),
    ("H200 NVL", HOPPER_NVL, f"{NVIDIA}/data-center/h200 (NVL)"),
    ("H200", HOPPER_SXM, f"{NVIDIA}/data-center/h200 (SXM)"),
    ("GH200 .*", HOPPER_SXM, f"{NVIDIA}/data-center/grace-hopper-superchip"),
    ("H100 NVL", HOPPER_NVL, f"{NVIDIA}/data-center/h100 (NVL)"),
    ("H100 PCIe", {"fp32": 51.0, "tf32": 378.0, "bf16": 756.0, "fp16": 756.0, "fp8": 1513.0}, f"{HOPPER} (PCIe)"),
    ("H100 80GB HBM3", HOPPER_SXM, f"{HOPPER} (SXM5)"),
    (
        r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe",
        {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "fp16": 312.0},
        f"{NVIDIA}/data-center/a100",
    ),
    (
        "L40S",
        {"fp32": 91.6, "tf32": 183.0, "bf16": 362.05, "fp16": 362.05, "fp8": 733.0},
        f"{NVIDIA}/data-center/l40s",
    ),
    (
        "L40",
        {"fp32": 90.5, "tf32": 90.5, "bf16": 181.05, "fp16": 181.05, "fp8": 362.0},
        f"{NVIDIA}/data-center/l40",
    ),
    ("L4", {"fp32": 30.3, "tf32": 60.0, "bf16": 121.0, "fp16": 121.0, "fp8": 242.5}, f"{NVIDIA}/data-center/l4"),
    ("A40", {"fp32": 37.4, "tf32": 74.8, "bf16": 149.7, "fp16": 149.7}, f"{NVIDIA}/data-center/a40"),
    ("A10G", {"fp32": 31.5, "bf16": 70.0}, "AWS g5 instance description"),
    (
        "A10",
        {"fp32": 31.2, "tf32": 62.5, "bf16": 125.0, "fp16": 125.0},
        f"{NVIDIA}/data-center/products/a10-gpu",
    ),
    ("RTX 6000 Ada Generation", {"fp32": 91.1}, f"{NVIDIA}/design-visualization/rtx-6000"),
    ("RTX A6000", {"fp32": 38.7, "tf32": 77.4, "bf16": 154.8, "fp16": 154.8}, f"{GA102}, appendix C"),
    ("RTX 4090", {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2, "fp8": 330.3}, ADA),
    ("RTX 3090", {"fp32": 35.6, "tf32": 35.6, "bf16": 71.0, "fp16": 71.0}, f"{GA102}, appendix A"),
    (r"V100-SXM2-\d+GB", {"fp32": 15.7, "fp16": 125.0}, f"{NVIDIA}/data-center/v100 (SXM2)"),
    (r"V100-PCIE-\d+GB", {"fp32": 14.0, "fp16": 112.0}, f"{NVIDIA}/data-center/v100 (PCIe)"),
    ("T4", {"fp32": 8.1, "fp16": 65.0}, f"{NVIDIA}/data-center/tesla-t4"),
]
ARITHMETIC = ("fp32", "tf32", "bf16", "fp16", "fp8")

# Sizes of square matrices, smallest first; each is repeated for about this many seconds, but not more often.
SIZES = {"cuda": (4096, 8192, 16384), "cpu": (256, 512, 1024, 2048)}
SECONDS = 0.3
REPEATS = 1000
# The oldest CUDA devices that have it in hardware: elsewhere torch imitates it, or refuses.
CAPABILITY = {"tf32": (8, 0), "bf16": (8, 0), "fp16": (7, 0), "fp8": (8, 9)}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Bytes of the tensor that is copied, if there is 16 times as much memory: more than a cache holds.
COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
LEAST_COPY = 2**20  # a smaller one takes no longer than to begin it

Run = Callable[[], Tensor]


def data_sheet(device_name: str, arithmetic: str) -> dict[str, Any] | None:
    """The published peak of a device by name; None for one that is not in the table, whose MFU nobody can know.

    A part of a device (MIG) and a virtual one have names of their own, and no peak.

    Args:
        device_name: as torch tells it.
        arithmetic: ``fp32``, ``tf32``, ``bf16``, ``fp16`` or ``fp8``.
    """
    name = re.sub(r"^(NVIDIA |GeForce |Tesla )+", "", device_name)
    for pattern, peaks, source in DATA_SHEET:
        if re.fullmatch(pattern, name):
            return {"tflops": peaks[arithmetic], "source": source} if arithmetic in peaks else None
    return None


def measure_peaks(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """TFLOP/s of square matmuls, best of several sizes and repeats: what this machine reaches, not what was promised.

    Returns:
        ``peaks``: TFLOP/s by arithmetic, None where it cannot be measured. ``sizes``: of the matrices that reached
        the peak. ``bandwidth``: bytes per second between memory and processor, None where it cannot be measured.
        ``reasons``: why a peak or the bandwidth is None.
    """
    device = Device(job["device"])
    peaks: dict[str, float | None] = {}
    sizes: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for name in ARITHMETIC:
        try:
            peaks[name], sizes[name] = _peak(device, name)
        except (_CannotError, RuntimeError, TypeError) as error:  # torch has no kernel for it, or no memory
            peaks[name] = None
            reasons[name] = (str(error).splitlines() or [type(error).__name__])[0]
    bandwidth = None
    try:
        bandwidth = measure_bandwidth(device)
    except (_CannotError, RuntimeError) as error:
        reasons["bandwidth"] = (str(error).splitlines() or [type(error).__name__])[0]
    return {"peaks": peaks, "sizes": sizes, "bandwidth": bandwidth, "reasons": reasons}


def measure_bandwidth(device: Device) -> float:
    """Bytes per second of the fastest copy of a large tensor, each byte counted as read and as written.

    As the copy of STREAM (McCalpin 1995): what a CPU reads only to write over it does not count.
    """
    memory = torch.cuda.mem_get_info()[0] if device.cuda else host_memory()
    size = min(COPY_BYTES[device.kind], memory // 16)
    if size < LEAST_COPY:
        raise _CannotError("too little free memory")
    source = torch.ones(size // 4, device=device.torch)
    target = torch.zeros_like(source)
    copy = partial(target.copy_, source)
    (first,) = _seconds(device, copy, 1)
    return 2 * source.nbytes / min([first, *_seconds(device, copy, min(REPEATS, int(SECONDS / first)))])


class _CannotError(Exception):
    """Why an arithmetic is not measured."""


def _peak(device: Device, name: str) -> tuple[float, int]:
    """The best TFLOP/s and the size that reached it."""
    _require(device, name)
    best, best_size, expected = 0.0, 0, 0.0
    for size in SIZES[device.kind]:
        if 2 * expected > SECONDS or not _fits(device, size):
            break
        with _tf32(name == "tf32"):
            multiply = _multiply(device, name, size)
            (first,) = _seconds(device, multiply, 1)
            fastest = min([first, *_seconds(device, multiply, min(REPEATS, int(SECONDS / first)))])
        if (rate := 2 * size**3 / fastest / 1e12) > best:
            best, best_size = rate, size
        expected = 8 * fastest  # of the next size, twice as large
    if not best:
        raise _CannotError("too little free memory")
    return best, best_size


def _require(device: Device, name: str) -> None:
    if not device.cuda:
        if name in ("tf32", "fp8"):
            raise _CannotError(f"{name} is measured on CUDA only")
    elif torch.version.hip is None and torch.cuda.get_device_capability() < CAPABILITY.get(name, (0, 0)):
        major, minor = torch.cuda.get_device_capability()
        raise _CannotError(f"a device of compute capability {major}.{minor} has no {name} in hardware")


def _fits(device: Device, size: int) -> bool:
    """Whether two factors, a product and what random numbers take in fp32 are less than half of the free memory."""
    return not device.cuda or 4 * size**2 * 4 < torch.cuda.mem_get_info()[0] / 2


def _multiply(device: Device, name: str, size: int) -> Run:
    """A function that multiplies two random matrices; zeros would be faster on a GPU."""
    a, b = (torch.randn(size, size, device=device.torch) for _ in range(2))
    if name == "fp8":
        scale = torch.ones((), device=device.torch)
        left, right = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()  # the second by columns
        return lambda: torch._scaled_mm(left, right, scale, scale, out_dtype=torch.bfloat16, use_fast_accum=True)
    a, b = a.to(DTYPES[name]), b.to(DTYPES[name])
    product = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=product)


def _seconds(device: Device, run: Run, repeats: int) -> list[float]:
    """Of each run, after one that warms up; on CUDA they are queued, so that launching them takes no time."""
    run()
    marks = [device.mark()]
    for _ in range(repeats):
        run()
        marks.append(device.mark())
    device.synchronize()
    return [device.between(begin, end) for begin, end in pairwise(marks)]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
