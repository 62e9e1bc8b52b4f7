"""The token of a lock-step comparison: this process works only while it holds it. Standard library only.

The control side listens on a Unix socket (``launch/turns.py``) and passes the token as a line of JSON. All clocks run
here, in the process that does the steps, so that passing the token takes no time of any step.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Protocol

SCHEDSTAT = "/proc/thread-self/schedstat"


class Clock(Protocol):
    """Marks points in the time of whatever does the steps (see ``worker/device.py``)."""

    def mark(self) -> Any: ...
    def between(self, begin: Any, end: Any) -> float: ...
    def synchronize(self) -> None: ...


class Wall:
    """The clock of a process that does its steps itself."""

    def mark(self) -> float:
        return time.perf_counter()

    def between(self, begin: float, end: float) -> float:
        return end - begin

    def synchronize(self) -> None:
        return


class Turns:
    """This process's end of the socket.

    Args:
        path: of the socket.
        side: ``base`` or ``cand``.
    """

    def __init__(self, path: str, side: str, rank: int = 0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._hello = {"side": side, "rank": rank, "pid": os.getpid()}

    def serve(self, step: Callable[[], object], clock: Clock, warm_up: Sequence[float]) -> int:
        """Takes turns until there are no more.

        Args:
            step: does one.
            warm_up: seconds of the steps that were done already, by which the length of a turn is chosen.

        Returns:
            How many steps were done.

        Raises:
            ConnectionError: the control side has gone.
        """
        done = 0
        gc.collect()
        gc.disable()  # a collection would be somebody's step
        try:
            self._tell(self._hello | {"warm_up": list(warm_up)})
            for line in self._lines:
                steps = json.loads(line)["steps"]
                if steps == 0:
                    return done
                self._tell(_turn(step, clock, steps))
                done += steps
        finally:
            gc.enable()
            self._lines.close()
            self._socket.close()
        raise ConnectionError("the control side ended the comparison without a word")

    def _tell(self, what: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(what).encode() + b"\n")


def _turn(step: Callable[[], object], clock: Clock, steps: int) -> dict[str, Any]:
    clock.synchronize()
    waited, cpu, begin = _waited(), time.process_time(), time.perf_counter()
    marks = [clock.mark()]
    for _ in range(steps):
        step()
        marks.append(clock.mark())
    clock.synchronize()
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    after = _waited()
    return {
        "steps": [clock.between(one, other) for one, other in pairwise(marks)],
        "wall": wall,
        "cpu": cpu,
        "waited": None if waited is None or after is None else after - waited,
    }


def _waited() -> float | None:
    """Seconds in which this thread could have run, but others had the CPU (Linux, sched-stats.rst)."""
    with suppress(OSError, ValueError, IndexError), open(SCHEDSTAT, encoding="ascii") as file:
        ran, waited, _ = file.read().split()
        if int(ran):  # a kernel that does not count tells zeros
            return int(waited) / 1e9
    return None
