"""Imports torch and says what it is. Each part is reported before the next is tried."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from typing import Any


def probe(arguments: dict) -> Iterator[dict]:
    started = time.perf_counter()
    import torch

    yield {
        "seconds": time.perf_counter() - started,
        "version": str(torch.__version__),
        "file": torch.__file__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "git": torch.version.git_version,
        "debug": bool(torch.version.debug),
    }
    yield {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "distributed": torch.distributed.is_available(),
        "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
        "nccl": torch.distributed.is_available() and torch.distributed.is_nccl_available(),
    }
    yield {"numpy": {"version": numpy_version(), "tried": True}}
    yield {"numpy": {"version": numpy_version(), "tried": True, **use_numpy(torch)}}


def numpy_version() -> str | None:
    try:
        return importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        return None


def use_numpy(torch: Any) -> dict:
    """There and back: a tensor and an array that share memory."""
    try:
        array = torch.arange(3.0).numpy()
        back = torch.from_numpy(array + 1).tolist()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": None if back == [1.0, 2.0, 3.0] else f"numpy gave {back} for [1, 2, 3]"}
