"""The environment under test: a server process of its interpreter, and fresh children of it that do one job each."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbench.errors import UserError
from llmbench.launch.oom import OomCounter
from llmbench.launch.trains import Needs, OnEvent, Waited
from llmbench.paths import PACKAGE
from llmbench.results.schema import Node

START_SECONDS = 180.0  # to import torch, from a cold network disk
STACK_SECONDS = 2.0  # for a hanging job to write its stack before it is killed
KILLED_SECONDS = 10.0  # for the server to tell that its killed job is gone
SHORTEST_LOOK = 0.1  # seconds between looks at the deadline of a job that waits
MINIMUM_TORCH = (2, 6)


@dataclass
class RankState:
    """What is known of one process of a parallel job.

    Attributes:
        log_begin: where its log of this job begins.
    """

    pid: int
    host: str
    phase: str = "start"
    steps: int = 0
    log_begin: int = 0


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        result: what the job wrote; None if it died before it could.
        code: exit code, negative for a signal (as ``subprocess`` has it); None if the server died with it.
        timed_out: the deadline passed and the job was killed.
        phase: the last one that the job entered.
        oom_killed: the kernel killed something for memory while the job ran.
        log_begin: where the log of this job begins; an earlier attempt may have written before it.
        steps: training steps that were done.
        ranks: of a parallel job, what each process was about.
        evidence: the folder in which they left what they could; None if they were not asked to.
        ended_at: when it was over; nanoseconds of the wall clock of its host.
        parts: of a job of several nodes, how the share of each ended that told.
    """

    result: dict[str, Any] | None = None
    code: int | None = None
    timed_out: bool = False
    phase: str = "start"
    oom_killed: bool = False
    wall_seconds: float = 0.0
    log: Path | None = None
    log_begin: int = 0
    steps: int = 0
    ranks: dict[int, RankState] = field(default_factory=dict)
    evidence: Path | None = None
    ended_at: int | None = None
    parts: list[Outcome] = field(default_factory=list)

    def log_text(self, rank: int | None = None) -> str:
        """What this job, or one of its ranks, wrote to its log."""
        if self.log is None:
            return ""
        file, begin = (
            (self.log, self.log_begin) if rank is None else (log_of(self.log, rank), self.ranks[rank].log_begin)
        )
        return file.read_bytes()[begin:].decode("utf-8", errors="replace") if file.exists() else ""


def log_of(log: Path, rank: int) -> Path:
    """The log of one rank, beside that of the whole job (``worker/ranks.py`` writes it)."""
    return log.with_name(f"{log.stem}.rank{rank}{log.suffix}")


