"""``srun --ntasks-per-node=1 llmbench scan`` on a real SLURM: no option says who is who."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .hosts import llmbench_command, with_checkout
from .quiet_scans import named, why
from .slurm import slurm

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]


def test_srun_scans_its_nodes(tmp_path: Path, environment: dict[str, str]) -> None:
    with slurm(3) as cluster:
        done = subprocess.run(
            ["srun", "--nodes=3", "--ntasks-per-node=1", *llmbench_command("scan", "--json", "--device", "cpu")],
            env=with_checkout(environment) | cluster.variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert named(found) == [], why(found)
    assert [node["host"] for node in found["nodes"]] == ["h0", "h1", "h2"]
    assert {(pair["a"], pair["b"]) for pair in found["pairs"]} == {("h0", "h1"), ("h0", "h2"), ("h1", "h2")}
    assert "scan: node 2: done" in done.stderr
