"""The ranks of a step, seen from the shared disk: what they are about while they run, and how they ended."""

from __future__ import annotations

import json
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.launch.shared_files import APPEAR_SECONDS, appears
from llmbench.launch.srun_words import Told
from llmbench.launch.step import Layout
from llmbench.launch.target import Outcome, RankState, log_of
from llmbench.launch.trains import OnEvent


@dataclass
class _File:
    """The evidence of one rank, read as it grows.

    Attributes:
        ahead: seconds by which the clock of its host goes before ours, at least; None while nothing is known.
        heard: when it wrote last, by our clock.
        over: it has said its last word.
    """

    path: Path
    read: int = 0
    rest: bytes = b""
    state: RankState | None = None
    ahead: float | None = None
    heard: float = 0.0
    over: bool = False

    def look(self) -> list[dict[str, Any]]:
        """The events that were added since the last look."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.read)
                new = file.read()
        except FileNotFoundError:
            return []
        self.read += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        return [event for line in lines if (event := _event(line))]


class StepRanks:
    """All ranks of one step.

    Args:
        evidence: folder of a file for each rank, as ``worker/evidence.py`` writes it.
        folder: of their results.
        log: of the job; those of the ranks lie beside it.
        on_event: told of the phases of rank 0, and of the ranks that are on this host.
    """

    def __init__(self, layout: Layout, evidence: Path, folder: Path, log: Path, on_event: OnEvent) -> None:
        self._layout, self._evidence, self._folder, self._log, self._on_event = layout, evidence, folder, log, on_event
        self._files = [_File(evidence / f"rank{rank}.jsonl") for rank in range(layout.size)]
        self._begins = [_size(log_of(log, rank)) for rank in range(layout.size)]
        self._log_begin = _size(log)
        self._phase = "start"

    def look(self) -> None:
        """Takes what the ranks wrote since the last time."""
        now = time.time()
        for rank, file in enumerate(self._files):
            for event in file.look():
                self._take(rank, file, event)
                file.heard = time.monotonic()
                ahead = event["at"] / 1e9 - now
                file.ahead = ahead if file.ahead is None else max(file.ahead, ahead)

    def _take(self, rank: int, file: _File, event: dict[str, Any]) -> None:
        name = event["event"]
        if name == "start":
            file.state = RankState(int(event["pid"]), str(event["host"]), log_begin=self._begins[rank])
            if file.state.host == socket.gethostname():  # the memory of another host's processes is not ours to read
                self._on_event({"event": "rank", "rank": rank, "pid": file.state.pid, "host": file.state.host})
        elif file.state is None:
            return
        elif name == "phase":
            file.state.phase = str(event["name"])
            if rank == 0:
                self._phase = file.state.phase
                self._on_event({"event": "phase", "name": self._phase})
        elif name in ("beat", "end"):
            file.state.steps = int(event["step"])
            file.over = name == "end"

    def steps_done(self) -> int | None:
        return min((file.state.steps if file.state else 0 for file in self._files), default=None)

    def silent_hosts(self, seconds: float) -> list[str]:
        """Hosts of which no rank that is under way wrote for so long, while a rank of another host did."""
        since = time.monotonic() - seconds
        silent, heard = [], False
        for host in self._layout.hosts:
            files = [self._files[rank] for rank in self._layout.ranks(host)]
            under_way = [file for file in files if file.state is not None and not file.over]
            if any(file.heard > since for file in files):
                heard = True
            elif under_way:
                silent.append(host)
        return silent if heard else []

    def outcome(self, told: Told, timed_out: bool) -> Outcome:
        """How the step ended. What srun saw of the ranks is added to their evidence."""
        self.look()
        self._note_ends(told, timed_out)
        well = not (timed_out or told.ends or told.lost or told.refused or told.limit)
        until = time.monotonic() + (APPEAR_SECONDS if well else 0.0)  # there must be a result of every rank
        results = {rank: self._result(rank, until) for rank in range(self._layout.size)}
        found = Outcome(
            log=self._log,
            log_begin=self._log_begin,
            timed_out=timed_out,
            phase=self._phase,
            oom_killed=bool(told.out_of_memory),
            steps=self.steps_done() or 0,
            ranks={rank: file.state for rank, file in enumerate(self._files) if file.state},
            evidence=self._evidence,
            ended_at=time.time_ns(),
        )
        if timed_out:
            found.code = -signal.SIGKILL
        else:
            found.result = self._merged(results, told)
        return found

    def _merged(self, results: dict[int, dict[str, Any]], told: Told) -> dict[str, Any] | None:
        """All results as one; None if there is neither a result nor a reason."""
        first = told.first
        if told.lost:
            return node_lost(self._layout, *next(iter(told.lost.items())))
        if first and not _failed(results[first.rank]):
            how = {"signal": -first.code} if first.code < 0 else {"exit": first.code}
            return {"error": how | {"rank": first.rank, "host": first.host}}
        unavailable = next((result for result in results.values() if "unavailable" in result), None)
        if unavailable:
            return {"unavailable": unavailable["unavailable"]}
        raised = [(result["error"]["at"], rank) for rank, result in results.items() if "error" in result]
        if raised:
            rank = min(raised)[1]
            return {"error": results[rank]["error"] | {"rank": rank, "host": results[rank]["host"]}}
        if told.limit:
            return {"error": _plain("WallLimit", f"SLURM ended the step: {told.limit.lower()}")}
        if told.refused:
            return {"error": _plain("StepRefused", f"SLURM did not start the step: {told.refused}")}
        missing = [rank for rank, result in results.items() if "rank" not in result]
        if missing:
            return self._silent(missing, told)
        ranks = [results[rank]["rank"] | {"node": self._layout.node(rank)} for rank in sorted(results)]
        return results[0] | {"ranks": ranks}

    def _silent(self, missing: list[int], told: Told) -> dict[str, Any] | None:
        """Of ranks that left neither a result nor a word of how they ended."""
        rank = missing[0]
        code = next((end.code for end in told.ends if end.rank == rank), None)
        if code is None:
            return None
        how = {"signal": -code} if code < 0 else {"exit": code}
        return {"error": how | {"rank": rank, "host": self._layout.hosts[self._layout.node(rank)]}}

    def _result(self, rank: int, until: float) -> dict[str, Any]:
        """What a rank wrote, or nothing if that has not appeared by then."""
        file = self._folder / f"result.rank{rank}.json"
        if not appears(file, until):
            return {}  # it died before it could write
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def _note_ends(self, told: Told, timed_out: bool) -> None:
        """Adds to the evidence of each rank how srun saw it end, by the clock of the rank's host."""
        codes = {end.rank: (end.code, end.by_us or timed_out) for end in told.ends}
        for rank, file in enumerate(self._files):
            if file.state is None:
                continue
            code, by_us = codes.get(rank, (0, False) if not (timed_out or told.ends) else (None, True))
            if code is None:
                continue  # nobody saw it end
            at = time.time_ns() + int((file.ahead or 0.0) * 1e9)
            line = json.dumps({"at": at, "event": "exit", "code": code, "by_us": by_us})
            with open(file.path, "a", encoding="utf-8") as out:
                out.write(f"\n{line}\n")


def node_lost(layout: Layout, host: str, why: str) -> dict[str, Any]:
    """The result of a job of which a node went; its first rank stands for it."""
    node = layout.hosts.index(host)
    message = f"node {node} ({host}) was lost: {why}"
    return {"error": _plain("NodeLost", message) | {"rank": layout.ranks(host).start, "host": host}}


def _plain(kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "where": None, "out_of_memory": False}


def _failed(result: dict[str, Any]) -> bool:
    return "error" in result or "unavailable" in result


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("at"), int) and "event" in found else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
