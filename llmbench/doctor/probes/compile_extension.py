"""Builds a C++ extension with torch's own build system, and calls it."""

from __future__ import annotations

import time
from collections.abc import Iterator

SOURCE = "torch::Tensor twice(torch::Tensor x) { return x * 2; }"


def probe(arguments: dict) -> Iterator[dict]:
    import torch
    from torch.utils.cpp_extension import load_inline

    started = time.perf_counter()
    built = load_inline(
        "llmbench_doctor",
        cpp_sources=SOURCE,
        functions=["twice"],
        build_directory=arguments["folder"],
        # Nothing of it is fast, so nothing is gained by optimising it.
        extra_cflags=["-O0"],
    )
    value = built.twice(torch.arange(4.0)).tolist()
    yield {"value": value, "seconds": time.perf_counter() - started}
