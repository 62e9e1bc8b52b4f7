"""The folder of a run is full: the file is named, what was recorded is kept, and with space the run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import records_of

from .nodes import run_nodes

pytestmark = [pytest.mark.slow, pytest.mark.hosts]

# The second case takes more space than there is: its first record is of a long series.
SUITE = """
workloads = ["regression-linear", "regression-mlp"]
modes = ["ddp"]
settings = { steps = 20, threads = 1, budget_seconds = 0 }

[[override]]
workload = "regression-mlp"
settings = { steps = 800 }
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 72 KB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_shared_folder_is_named_and_the_run_goes_on(
    tmp_path: Path, small_disk: Path, environment: Mapping[str, str]
) -> None:
    run, suite = small_disk / "run", tmp_path / "suite.toml"
    suite.write_text(SUITE, encoding="utf-8")
    first = run_nodes(2, ["run", suite, "--out", run], tmp_path / "first", environment=environment)
    assert first[0].returncode == 2
    assert "No space left on device" in first[0].stderr
    assert str(run) in first[0].stderr
    assert "--resume" in first[0].stderr
    assert not any("Traceback" in each.stderr for each in first)
    assert {case: record.status for case, record in records_of(run).items()} == {"regression-linear/ddp/ws2": "ok"}

    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    again = run_nodes(2, ["run", "--resume", run], tmp_path / "again", environment=environment)
    assert again[0].returncode == 0, again[0].stderr
    assert [record.status for record in records_of(run).values()] == ["ok", "ok"]
    assert not list(run.rglob("*.tmp"))
