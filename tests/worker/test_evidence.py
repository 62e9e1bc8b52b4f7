from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from llmbench.worker import evidence
from llmbench.worker.events import Heartbeat, OfRank, enter

from .conftest import Events

PATIENCE = 60.0


def lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """Whole lines; the last one may be about to be written."""
    text = (folder / f"rank{rank}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]


def named(folder: Path, name: str, rank: int = 0) -> list[dict[str, Any]]:
    return [line for line in lines(folder, rank) if line["event"] == name]


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_a_rank_leaves(tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    steps.touch()
    job = {"evidence": str(tmp_path / "made" / "here"), "heartbeat": str(steps), "world_size": 4}
    heart, events = Heartbeat(str(steps), 3), Events()
    heart.beat(7)
    with evidence.open_for(job, 3) as kept:
        enter(kept.follow(OfRank(events, 3)), "build")
        wait_for(lambda: named(tmp_path / "made" / "here", "beat", 3))
        kept.error(
            {"type": "ValueError", "message": "torn \udcff\n日本", "where": None, "out_of_memory": False, "at": 1}
        )
        kept.end(1)
    start, *_, error, end = lines(tmp_path / "made" / "here", 3)
    assert (start["event"], start["pid"], start["rank"], start["world_size"]) == ("start", os.getpid(), 3, 4)
    assert start["host"] == os.uname().nodename
    assert named(tmp_path / "made" / "here", "phase", 3)[0]["name"] == "build"
    assert named(tmp_path / "made" / "here", "beat", 3)[0]["step"] == 7
    assert (error["event"], error["message"]) == ("error", "torn \udcff\n日本")
    assert (end["event"], end["code"], end["step"]) == ("end", 1, 7)
    assert events.phases == ["build"]
    assert [line["at"] for line in lines(tmp_path / "made" / "here", 3)] == sorted(
        line["at"] for line in lines(tmp_path / "made" / "here", 3)
    )


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with evidence.open_for({}, 0) as kept:
        enter(kept.follow(Events()), "build")
        kept.end(0)
    with evidence.exits_of(None, 2):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank0.jsonl").symlink_to("/dev/full")
    with evidence.open_for({"evidence": str(tmp_path)}, 0) as kept:
        kept.phase("build")
        kept.error({"type": "ValueError", "message": "torn"})
        kept.end(1)
    said = capfd.readouterr().err
    assert said.count("llmbench: no evidence is kept from here on: No space left on device") == 1


def test_a_folder_that_cannot_be_made_does_not_end_the_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with evidence.open_for({"evidence": str(tmp_path / "file" / "there")}, 0) as kept:
        kept.end(0)
    assert capfd.readouterr().err.count("no evidence is kept") == 1


def test_a_line_after_a_torn_one_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "rank0.jsonl").write_text('{"at": 7, "eve')
    evidence.exited(str(tmp_path), 0, -9, by_us=False)
    text = (tmp_path / "rank0.jsonl").read_text()
    assert json.loads(text.splitlines()[-1])["code"] == -9


PROGRAM = """
import sys, time
from llmbench.worker import evidence
with evidence.open_for({"evidence": sys.argv[1], **eval(sys.argv[2])}, 0) as kept:
    kept.phase(sys.argv[3])
    while True:
        time.sleep(1)
"""


class Program:
    """A process that keeps evidence, and does nothing else."""

    def __init__(self, folder: Path, phase: str = "timed", **job: Any) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), repr(job), phase], stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def left(self, name: str) -> list[dict[str, Any]]:
        return named(self.folder, name) if (self.folder / "rank0.jsonl").exists() else []


def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    with Program(tmp_path) as program:
        wait_for(lambda: program.left("beat"))
        program.process.kill()
        program.process.wait()
    assert [line["event"] for line in lines(tmp_path)][:2] == ["start", "phase"]
    assert named(tmp_path, "end") == []


def test_a_rank_that_does_no_step_tells_where_it_is(tmp_path: Path) -> None:
    with Program(tmp_path, stuck_seconds=0.5) as program:
        wait_for(lambda: program.left("stack"))
        count = len(program.left("beat"))
        wait_for(lambda: len(program.left("beat")) > count + 1)
        assert len(program.left("stack")) == 1  # once, until it goes on
        assert 'File "<string>", line 7 in <module>' in program.left("stack")[0]["text"]


