"""A host that neither writes nor answers is lost; one that does either is not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.cluster.allocation import Address, answers, slurmd_address
from llmbench.launch import step_ranks, vanished
from llmbench.launch.vanished import OWED_SECONDS, SILENT_SECONDS, Vanished
from tests.launch.test_step_ranks import Disk

SLURMD = ("192.0.2.1", 6818)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(vanished, "time", made)
    monkeypatch.setattr(step_ranks, "time", made)
    return made


@pytest.fixture
def look_for(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Callable[[set[int], bool], dict[str, str]]:
    """Lets a minute pass in which only these of the four ranks write; what is lost in the end."""
    monkeypatch.setattr(vanished, "slurmd_address", lambda host: SLURMD)

    def look(writing: set[int], slurmd: bool, last: str = "beat") -> dict[str, str]:
        disk = Disk(tmp_path)
        for rank in range(4):
            disk.starts(rank, f"h{rank // 2}")
            disk.writes(rank, last, step=1)
        found: dict[str, str] = {}
        looked = Vanished(disk.ranks, lambda address: slurmd)
        for _ in range(60):
            disk.ranks.look()
            found |= looked.look()
            clock.now += 1.0
            for rank in writing:
                disk.writes(rank, "beat", step=1)
        return found

    return look


def test_a_host_that_neither_writes_nor_answers_is_lost(look_for: Callable[..., dict[str, str]]) -> None:
    assert look_for({0, 1}, slurmd=False) == {"h1": "neither its ranks nor its slurmd give a sign of life"}


def test_no_later_than_it_must(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanished, "slurmd_address", lambda host: SLURMD)
    disk = Disk(tmp_path)
    for rank in range(4):
        disk.starts(rank, f"h{rank // 2}")
    looked = Vanished(disk.ranks, lambda address: False)
    begin = clock.now
    while not looked.look():
        disk.writes(0, "beat", step=1)
        disk.ranks.look()
        clock.now += 0.25
    assert clock.now - begin <= SILENT_SECONDS + OWED_SECONDS + 2 * vanished.LOOK_SECONDS


@pytest.mark.parametrize(
    ("writing", "slurmd", "last"),
    [
        ({0, 1}, True, "beat"),  # its ranks are stopped, say
        ({0, 1, 3}, False, "beat"),  # its slurmd is begun anew
        (set(), False, "beat"),  # the disk hangs
        ({0, 1}, False, "end"),  # its ranks are ready
    ],
)
def test_a_sign_of_life_is_enough(
    look_for: Callable[..., dict[str, str]], writing: set[int], slurmd: bool, last: str
) -> None:
    assert look_for(writing, slurmd, last) == {}


def test_a_host_that_cannot_be_asked_is_not_lost(
    look_for: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vanished, "slurmd_address", lambda host: None)
    assert look_for({0, 1}, slurmd=False) == {}


def test_a_host_that_owes_an_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanished, "slurmd_address", lambda host: (host, 6818))
    looked = Vanished(Disk(tmp_path).ranks, lambda address: address[0] == "h0")
    assert list(looked.among(["h0", "h1"])) == ["h1"]


def test_whether_somebody_takes_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: Address = server.getsockname()
        assert answers(address)
    assert not answers(address)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("NodeName=h1 NodeAddr=10.0.0.11 NodeHostName=h1 Port=16818 State=IDLE", ("10.0.0.11", 16818)),
        ("NodeName=h1 NodeAddr=10.0.0.11 NodeHostName=h1 State=IDLE", ("10.0.0.11", 6818)),
        ("Node h1 not found", None),
    ],
)
def test_where_a_slurmd_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, expected: Address | None
) -> None:
    program = tmp_path / "scontrol"
    config = "SlurmdParameters        = config_overrides\nSlurmdPort              = 6818\n"
    program.write_text(f"#!/bin/sh\n[ $2 = config ] && printf '{config}' || echo '{node}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert slurmd_address("h1") == expected
