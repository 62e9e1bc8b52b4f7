"""Who passes the token between the two sides of a lock-step comparison: the other end of ``worker/turns.py``.

A side that dies closes its socket, so that it is noticed at once; one that hangs is killed by its deadline, which
closes it as well. Nothing here waits for ever on a process that is gone. The time for which a side waits for the other
is none of its own: it is not held against its deadline.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from llmbench.results.ab import SIDES, SideName, Turn

PATIENCE = 0.2  # seconds between looks at whether a side that has not come yet still lives
LONGEST_PATH = 100  # bytes of a socket's path: the kernel takes 107, others less


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


class _Wait:
    """Seconds for which one side has waited for the other. Another thread may read them."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        self._since = time.monotonic()

    def end(self) -> None:
        if self._since is not None:
            self._before += time.monotonic() - self._since
            self._since = None  # last: who reads in between sees too much for a moment, never too little

    def seconds(self) -> float:
        since = self._since
        return self._before + (0.0 if since is None else time.monotonic() - since)


class Conductor:
    """Lets two sides train in turns. Use as a context manager; ``path`` is the socket to which they connect."""

    def __init__(self) -> None:
        self._folder = _folder_for_a_socket()
        self.path = str(Path(self._folder, "socket"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._came: list[_Rank] = []
        self._ranks: dict[SideName, dict[int, _Rank]] = {side: {} for side in SIDES}
        self._waits = {side: _Wait() for side in SIDES}

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self._came:
            rank.close()
        self._stop_listening()

    def waited(self, side: SideName) -> float:
        """Seconds for which a side that could have trained had to wait. May be called in any thread."""
        return self._waits[side].seconds()

    def wait_for(self, sizes: Mapping[SideName, int], alive: Callable[[SideName], bool]) -> dict[SideName, float]:
        """Waits until each side is warmed up, or gone: that one is gone does not keep the other from showing itself.

        Args:
            sizes: processes of each side that is to come.
            alive: whether a side's processes may still come.

        Returns:
            Seconds of a step of each side when it was warm; a side that is gone is missing.
        """
        seconds: dict[SideName, list[float]] = {side: [] for side in sizes}
        gone: set[SideName] = set()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while any(len(seconds[side]) < sizes[side] for side in sizes.keys() - gone):
                for key, _ in selector.select(PATIENCE):
                    if key.fileobj is self._listener:
                        self._came.append(_Rank(self._listener.accept()[0]))
                        selector.register(self._came[-1].connection, selectors.EVENT_READ, self._came[-1])
                        continue
                    try:
                        hello = key.data.receive()
                    except (EOFError, OSError):
                        selector.unregister(key.fileobj)
                        gone |= {side for side in sizes if key.data in self._ranks[side].values()}
                        continue  # one that had said nothing yet is found to be dead below
                    side = hello["side"]
                    self._ranks[side][hello["rank"]] = key.data
                    warm = hello["warm_up"][len(hello["warm_up"]) // 2 :]
                    seconds[side].append(median(warm) if warm else 0.0)
                    if len(seconds[side]) == sizes[side]:
                        self._waits[side].begin()
                gone |= {side for side in sizes if not alive(side)}
        self._stop_listening()  # from here on a killed parent leaves no folder behind
        return {side: max(found) for side, found in seconds.items() if side not in gone}

    def turn(self, side: SideName, steps: int) -> Turn:
        """Passes the token to a side, and waits until it comes back.

        Raises:
            SideGoneError: it did not.
        """
        ranks = self._ranks[side].values()
        self._waits[side].end()
        try:
            for rank in ranks:
                rank.send({"steps": steps})
            return merged([rank.receive() for rank in ranks])
        except (EOFError, OSError):
            raise SideGoneError(side) from None
        finally:
            self._waits[side].begin()

    def end(self, side: SideName) -> None:
        """There are no more turns for this side: it may tell what it found, and leave."""
        self._waits[side].end()
        for rank in self._ranks[side].values():
            try:
                rank.send({"steps": 0})
            except OSError:
                continue  # it has left already; how, is for who started it to tell

    def _stop_listening(self) -> None:
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _folder_for_a_socket() -> str:
    """A folder that only we may enter, where temporary files go, or where that path is too long, in /tmp."""
    short = len(os.fsencode(tempfile.gettempdir())) < LONGEST_PATH - len("/llmbench-turns-12345678/socket")
    return tempfile.mkdtemp(prefix="llmbench-turns-", dir=None if short else "/tmp")  # noqa: S108


def merged(turns: list[dict[str, Any]]) -> Turn:
    """A turn of several ranks as one: step by step the slowest, all their CPU time, the longest wait."""
    found = [Turn.model_validate(turn) for turn in turns]
    return Turn(
        steps=[max(seconds) for seconds in zip(*(turn.steps for turn in found), strict=True)],
        wall=max(turn.wall for turn in found),
        cpu=of_all(math.fsum, [turn.cpu for turn in found]),
        waited=of_all(max, [turn.waited for turn in found]),
    )


def of_all(combine: Callable[[Sequence[float]], float], values: Sequence[float | None]) -> float | None:
    """What is known only if each of them tells."""
    known = [value for value in values if value is not None]
    return combine(known) if len(known) == len(values) else None


def steps_of_a_turn(seconds: Mapping[SideName, float], *, shortest: int, turn_seconds: float) -> int:
    """How many steps each side does in a turn: as many as fill ``turn_seconds`` on the slower one, at least so many."""
    slower = max(seconds.values(), default=0.0)
    return max(shortest, math.ceil(turn_seconds / slower)) if slower > 0 else shortest
