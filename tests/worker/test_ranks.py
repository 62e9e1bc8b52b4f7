"""The processes of a job, launched for real; what they do is a function here."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch._dynamo.config  # torch's log of a failed rank needs it: each launcher would take seconds to import it
import torch.distributed as dist

from llmbench.worker.faults import Unavailable
from llmbench.worker.ranks import launch_on_this_host, run_ranks

from .conftest import Events, Job

pytestmark = pytest.mark.slow

FORK = multiprocessing.get_context("fork")
HOST = socket.gethostname()
Work = Callable[[Job, Any], dict[str, Any]]


class Pipe:
    """Events of all ranks, in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def send(self, event: str, **values: Any) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"{event} {values}\n")


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Does the work in so many ranks. The launcher is a process of its own, as it sets its signal handlers for good."""

    def run(work: Work, size: int = 2) -> dict[str, Any]:
        job = {
            "world_size": size,
            "device": "cpu",
            "result": str(tmp_path / "result.json"),
            "log": str(tmp_path / "case.log"),
            "folder": str(tmp_path),
        }
        told = FORK.Queue()
        process = FORK.Process(target=lambda: told.put(run_ranks(job, Pipe(tmp_path / "events"), work)))
        process.start()
        try:
            found: dict[str, Any] = told.get(timeout=100)
            return found
        finally:
            process.kill()
            process.join()

    return run


def rank() -> int:
    return int(os.environ["RANK"])


def error(at: float, message: str = "") -> dict[str, Any]:
    return {"error": {"type": "ValueError", "message": message, "at": at}}


def test_the_result_is_that_of_rank_0_and_a_part_of_each(launch: Callable[..., Any], tmp_path: Path) -> None:
    def work(job: Job, events: Any) -> dict[str, Any]:
        dist.init_process_group("gloo")
        total = torch.tensor(rank() + 1)
        dist.all_reduce(total)
        events.send("phase", name="build")
        os.write(1, f"this is rank {rank()}\n".encode())
        return {"total": total.item(), "mine": rank(), "rank": {"rank": rank(), "pid": os.getpid()}}

    found = launch(work, size=3)
    assert (found["total"], found["mine"]) == (6, 0)
    assert [each["rank"] for each in found["ranks"]] == [0, 1, 2]
    assert len({each["pid"] for each in found["ranks"]}) == 3
    told = (tmp_path / "events").read_text().splitlines()
    for number, each in enumerate(found["ranks"]):
        assert f"rank {{'rank': {number}, 'pid': {each['pid']}, 'host': '{HOST}'}}" in told
        assert f"phase {{'rank': {number}, 'name': 'build'}}" in told
        assert (tmp_path / f"case.rank{number}.log").read_text() == f"this is rank {number}\n"


def test_of_several_that_raise_the_first_is_the_cause(launch: Callable[..., Any]) -> None:
    found = launch(lambda job, events: error(at=10.0 - rank(), message=f"of {rank()}"))
    assert found == {"error": {"type": "ValueError", "message": "of 1", "at": 9.0, "rank": 1, "host": HOST}}


def test_one_that_raises_ends_the_others(launch: Callable[..., Any], tmp_path: Path) -> None:
    def work(job: Job, events: Any) -> dict[str, Any]:
        if rank() == 0:
            return error(at=0.0)
        time.sleep(100)
        return {"rank": {}}

    assert launch(work)["error"]["rank"] == 0
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


def pids(folder: Path) -> list[int]:
    lines = (folder / "events").read_text().splitlines()
    return [int(line.split("'pid': ")[1].split(",")[0]) for line in lines]


@pytest.mark.parametrize(
    ("die", "told"),
    [
        (lambda: os._exit(3), {"exit": 3}),
        (lambda: os._exit(1), {"exit": 1}),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), {"signal": 9}),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), {"signal": 15}),
    ],
    ids=["exit 3", "exit 1", "SIGKILL", "SIGTERM"],
)
def test_one_that_dies_is_the_cause_though_the_other_raises_at_once(
    die: Callable[[], None], told: dict[str, int], launch: Callable[..., Any]
) -> None:
    """As ranks do that lose the connection to another."""

    def work(job: Job, events: Any) -> dict[str, Any]:
        with open(f"{job['folder']}/lock", "w") as lock:
            ready = Path(job["folder"], "ready")
            if rank() == 1:
                fcntl.flock(lock, fcntl.LOCK_EX)
                ready.touch()
                time.sleep(0.2)
                die()
            while not ready.exists():
                time.sleep(0.01)
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it up as rank 1 dies
            return error(at=time.time(), message="connection reset by peer")

    assert launch(work) == {"error": told | {"rank": 1, "host": HOST}}


def test_a_result_is_worth_nothing_if_the_rank_crashed_after_it(launch: Callable[..., Any]) -> None:
    def work(job: Job, events: Any) -> dict[str, Any]:
        if rank() == 1:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
        else:
            time.sleep(100)
        return {"rank": {}}

    assert launch(work) == {"error": {"signal": signal.SIGALRM, "rank": 1, "host": HOST}}


def test_what_one_rank_lacks_is_a_reason_to_skip(launch: Callable[..., Any]) -> None:
    def work(job: Job, events: Any) -> dict[str, Any]:
        if rank() == 1:
            return {"unavailable": "no such thing"}
        time.sleep(100)  # for the other
        return {"rank": {}}

    assert launch(work) == {"unavailable": "no such thing"}


def test_more_ranks_than_cuda_devices() -> None:
    size = torch.cuda.device_count() + 1
    message = f"{size} ranks need {size} CUDA devices, there are {size - 1}: a smaller --world-size"
    with pytest.raises(Unavailable, match=message):
        run_ranks({"world_size": size, "device": "cuda"}, Events(), lambda job, events: {})


SIZE = 4


def _siblings(folder: str) -> None:
    """Writes how many ranks the launcher has forked at the moment that this one is let go."""
    ranks = [child for child in psutil.Process(os.getppid()).children() if child.cmdline()]
    Path(folder, os.environ["RANK"]).write_text(str(len(ranks)))


def test_no_rank_is_let_go_before_the_last_is_forked(tmp_path: Path) -> None:
    launcher = FORK.Process(target=launch_on_this_host, args=(SIZE, _siblings, str(tmp_path)))
    launcher.start()
    launcher.join(120)
    assert launcher.exitcode == 0
    assert int((tmp_path / "0").read_text()) == SIZE
