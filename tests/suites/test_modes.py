"""The suite of all modes, run for real on what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.suite.cases import resolve
from llmbench.suite.load import find
from tests.conftest import Command, records_of


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.timeout(1800)
def test_every_mode_trains_right_or_says_what_it_lacks(llmbench: Command, tmp_path: Path) -> None:
    settings = [part for setting in ("steps=10", "budget_seconds=0", "threads=1") for part in ("--set", setting)]
    done = llmbench("run", "modes", "-w", "gpt-tiny", *settings, "--out", tmp_path / "r", timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    records = records_of(tmp_path / "r")
    assert list(records) == [case.id for case in resolve(find("modes"), workloads=["gpt-tiny"])]
    for case, record in records.items():
        assert record.status in ("ok", "skipped"), case
        assert record.status == "ok" or (record.error.message and record.error.hint), case
    assert {record.world_size for record in records.values() if record.status == "ok"} == {1, 2}
