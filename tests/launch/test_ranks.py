"""One process of a parallel case fails: one record says which, where and why, and the suite goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llmbench.results.schema import Record
from tests.conftest import family_of, records_of, wait_for, worker_of

from .conftest import Train

pytestmark = pytest.mark.slow

SETTINGS = "steps = 12, threads = 1, budget_seconds = 0"
FIRST, SECOND = "regression-mlp/ddp/ws2", "regression-linear/ddp/ws2"
ENDLESS = """
workloads = ["regression-mlp", "regression-linear"]
modes = ["ddp"]
world_sizes = [2]
settings = { steps = 100_000, micro_batch_size = 2, threads = 1, budget_seconds = 0, deadline_seconds = 240 }
"""


def of(*failing: str, deadline: float) -> str:
    names = ", ".join(f'"{name}"' for name in [*(f"broken_ranks:{name}" for name in failing), "own_line:Healthy"])
    settings = f"{SETTINGS}, deadline_seconds = {deadline}"
    return f'workloads = [{names}]\nmodes = ["ddp"]\nworld_sizes = [2]\nsettings = {{ {settings} }}'


def failed(records: dict[str, Record], name: str, rank: int | None = 1) -> Record:
    """The record of a failing workload, which names the rank and the host."""
    record = records[f"broken_ranks:{name}/ddp/ws2"]
    assert record.error is not None
    assert record.error.rank in ([0, 1] if rank is None else [rank])
    assert record.error.host == socket.gethostname()
    assert record.error.message.count(f"rank {record.error.rank} of 2 on {socket.gethostname()}") == 1
    assert record.error.hint
    assert record.log is not None
    assert record.log.endswith(f".rank{record.error.rank}.log")
    return record


def alive() -> list[psutil.Process]:
    """What runs beside the server of the target, which is the one child of this process."""
    (server,) = (child for child in psutil.Process().children() if "start.py" in " ".join(child.cmdline()))
    return server.children(recursive=True)


EXPECTED = {
    "Raises": ("failed", "ValueError", "the sample is torn (broken_ranks.py:"),
    "IsKilled": ("failed", "SIGKILL", "killed by SIGKILL in phase timed"),
    "IsTerminated": ("failed", "SIGTERM", "killed by SIGTERM in phase timed"),
    "Crashes": ("failed", "SIGSEGV", "last seen at broken_ranks.py:"),
    "Leaves": ("failed", "Exit", "left with exit code 3 in phase timed"),
    "HasNoMemory": ("oom", "MemoryError", "no message (broken_ranks.py:"),
}


def test_a_rank_that_fails_is_named(train: Train) -> None:
    """Whatever the others then say, who only miss it."""
    records = train(of(*EXPECTED, deadline=60))
    assert len(records) == len(EXPECTED) + 1
    for name, (status, kind, message) in EXPECTED.items():
        record = failed(records, name)
        assert (record.status, record.error.type) == (status, kind)
        assert message in record.error.message
        assert record.wall_seconds < 60
    assert records["own_line:Healthy/ddp/ws2"].status == "ok"
    assert alive() == []


@pytest.mark.parametrize("name", ["Sleeps", pytest.param("Stops", marks=pytest.mark.slow)])
def test_a_rank_that_hangs_is_named_while_the_other_waits_for_it(name: str, train: Train) -> None:
    deadline = 6
    records = train(of(name, deadline=deadline))
    record = failed(records, name)
    assert (record.status, record.error.type) == ("timeout", "Timeout")
    place = {"Stops": "it left no stack", "Sleeps": "last seen at broken_ranks.py:"}[name]
    assert f"in phase timed after 4 steps, {place}" in record.error.message
    assert "rank 0 in phase timed after 4 steps, last seen at" in record.error.message
    assert deadline <= record.wall_seconds <= deadline + 15
    assert records["own_line:Healthy/ddp/ws2"].status == "ok"
    assert alive() == []


def test_ranks_that_do_not_call_the_same_collectives(train: Train) -> None:
    """Which of them is wrong nobody can tell; gloo aborts the one that sees it first, or all wait for each other."""
    names = ("CallsOneMore", "CallsOneLess", "CallsInAnotherOrder")
    deadline = 6
    records = train(of(*names, deadline=deadline))
    for name in names:
        record = failed(records, name, rank=None)
        assert record.status in ("failed", "timeout")
        assert "in phase timed" in record.error.message
        assert record.wall_seconds <= deadline + 15
    assert records["own_line:Healthy/ddp/ws2"].status == "ok"
    assert alive() == []


def _trains(out: Path, case: str) -> bool:
    """Whether both ranks of the case are in the timed window."""
    logs = [out / "logs" / f"{case.replace('/', '__')}.rank{rank}.log" for rank in (0, 1)]
    return all(log.exists() and "timed" in log.read_text() for log in logs)


def test_death_of_the_launcher_and_interrupt(
    started: Callable[..., subprocess.Popen[str]], suite: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    process = started("run", suite(ENDLESS), "--out", out)
    wait_for(lambda: _trains(out, FIRST))
    launcher = worker_of(process)
    assert launcher is not None
    ranks = launcher.children()
    assert len(ranks) == 2
    launcher.kill()
    wait_for(lambda: _trains(out, SECOND))
    assert psutil.wait_procs(ranks, timeout=20)[1] == []
    family = family_of(process)
    assert len(family) == 4  # the server, the launcher, and the ranks
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert psutil.wait_procs(family, timeout=20)[1] == []
    records = records_of(out)
    assert {case: record.status for case, record in records.items()} == {FIRST: "failed", SECOND: "aborted"}
    error = records[FIRST].error
    assert error is not None
    assert error.type == "SIGKILL"
    assert error.message.startswith("the launcher of the 2 ranks was killed by SIGKILL in phase timed")
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"


def test_no_rank_outlives_a_run_that_is_killed(
    started: Callable[..., subprocess.Popen[str]], suite: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    process = started("run", suite(ENDLESS), "--out", out)
    wait_for(lambda: _trains(out, FIRST))
    family = family_of(process)
    assert len(family) == 4
    family[-1].suspend()  # so that it can do nothing about it, and the other waits for it in a collective
    process.kill()
    left = psutil.wait_procs(family, timeout=20)[1]
    for orphan in left:
        orphan.kill()
    assert left == []