@pytest.mark.parametrize("phase", ["compile", "timed"])
def test_a_rank_tells_where_it_is_before_its_deadline(tmp_path: Path, phase: str) -> None:
    config = {"config": {"deadline_seconds": 4.0}, "asked_at": time.monotonic(), "stuck_seconds": 1000}
    with Program(tmp_path, phase, **config) as program:
        wait_for(lambda: program.left("stack"))


def test_a_phase_that_does_no_steps_is_no_cause_for_alarm(tmp_path: Path) -> None:
    with Program(tmp_path, "compile", stuck_seconds=0.1) as program:
        wait_for(lambda: len(program.left("beat")) > 2)
        assert program.left("stack") == []


def test_a_rank_that_is_asked_tells_it_in_its_evidence_and_its_log(tmp_path: Path) -> None:
    with Program(tmp_path) as program:
        wait_for(lambda: program.left("beat"))
        for number in (1, 2):
            program.process.send_signal(signal.SIGUSR1)
            wait_for(lambda number=number: len(program.left("stack")) == number)
        program.process.kill()
        assert program.process.stderr is not None
        assert program.process.stderr.read().count("most recent call first") >= 2


def test_a_rank_can_be_asked_while_its_main_thread_is_in_native_code(tmp_path: Path) -> None:
    text = PROGRAM.replace(
        "time.sleep(1)", "import ctypes; ctypes.CDLL(None).sem_wait(ctypes.create_string_buffer(64))"
    )
    process = subprocess.Popen([sys.executable, "-c", text, str(tmp_path), "{}", "timed"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (tmp_path / "rank0.jsonl").exists() and named(tmp_path, "beat"))
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: named(tmp_path, "stack"))
    finally:
        process.kill()
        process.wait()


def _as_rank(folder: Path, rank: int, end: Callable[[], Any]) -> int:
    """A child that begins as a rank, and ends in its way once all are found."""
    child = os.fork()
    if child == 0:
        try:
            evidence.Lines(evidence.file_of(str(folder), rank)).write(
                "start", host=os.uname().nodename, pid=os.getpid(), parent=os.getppid(), rank=rank
            )
            wait_for((folder / f"go{rank}").exists)
            end()
        finally:
            os._exit(70)  # whatever happens, it must not go on as a second pytest
    return child


def test_the_end_of_every_rank_is_noted_in_its_order(tmp_path: Path) -> None:
    ends: dict[int, Callable[[], Any]] = {
        2: lambda: os._exit(0),
        0: lambda: os.kill(os.getpid(), signal.SIGKILL),
        1: lambda: os.kill(os.getpid(), signal.SIGTERM),
        3: lambda: os._exit(1),
    }
    with evidence.exits_of(str(tmp_path), len(ends)):
        children = {rank: _as_rank(tmp_path, rank, end) for rank, end in ends.items()}
        time.sleep(10 * evidence.LOOK_SECONDS)
        for rank in ends:
            (tmp_path / f"go{rank}").touch()
            wait_for(lambda rank=rank: named(tmp_path, "exit", rank))
        codes = {rank: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for rank, child in children.items()}
    assert codes == {0: -9, 1: -15, 2: 0, 3: 1}  # they were left to who started them
    found = {rank: named(tmp_path, "exit", rank)[0] for rank in ends}
    assert {rank: line["code"] for rank, line in found.items()} == codes
    assert {rank: line["by_us"] for rank, line in found.items()} == {2: False, 0: False, 1: True, 3: False}
    assert [found[rank]["at"] for rank in ends] == sorted(line["at"] for line in found.values())


def test_ranks_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    evidence.Lines(evidence.file_of(str(tmp_path), 0)).write(
        "start", host="elsewhere", pid=1, parent=os.getpid(), rank=0
    )
    (tmp_path / "rank1.jsonl").write_text('\n{"at": 1, "ev')
    with evidence.exits_of(str(tmp_path), 2):
        time.sleep(4 * evidence.LOOK_SECONDS)
    assert named(tmp_path, "exit") == []


def test_collectives_are_counted_by_torch(tmp_path: Path) -> None:
    import torch

    assert evidence.collectives() is None
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        before = evidence.collectives()
        for _ in range(3):
            dist.all_reduce(torch.ones(1))
        after = evidence.collectives()
    finally:
        dist.destroy_process_group()
    if after is None:
        pytest.skip("this torch does not count collectives of gloo")
    assert after[0] - (before or (0, 0))[0] == 3
