"""What the micro suite's JSON tells of the machine, beside what pytest-benchmark knows of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

# As the workers of `llmbench run` (docs/measuring.md): spinning threads slow down every neighbour. Read as torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["torch"] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    machine_info["devices"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    # Hundreds of words that differ between neighbours of one kind; cpu_capability says what torch makes of them.
    machine_info.get("cpu", {}).pop("flags", None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1234)
