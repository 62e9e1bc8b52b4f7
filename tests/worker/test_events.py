from __future__ import annotations

import threading
from pathlib import Path

from llmbench.worker.events import Heartbeat, OfRank, enter

from .conftest import Events


def test_every_rank_counts_its_own_steps(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    file.touch()
    hearts = {rank: Heartbeat(str(file), rank) for rank in (2, 0, 1)}
    for rank, steps in ((0, 3), (1, 300), (2, 70_000)):
        hearts[rank].beat(steps)
    data = file.read_bytes()
    assert [int.from_bytes(data[begin : begin + 8], "little") for begin in (0, 8, 16)] == [3, 300, 70_000]


def test_ranks_that_begin_at_the_same_time(tmp_path: Path) -> None:
    """None makes the file shorter than another needs it."""
    size, errors = 4, []

    def begin(file: Path, rank: int, gate: threading.Barrier) -> None:
        gate.wait()
        try:
            Heartbeat(str(file), rank).beat(rank + 1)
        except ValueError as error:
            errors.append(error)

    for attempt in range(100):
        file = tmp_path / str(attempt)
        file.touch()
        gate = threading.Barrier(size)
        threads = [threading.Thread(target=begin, args=(file, rank, gate)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(file.read_bytes()) == 8 * size
    assert errors == []


def test_events_say_which_rank_they_are_from() -> None:
    events = Events()
    enter(OfRank(events, 3), "build")
    assert events.sent == [("phase", {"rank": 3, "name": "build"})]
