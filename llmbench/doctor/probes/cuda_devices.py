"""Does torch reach its CUDA (or ROCm) devices, and what are they? What one can compute is another probe's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    yield {"architectures": torch.cuda.get_arch_list(), "wheels": wheels(torch)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    yield {"available": available, "count": torch.cuda.device_count() if available else 0}
    # Only this really initialises: availability may come from NVML alone (PYTORCH_NVML_BASED_CUDA_CHECK).
    error = initialise(torch)
    if error or not available:
        yield {"reason": error or "torch.cuda.is_available() is False", "warnings": [str(w.message) for w in caught]}
        return
    yield {"reason": None, "devices": [describe(torch, index) for index in range(torch.cuda.device_count())]}


def wheels(torch: Any) -> dict:
    """Compute capabilities that the wheels of this release were built for, by CUDA version; empty in old releases."""
    import platform

    table = getattr(torch.cuda, "PYTORCH_RELEASES_CODE_CC", {})
    machine = "aarch64" if platform.machine() == "aarch64" else "x86_64"
    if not all(isinstance(built, dict) for built in table.values()):
        return {}
    return {cuda: sorted(built.get(machine, ())) for cuda, built in table.items()}


def initialise(torch: Any) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def describe(torch: Any, index: int) -> dict:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "bf16": torch.version.hip is not None or properties.major >= 8,
        "gfx": getattr(properties, "gcnArchName", ""),
    }
