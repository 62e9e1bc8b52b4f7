"""On a CUDA machine: what only a device can show. ``nox -s gpu`` runs these with the torch that is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Command, records_of

pytestmark = pytest.mark.gpu

EVERYTHING = """
workloads = ["regression-linear", "bert-tiny", "gpt-tiny", "lora-tiny"]
modes = ["eager", "compile", "bf16"]
settings = { steps = 40, compile_scope = "blocks" }
"""


@pytest.fixture(autouse=True)
def cuda() -> None:
    """Asked in a process of its own: one that has touched CUDA cannot fork."""
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", code], capture_output=True).returncode:
        pytest.skip("no CUDA device")


def test_every_workload_trains_in_every_mode(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    done = llmbench("run", suite(EVERYTHING), "--device", "cuda", "--out", tmp_path / "r", timeout=280)
    records = records_of(tmp_path / "r")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(records) == 12
    for record in records.values():
        assert record.device == "cuda"
        assert 0 < record.memory.peak_allocated_bytes <= record.memory.peak_reserved_bytes
        assert record.memory.peak_reserved_bytes <= record.memory.device_used_bytes <= record.memory.capacity_bytes
        assert record.energy is not None or record.energy_reason
        assert record.peak is None or record.mfu < 1


def test_losses_are_bitwise_the_same(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(EVERYTHING)
    for name in ("one", "two"):
        assert llmbench("run", path, "-m", "eager", "--out", tmp_path / name, timeout=140).returncode == 0
    for one in (tmp_path / "one" / "series").iterdir():
        two = tmp_path / "two" / "series" / one.name
        assert one.read_text().partition("step_seconds")[0] == two.read_text().partition("step_seconds")[0]


def test_a_scan_measures_the_gpus_of_a_node(llmbench: Command) -> None:
    done = llmbench("scan", "--nnodes", 1, "--json", timeout=280)
    assert done.returncode == 0, done.stderr
    (node,) = json.loads(done.stdout)["nodes"]
    assert 1e12 < node["solo"][0]["values"]["matmul"] < 1e17
    assert 1e10 < node["solo"][0]["values"]["memory_bandwidth"] < 1e14
