"""On a real SLURM: ``srun`` starts it once a node, and its variables say the rest."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import llmbench_command, with_checkout
from tests.cluster.slurm import Slurm, slurm

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm(3) as made:
        yield made


def srun(cluster: Slurm, folder: Path, *tasks: str) -> subprocess.CompletedProcess[str]:
    command = ["srun", *tasks, *llmbench_command("doctor", "--nodes", "--only", "nodes", "--json")]
    environment = with_checkout() | cluster.variables
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400)


def test_a_step_of_one_task_per_node(cluster: Slurm, tmp_path: Path) -> None:
    done = srun(cluster, tmp_path, "-N3", "--ntasks-per-node=1")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [node["host"] for node in document["nodes"]] == ["h0", "h1", "h2"]
    assert (document["verdict"], document["counts"]["warn"]) == ("pass", 0)
    assert document["allreduce"]["ranks"] == 3
    assert "node 1 of 3 (h1): " in done.stderr


def test_two_tasks_on_a_node_are_refused(cluster: Slurm, tmp_path: Path) -> None:
    done = srun(cluster, tmp_path, "-N3", "-n6")
    assert done.returncode == 2
    assert "it is to be started once a node" in done.stderr
