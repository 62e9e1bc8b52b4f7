from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.results.schema import Run
from llmbench.results.store import RunFolder
from tests.factory import make_run, ok_record, planned


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes the run of ``modes`` of ``gpt-tiny``, with what a run keeps beside its records."""

    def make(name: str = "made", modes: tuple[str, ...] = ("eager", "bf16"), recorded: int | None = None) -> Path:
        cases = [planned("gpt-tiny", mode) for mode in modes]
        run: Run = make_run(cases)
        folder = RunFolder.create(tmp_path / name, run)
        for case in cases[:recorded]:
            record, series = ok_record(case)
            folder.write_series(record.case, series)
            folder.append(record)
            (folder.path / folder.log_path(record.case)).write_text("log of a worker\n")
        return folder.path

    return make
