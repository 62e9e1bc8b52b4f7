"""Who passes the token between the two sides of a lock-step comparison: the other end of ``worker/turns.py``.

A side that dies closes its socket, so that it is noticed at once; one that hangs is killed by its deadline, which
closes it as well. Nothing here waits for ever on a process that is gone.
"""

from __future__ import annotations

import json
import math
import selectors
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from llmbench.results.ab import SIDES, SideName, Turn

PATIENCE = 0.2  # seconds between looks at whether a side that has not come yet still lives


class SideGoneError(Exception):
    """A side ended, or was ended, before the comparison did."""

    def __init__(self, side: SideName) -> None:
        super().__init__(side)
        self.side = side


class _Rank:
    """The connection to one process."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")

    def send(self, what: dict[str, Any]) -> None:
        self.connection.sendall(json.dumps(what).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Raises: EOFError: the process is gone."""
        line = self._lines.readline()
        if not line.endswith("\n"):
            raise EOFError
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self._lines.close()
        self.connection.close()


class Conductor:
    """Lets two sides train in turns. Use as a context manager; ``path`` is the socket to which they connect."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="llmbench-turns-")  # short: a socket's path has at most 107 bytes
        self.path = str(Path(self._folder, "socket"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._ranks: dict[SideName, dict[int, _Rank]] = {side: {} for side in SIDES}

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *_: object) -> None:
        for ranks in self._ranks.values():
            for rank in ranks.values():
                rank.close()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait_for(self, sizes: Mapping[SideName, int], alive: Callable[[SideName], bool]) -> dict[SideName, float]:
        """Waits until all processes of these sides are warmed up.

        Args:
            sizes: processes of each side that is to come.
            alive: whether a side's processes may still come.

        Returns:
            Seconds of a step of each side when it was warm.

        Raises:
            SideGoneError: one ended before it was warm.
        """
        seconds: dict[SideName, list[float]] = {side: [] for side in sizes}
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while any(len(self._ranks[side]) < sizes[side] for side in sizes):
                if not selector.select(PATIENCE):
                    for side in sizes:
                        if not alive(side):
                            raise SideGoneError(side)
                    continue
                rank = _Rank(self._listener.accept()[0])
                try:
                    hello = rank.receive()
                except EOFError:
                    rank.close()  # its side is found to be gone at the next look
                    continue
                self._ranks[hello["side"]][hello["rank"]] = rank
                warm = hello["warm_up"][len(hello["warm_up"]) // 2 :]
                seconds[hello["side"]].append(median(warm) if warm else 0.0)
        return {side: max(found) for side, found in seconds.items()}

    def turn(self, side: SideName, steps: int) -> Turn:
        """Passes the token to a side, and waits until it comes back.

        Raises:
            SideGoneError: it did not.
        """
        ranks = self._ranks[side].values()
        try:
            for rank in ranks:
                rank.send({"steps": steps})
            return merged([rank.receive() for rank in ranks])
        except (EOFError, OSError):
            raise SideGoneError(side) from None

    def end(self, side: SideName) -> None:
        """There are no more turns for this side: it may tell what it found, and leave."""
        for rank in self._ranks[side].values():
            try:
                rank.send({"steps": 0})
            except OSError:
                continue  # it has left already; how, is for who started it to tell


def merged(turns: list[dict[str, Any]]) -> Turn:
    """A turn of several ranks as one: step by step the slowest, all their CPU time, the longest wait."""
    found = [Turn.model_validate(turn) for turn in turns]
    waited = [turn.waited for turn in found if turn.waited is not None]
    cpu = [turn.cpu for turn in found if turn.cpu is not None]
    return Turn(
        steps=[max(seconds) for seconds in zip(*(turn.steps for turn in found), strict=True)],
        wall=max(turn.wall for turn in found),
        cpu=math.fsum(cpu) if len(cpu) == len(found) else None,
        waited=max(waited) if len(waited) == len(found) else None,
    )


def steps_of_a_turn(seconds: Mapping[SideName, float], *, shortest: int, turn_seconds: float) -> int:
    """How many steps each side does in a turn: as many as fill ``turn_seconds`` on the slower one, at least so many."""
    slower = max(seconds.values(), default=0.0)
    return max(shortest, math.ceil(turn_seconds / slower)) if slower > 0 else shortest
