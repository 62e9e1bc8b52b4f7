"""How a job tells where it is, so that progress can be shown and a hang can be placed."""

from __future__ import annotations

import mmap
import os
import sys
import time
from typing import Any, Protocol

BYTES = 8  # of one rank's counter of steps


class Events(Protocol):
    """Where events go: the pipe to the control side."""

    def send(self, event: str, **values: Any) -> None: ...


class OfRank:
    """Events that say which rank they are from."""

    def __init__(self, events: Events, rank: int) -> None:
        self._events = events
        self._rank = rank

    def send(self, event: str, **values: Any) -> None:
        self._events.send(event, rank=self._rank, **values)


def enter(events: Events, phase: str) -> float:
    """Tells which phase begins, to the control side and to the log; returns the time."""
    events.send("phase", name=phase)
    print(f"llmbench: {phase}", file=sys.stderr, flush=True)
    return time.perf_counter()


class Heartbeat:
    """Counts steps in a file that is mapped into memory: telling costs no system call, and outlives the process.

    Args:
        path: file of one 8-byte counter a rank, little-endian; it is made long enough.
    """

    def __init__(self, path: str, rank: int) -> None:
        self._begin = BYTES * rank
        with open(path, "r+b") as file:
            # Makes the file longer, and never shorter: other ranks do the same at the same time.
            os.pwrite(file.fileno(), bytes(BYTES), self._begin)
            self._map = mmap.mmap(file.fileno(), self._begin + BYTES)

    def beat(self, step: int) -> None:
        self._map[self._begin : self._begin + BYTES] = step.to_bytes(BYTES, "little")