class Target:
    """An interpreter that has torch. Use as a context manager: on leaving, its processes are gone.

    Args:
        python: the interpreter. llmbench need not be installed there.
        preload: modules that its server imports beside torch, once for all jobs.
        folder: its working folder, from which a workload of the user's own is imported; by default ours.
        paths: folders in front of its import path.
        variables: of its environment, beside those of this process.
    """

    def __init__(
        self,
        python: str,
        preload: Sequence[str] = (),
        folder: str | None = None,
        paths: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.python = python
        self._folder = folder
        self.environ = with_paths(os.environ, paths) | patience(os.environ) | dict(variables or {})
        self._preload = preload
        self._log = tempfile.NamedTemporaryFile(prefix="llmbench-server-", suffix=".log")  # noqa: SIM115
        self.hello: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._job: int | None = None
        self._heartbeat: Path | None = None

    def __enter__(self) -> Target:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_job()
        self._stop()
        self._log.close()

    def ready(self) -> dict[str, Any]:
        """Waits until the server has imported torch; what it says of itself. One that has died since is started again.

        Raises:
            UserError: torch is missing, broken or too old there.
        """
        if self.hello and not self._alive():
            self._stop()
            self._start()
        if not self.hello:
            event = self._next(START_SECONDS)
            if event is None or event["event"] != "ready":
                reason = self._why_not(event)
                self._stop()  # who asks once more gets a new one, not what is left of this one's words
                raise UserError(
                    f"{self.python} cannot import torch: {reason}",
                    f"`llmbench doctor --python {self.python}` finds the cause; "
                    "`--python PATH` trains with another interpreter",
                )
            version = tuple(int(part) for part in event["torch"].split("+")[0].split(".")[:2])
            if version < MINIMUM_TORCH:
                raise UserError(
                    f"{self.python} has torch {event['torch']}; training needs 2.6 or newer",
                    "doctor judges any version; --python PATH trains with another interpreter",
                )
            self.hello = event
        return self.hello

    def prepare(self, needs: Needs) -> list[Node]:
        """Nothing: there are no other nodes."""
        return []

    def run(
        self,
        job: dict[str, Any],
        log: Path,
        deadline: float,
        on_event: OnEvent = lambda event: None,
        waited: Waited = lambda: 0.0,
    ) -> Outcome:
        """Does one job in a fresh process.

        Args:
            job: what ``llmbench.worker.job.run`` takes, without ``result`` and ``asked_at``. Of one with a ``share``
                only that part of its ranks is here.
            log: file to which the job's stdout and stderr are appended.
            deadline: seconds until it is stopped.
            on_event: told of each phase as it begins.
            waited: seconds so far for which the job had to wait for others; they come on top of the deadline.
        """
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        self.ready()
        outcome = Outcome(log=log, log_begin=_size(log), evidence=Path(job["evidence"]) if "evidence" in job else None)
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="llmbench-") as folder, OomCounter() as oom:
            result, heartbeat = Path(folder) / "result.json", Path(folder) / "steps"
            heartbeat.touch()
            self._heartbeat = heartbeat
            files = {"result": str(result), "log": str(log.resolve()), "heartbeat": str(heartbeat)}
            here = _ranks_here(job)
            begins = {rank: _size(log_of(log, rank)) for rank in here}
            self._send(job | files | {"asked_at": begin})
            self._watch(outcome, lambda: begin + deadline + waited(), on_event)
            self._heartbeat = None
            outcome.ended_at = time.time_ns()
            steps = _counters(heartbeat)
            outcome.steps = min(steps[here.start :], default=0)
            for rank, state in outcome.ranks.items():
                state.log_begin = begins[rank]
                state.steps = steps[rank] if rank < len(steps) else 0
            if result.exists():
                outcome.result = json.loads(result.read_text(encoding="utf-8"))
            outcome.oom_killed = oom.count() > 0
        outcome.wall_seconds = time.monotonic() - begin
        return outcome

    def steps_done(self) -> int | None:
        """Training steps of the job in flight, of the rank that is furthest behind; None while there is none."""
        try:
            return min(_counters(self._heartbeat), default=None) if self._heartbeat else None
        except FileNotFoundError:
            return None  # it ended just now

    def kill_job(self) -> None:
        """Kills the job in flight and all that it started."""
        if self._job is not None:
            _kill_group(self._job)

    def kill(self) -> None:
        """Kills the server too, which may be what hangs. The next job gets a new one."""
        self.kill_job()
        if self._process is not None and self._alive():
            _kill_group(self._process.pid)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_SECONDS)

    def _watch(self, outcome: Outcome, deadline: Callable[[], float], on_event: OnEvent) -> None:
        while True:
            event = self._next(max(deadline() - time.monotonic(), SHORTEST_LOOK))
            if event is None and self._alive():
                if time.monotonic() < deadline():
                    time.sleep(SHORTEST_LOOK)  # it had to wait meanwhile, or the server is about to be gone
                    continue
                outcome.timed_out = True
                self._ask_for_stack(outcome)
                self.kill_job()
                event = self._next(KILLED_SECONDS, until="exited")
                if event is None:
                    self.kill()  # it is the server that does not go on
            if event is None:  # the server died, and takes the job with it
                self.kill_job()
                self._job = None
                return
            if event["event"] == "started":
                self._job = event["pid"]
            elif event["event"] == "rank":
                outcome.ranks[event["rank"]] = RankState(event["pid"], event["host"])
            elif event["event"] == "phase":
                if "rank" in event:
                    outcome.ranks[event["rank"]].phase = event["name"]
                    if event["rank"] > 0:
                        continue  # the first one speaks for all
                outcome.phase = event["name"]
            elif event["event"] == "exited":
                outcome.code = event["code"]
                self.kill_job()  # what it may have left behind, such as compile workers
                self._job = None
                return
            on_event(event)

    def _ask_for_stack(self, outcome: Outcome) -> None:
        processes = [state.pid for state in outcome.ranks.values()] or ([self._job] if self._job is not None else [])
        for process in processes:
            try:
                os.kill(process, signal.SIGUSR1)
            except ProcessLookupError:
                continue  # it is not the one that hangs
        if processes:
            time.sleep(STACK_SECONDS)

    def _start(self) -> None:
        self._lines = queue.Queue()
        self.hello = {}
        try:
            self._process = subprocess.Popen(
                [self.python, str(PACKAGE / "worker" / "start.py"), *self._preload],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=self.environ,
                cwd=self._folder,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            if error.filename == self._folder:
                raise UserError(f"{self._folder}: {error.strerror}", "the folder that it is to work in") from None
            raise UserError(
                f"--python {self.python}: {error.strerror}", "name a Python interpreter, such as VENV/bin/python"
            ) from None
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        """Reads to the end, and closes the pipe itself: whoever else did might do so in the midst of a line."""
        assert process.stdout is not None
        with process.stdout as pipe:
            for line in pipe:
                lines.put(line)
        lines.put(None)

    def _next(self, seconds: float, until: str | None = None) -> dict[str, Any] | None:
        """The next event (or the next of one name); None if there is none in time, or ever."""
        end, lines = time.monotonic() + seconds, self._lines
        while True:
            try:
                line = lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                lines.put(None)  # it stays ended for whoever asks next
                return None
            event: dict[str, Any] = json.loads(line)
            if until is None or event["event"] == until:
                return event

    def _send(self, job: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.kill()  # it died a moment ago, or takes no jobs any more: who watches the job sees it end

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _stop(self) -> None:
        if self._process is None:
            return
        _kill_group(self._process.pid)
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what was still to be written has no reader any more
            self._process.stdin.close()
        self._process = None

    def last_words(self) -> str:
        """The last line that the server wrote to stderr."""
        lines = [line for line in Path(self._log.name).read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it wrote nothing"

    def _why_not(self, event: dict[str, Any] | None) -> str:
        if event is not None:
            return f"{event.get('type')}: {event.get('message')}"
        assert self._process is not None
        try:
            code = self._process.wait(KILLED_SECONDS if self._said_all() else 0)
        except subprocess.TimeoutExpired:
            return f"no answer for {START_SECONDS:.0f} s"
        return f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}; {self.last_words()}"

    def _said_all(self) -> bool:
        """Whether the server has closed its end of the pipe, as one does that is about to be gone."""
        return self._next(0.0) is None and not self._lines.empty()


def _ranks_here(job: Mapping[str, Any]) -> range:
    """The ranks of a job that this machine has."""
    share = job.get("share") or {"first_rank": 0, "ranks": job.get("world_size", 1)}
    return range(share["first_rank"], share["first_rank"] + share["ranks"])


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _counters(heartbeat: Path) -> list[int]:
    """Steps done by rank, as ``worker/events.py`` counts them."""
    data = heartbeat.read_bytes()
    return [int.from_bytes(data[begin : begin + 8], "little") for begin in range(0, len(data), 8)]


def with_paths(environ: Mapping[str, str], paths: Sequence[str]) -> dict[str, str]:
    """The variables of a process that has these folders in front of its import path."""
    if not paths:
        return dict(environ)
    return dict(environ) | {"PYTHONPATH": os.pathsep.join([*paths, *filter(None, [environ.get("PYTHONPATH")])])}


def patience(environ: Mapping[str, str]) -> dict[str, str]:
    """How long OpenMP threads spin before they sleep, where the user has not said it.

    By default those of libgomp, which torch brings, spin for milliseconds: with another such program on the same
    cores each step takes many times as long. See docs/measuring.md for what it costs and saves.
    """
    return {} if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environ.keys() else {"GOMP_SPINCOUNT": "20000"}


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it is gone already
