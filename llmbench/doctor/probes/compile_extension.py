"""Builds a C++ extension with torch's own build system, and calls it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

# A header of torch and one of pybind11: all of torch/extension.h takes half a minute.
SOURCE = """\
#include <c10/core/ScalarType.h>
#include <pybind11/pybind11.h>
static int twice(int x) { return x * 8 / (int)c10::elementSize(c10::kFloat); }
PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) { module.def("twice", &twice); }
"""


def probe(arguments: dict) -> Iterator[dict]:
    from torch.utils.cpp_extension import load

    started = time.perf_counter()
    source = os.path.join(arguments["folder"], "llmbench_doctor.cpp")
    with open(source, "w") as file:
        file.write(SOURCE)
    # Nothing of it is fast, so nothing is gained by optimising it.
    built = load("llmbench_doctor", [source], build_directory=arguments["folder"], extra_cflags=["-O0"])
    yield {"value": built.twice(21), "seconds": time.perf_counter() - started}
