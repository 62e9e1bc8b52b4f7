"""The ranks of a step from what they left on the shared disk, and from srun's words."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from llmbench.launch import evidence
from llmbench.launch.srun import _silent
from llmbench.launch.srun_words import Told
from llmbench.launch.step import Layout, command
from llmbench.launch.step_ranks import StepRanks

LAYOUT = Layout(["h0", "h1"], 2)


class Disk:
    """The shared disk of a step of four ranks on two hosts."""

    def __init__(self, path: Path) -> None:
        self.evidence, self.results, self.log = path / "evidence", path / "step", path / "case.log"
        self.evidence.mkdir()
        self.results.mkdir()
        self.log.touch()
        self.events: list[dict[str, Any]] = []
        self.ranks = StepRanks(LAYOUT, self.evidence, self.results, self.log, self.events.append)

    def writes(self, rank: int, event: str, ahead: float = 0.0, /, **values: Any) -> None:
        line = json.dumps({"at": time.time_ns() + int(ahead * 1e9), "event": event} | values)
        with open(self.evidence / f"rank{rank}.jsonl", "a") as file:
            file.write(f"\n{line}\n")

    def starts(self, rank: int, host: str, ahead: float = 0.0) -> None:
        self.writes(rank, "start", ahead, host=host, pid=100 + rank, rank=rank, world_size=4)

    def ends(self, rank: int, result: dict[str, Any]) -> None:
        (self.results / f"result.rank{rank}.json").write_text(json.dumps({"host": f"h{rank // 2}"} | result))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def heard(*lines: str) -> Told:
    told = Told()
    for line in lines:
        told.hear(line)
    return told


def test_results_become_one_with_every_rank_and_its_node(disk: Disk) -> None:
    for rank in range(4):
        disk.starts(rank, f"h{rank // 2}")
        disk.ends(rank, {"losses": [rank], "rank": {"rank": rank}})
    outcome = disk.ranks.outcome(Told(), timed_out=False)
    assert outcome.result is not None
    assert outcome.result["losses"] == [0]
    assert outcome.result["ranks"] == [{"rank": rank, "node": rank // 2} for rank in range(4)]


def test_progress_is_that_of_the_rank_furthest_behind(disk: Disk) -> None:
    here = socket.gethostname()
    for rank in range(4):
        disk.starts(rank, here if rank == 1 else "elsewhere")
        disk.writes(rank, "phase", name="timed" if rank else "warmup")
        disk.writes(rank, "beat", step=10 + rank, collective=None)
    with open(disk.evidence / "rank3.jsonl", "a") as file:
        file.write('{"at": 1, "event": "be')  # it is being written
    disk.ranks.look()
    assert disk.ranks.steps_done() == 10
    assert disk.events == [
        {"event": "phase", "name": "warmup"},
        {"event": "rank", "rank": 1, "pid": 101, "host": here},  # others' memory cannot be read here
    ]
    disk.ranks.look()
    assert len(disk.events) == 2


def test_the_rank_that_srun_saw_die_first_is_the_cause(disk: Disk) -> None:
    """Others only missed it, and said so earlier."""
    missed = {"type": "RuntimeError", "message": "Connection closed by peer", "at": 1.0, "where": None}
    disk.ends(0, {"error": missed | {"out_of_memory": False}})
    words = ["srun: error: h1: task 3: Killed", "srun: launch/slurm: _step_signal: Terminating StepId=2.0",
             "srun: error: h0: task 1: Terminated"]  # fmt: skip
    outcome = disk.ranks.outcome(heard(*words), timed_out=False)
    assert outcome.result == {"error": {"signal": 9, "rank": 3, "host": "h1"}}


def test_the_first_that_raised(disk: Disk) -> None:
    error = {"type": "ValueError", "message": "torn", "where": None, "out_of_memory": False}
    disk.ends(2, {"error": error | {"at": 5.0}})
    disk.ends(1, {"error": error | {"at": 7.0}})
    told = heard("srun: error: h1: task 2: Exited with exit code 1")
    result = disk.ranks.outcome(told, timed_out=False).result
    assert result is not None
    assert (result["error"]["rank"], result["error"]["host"]) == (2, "h1")


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["srun: error: Node failure on h1", "srun: error: h0: task 0: Killed"], "NodeLost", "node 1 (h1) was lost"),
        (["srun: error: Unable to create step for job 1: Invalid thing"], "StepRefused", "Invalid thing"),
        (
            ["slurmstepd-h0: error: *** STEP 2.0 ON h0 CANCELLED AT 2026-11-23T13:34:06 DUE TO TIME LIMIT ***"],
            "WallLimit",
            "time limit",
        ),
    ],
)
def test_what_is_not_of_a_rank(disk: Disk, words: list[str], kind: str, message: str) -> None:
    result = disk.ranks.outcome(heard(*words), timed_out=False).result
    assert result is not None
    assert result["error"]["type"] == kind
    assert message in result["error"]["message"]


def test_how_ranks_ended_is_added_to_their_evidence_by_the_clock_of_their_host(disk: Disk) -> None:
    hour = 3600.0
    for rank in range(4):
        disk.starts(rank, f"h{rank // 2}", ahead=hour * (rank // 2))
    told = heard("srun: error: h1: task 3: Killed", "srun: Force Terminated; Terminating StepId=1.0",
                 "srun: error: h0: tasks 0-1: Terminated")  # fmt: skip
    disk.ranks.outcome(told, timed_out=False)
    found = {each.rank: each for each in evidence.read(disk.evidence)}
    assert (found[3].exit_code, found[3].by_us) == (-9, False)
    assert (found[0].exit_code, found[0].by_us) == (-15, True)
    assert found[2].exit_code is None  # nobody saw it
    assert found[3].seen_at is not None
    assert found[3].last_at is not None
    assert 0 <= found[3].seen_at - found[3].last_at < 60e9


def test_a_step_whose_time_was_over(disk: Disk) -> None:
    disk.starts(0, "h0")
    told = heard("srun: error: h0: task 0: Killed")
    outcome = disk.ranks.outcome(told, timed_out=True)
    assert (outcome.timed_out, outcome.result) == (True, None)
    (found,) = evidence.read(disk.evidence)
    assert (found.exit_code, found.by_us) == (-9, True)


def test_a_host_that_gives_no_answer_is_lost() -> None:
    ended = "srun: error: h0: tasks 0-1: Exited with exit code 1"
    unanswered = "srun: error: Timed out waiting for job step to complete"
    assert list(_silent(heard(ended, unanswered), LAYOUT)) == ["h1"]
    assert _silent(heard(ended), LAYOUT) == {}
    assert _silent(heard(unanswered), LAYOUT) == {}  # nobody answered: it is not one host
    assert _silent(heard(ended, unanswered, "srun: error: h1: task 2: Killed"), LAYOUT) == {}


def test_the_command_of_a_step() -> None:
    found = command(LAYOUT, "llmbench-1", 300, ["python", "start.py"])
    assert found[0] == "srun"
    assert found[-2:] == ["python", "start.py"]
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--nodelist=h0,h1", "--time=8", "--kill-on-bad-exit=1",
            "--wait=0", "--label"} <= set(found)  # fmt: skip
    assert [LAYOUT.node(rank) for rank in range(4)] == [0, 0, 1, 1]
    assert list(LAYOUT.ranks("h1")) == [2, 3]
