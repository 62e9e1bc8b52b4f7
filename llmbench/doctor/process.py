"""Runs a command that may crash, hang or print anything, and always comes back with what is known of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

CHANNEL = "{channel}"
REQUESTS = "{requests}"
_NOISE_BYTES = 64 * 1024
_TICK = 0.02
_EXIT_GRACE = 5.0
MOST_STARVED = 2.0
"""Deadlines are put off by at most so many times their length for a process that waits for a CPU."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        answer: what it reported, all its JSON objects merged; whatever it reported before it died is kept.
        done: it said that it was finished.
        error: exception type, message and place if Python code raised.
        noise: the last 64 KiB of what it printed.
        returncode: as ``subprocess``; None if it could not be started.
        timed_out: it was killed at its deadline.
        seconds: wall time.
    """

    answer: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    error: dict[str, str] | None = None
    noise: str = ""
    returncode: int | None = None
    timed_out: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.done and self.error is None

    @property
    def signal(self) -> str | None:
        """Name of the signal that killed it, e.g. ``SIGSEGV``."""
        if self.returncode is None or self.returncode >= 0 or self.timed_out:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"

    @property
    def last_words(self) -> str:
        """The line that tells most of why it ended: of the exception, of the crash, or the last one printed."""
        if self.error:
            return f"{self.error['type']}: {self.error['message']}".splitlines()[0]
        lines = [line.strip() for line in self.noise.splitlines() if line.strip()]
        # faulthandler prints the crashed stack innermost first; its heading only repeats the signal.
        frames = [line for line in lines if line.startswith('File "') and "<frozen" not in line]
        said = [line for line in lines if not line.startswith(_HEADINGS)]
        if self.signal and frames:
            return f"in {frames[0]}"
        return said[-1] if said else ""

    @property
    def ending(self) -> str:
        """In words, for a reader: killed by which signal, hung for how long, or with which exit code."""
        if self.timed_out:
            return f"gave no answer within {self.seconds:.0f} s and was killed"
        if self.signal:
            return f"was killed by {self.signal}"
        if self.error:
            return f"raised {self.last_words}"
        if self.returncode is None:
            return f"could not be started: {self.noise}"
        return f"ended with exit code {self.returncode} and no answer"


_HEADINGS = (
    'File "',
    "Traceback (most",
    "Fatal Python error",
    "Current thread",
    "Thread 0x",
    "Extension modules",
    "Stack (most",
)


class Processes:
    """Starts processes, each in a session of its own, and can kill all that still run."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self,
        command: Sequence[str],
        *,
        deadline: float,
        environ: Mapping[str, str],
        channel: bool = False,
    ) -> Outcome:
        """Runs the command to its end or deadline, then kills whatever of its session is left.

        Args:
            command: argv. With ``channel``, ``CHANNEL`` in it becomes the number of a pipe on which the process
                reports JSON objects, one a line, so that nothing printed can be taken for an answer.
            deadline: seconds.
            environ: all variables of the process.
            channel: whether there is such a pipe. Without it, the process is ``done`` when it exits with 0.
        """
        started = time.monotonic()
        try:
            return self._run(command, deadline, environ, channel, started)
        except (OSError, ValueError) as error:  # no such program, no process or file left to open
            return Outcome(noise=str(error), seconds=time.monotonic() - started)

    def _run(
        self, command: Sequence[str], deadline: float, environ: Mapping[str, str], channel: bool, started: float
    ) -> Outcome:
        with _Pipes() as pipes:
            process = _start(command, pipes, environ, pipes.answer_write if channel else None)
            heard = self._hear(process, pipes, started + deadline)
        return _outcome(heard, process.returncode, time.monotonic() - started, channel)

    def serve(
        self, command: Sequence[str], *, deadline: float, environ: Mapping[str, str]
    ) -> tuple[Outcome, Server | None]:
        """Runs a command that reports, and then forks a child for each request that it gets.

        Args:
            command: argv, in which ``CHANNEL`` and ``REQUESTS`` become the numbers of a pipe and of a socket.
            deadline: seconds until it must have reported.
            environ: all variables of the process.

        Returns:
            What it reported, and the server if it lives.
        """
        started = time.monotonic()
        try:
            return self._serve(command, deadline, environ, started)
        except (OSError, ValueError) as error:
            return Outcome(noise=str(error), seconds=time.monotonic() - started), None

    def _serve(
        self, command: Sequence[str], deadline: float, environ: Mapping[str, str], started: float
    ) -> tuple[Outcome, Server | None]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _Pipes() as pipes, theirs:
            argv = [str(theirs.fileno()) if part == REQUESTS else part for part in command]
            try:
                process = _start(argv, pipes, environ, pipes.answer_write, theirs.fileno())
            except (OSError, ValueError):
                ours.close()
                raise
            heard = self._hear(process, pipes, started + deadline, stay=True)
        outcome = _outcome(heard, process.returncode, time.monotonic() - started, channel=True)
        if process.returncode is not None:
            ours.close()
            return outcome, None
        return outcome, Server(self, ours)

    def _hear(self, process: _Process, pipes: _Pipes, end: float, stay: bool = False) -> _Heard:
        """Listens to a process, then ends it, unless it is done and shall stay."""
        pipes.close_writers()
        self._add(process.pid)
        heard = None
        try:
            heard = _listen(process, pipes, end, stay)
            return heard
        finally:
            if heard is None or not heard.stays:
                _kill_session(process.pid)
                process.wait()
                with self._lock:
                    self._running.discard(process.pid)

    def stop(self) -> None:
        """Kills all that runs, and whatever would still be started."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                _kill_session(pid)

    def _add(self, pid: int) -> None:
        with self._lock:
            self._running.add(pid)
            if self._stopped:
                _kill_session(pid)


class Server:
    """A process that forks a child for each request, so that the child has imported what the server has."""

    def __init__(self, processes: Processes, requests: socket.socket) -> None:
        self._processes = processes
        self._requests = requests
        self._lock = threading.Lock()

    def run(self, request: Mapping[str, Any], deadline: float) -> Outcome:
        """As ``Processes.run`` with a channel, in a child of the server."""
        started = time.monotonic()
        try:
            return self._run(request, deadline, started)
        except OSError as error:
            return Outcome(noise=str(error), seconds=time.monotonic() - started)

    def _run(self, request: Mapping[str, Any], deadline: float, started: float) -> Outcome:
        status_read, status_write = _pipe()
        with _Pipes() as pipes:
            message = json.dumps(request).encode()
            try:
                with self._lock:
                    socket.send_fds(self._requests, [message], [status_write, *pipes.writers])
            except OSError as error:
                os.close(status_read)
                return Outcome(noise=f"the process that imported torch has ended: {error}")
            finally:
                os.close(status_write)
            with _Forked(status_read) as process:
                heard = self._processes._hear(process, pipes, started + deadline)
        return _outcome(heard, process.returncode, time.monotonic() - started, channel=True)


class _Process(Protocol):
    """What is needed of a ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


class _Forked:
    """A child of a server, known by a pipe on which its guardian writes first its process group, at last its status."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._told = b""
        self.returncode: int | None = None
        self.pid = 0
        while b"\n" not in self._told and self._read():
            pass
        if self.returncode is None:
            self.pid = int(self._told.partition(b"\n")[0])

    def __enter__(self) -> _Forked:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._status)

    def poll(self) -> int | None:
        while self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._read()
        return self.returncode

    def wait(self) -> int:
        while self.returncode is None:
            self._read()
        return self.returncode

    def _read(self) -> bool:
        """Waits for more. The end without a status means that the guardian was killed too."""
        data = os.read(self._status, 64)
        self._told += data
        if not data:
            words = self._told.split()
            self.returncode = int(words[1]) if len(words) == 2 else -signal.SIGKILL
        return bool(data)


class _Pipes:
    """What a process prints and what it reports: two pipes, closed at the end."""

    def __init__(self) -> None:
        self.noise, self.noise_write = _pipe()
        self.answer, self.answer_write = _pipe()
        self._open = {self.noise, self.noise_write, self.answer, self.answer_write}

    @property
    def writers(self) -> tuple[int, int]:
        return self.noise_write, self.answer_write

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *details: object) -> None:
        self._close(self._open)

    def close_writers(self) -> None:
        """Closes our copies, so that the last writer's end is the end."""
        self._close(self._open & set(self.writers))

    def _close(self, descriptors: set[int]) -> None:
        self._open = self._open - descriptors
        for descriptor in descriptors:
            os.close(descriptor)


def _start(
    command: Sequence[str], pipes: _Pipes, environ: Mapping[str, str], channel: int | None, *inherited: int
) -> subprocess.Popen[bytes]:
    argv = [str(channel) if part == CHANNEL else part for part in command]
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=pipes.noise_write,
        stderr=pipes.noise_write,
        env=dict(environ),
        pass_fds=(*inherited, *([channel] if channel is not None else ())),
        start_new_session=True,
    )


def _pipe() -> tuple[int, int]:
    """A pipe above the standard streams: where one of those is closed, the system would hand out its number."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
        os.close(end)
    return ends[0], ends[1]


def _kill_session(pid: int) -> None:
    # The leader's process group: a process that left it also left our reach, and no longer holds our deadline.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True)
class _Heard:
    """All that came out of a process until it ended, was at its deadline, or ``stays``, being done."""

    noise: bytes
    answers: bytes
    timed_out: bool = False
    stays: bool = False


def _listen(process: _Process, pipes: _Pipes, end: float, stay: bool) -> _Heard:
    """Reads both pipes until the process exits or ``end`` passes. One that has answered gets a short grace to exit."""
    buffers = {pipes.noise: b"", pipes.answer: b""}
    answered_at: float | None = None
    started, longer = time.monotonic(), 0.0

    def heard(timed_out: bool = False, stays: bool = False) -> _Heard:
        return _Heard(buffers[pipes.noise], buffers[pipes.answer], timed_out, stays)

    while True:
        exited = process.poll() is not None
        _read_ready(buffers, 0 if exited else _TICK)
        buffers[pipes.noise] = buffers[pipes.noise][-_NOISE_BYTES:]
        if exited:
            while _read_ready(buffers, 0):
                buffers[pipes.noise] = buffers[pipes.noise][-_NOISE_BYTES:]
            return heard()
        now = time.monotonic()
        if answered_at is None and _last_is_done(buffers[pipes.answer]):
            if stay:
                return heard(stays=True)
            answered_at = now
        if answered_at is not None and now > answered_at + _EXIT_GRACE:
            return heard(timed_out=True)
        if now > end + longer:
            # On a busy machine a process that waits for a CPU is slow, not hung.
            more = min(_starved(process.pid), MOST_STARVED * (end - started))
            if now > end + more:
                return heard(timed_out=True)
            longer = more


def _starved(group: int) -> float:
    """Seconds that the processes of a group stood in the queue for a CPU; the most of any one of their threads."""
    longest = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(
            OSError, ValueError, IndexError
        ):  # it has ended, or /proc is not what Linux makes of it
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[2]) == group:
                for task in (stat.parent / "task").glob("*/schedstat"):
                    longest = max(longest, int(task.read_text().split()[1]))
    return longest / 1e9


def _read_ready(buffers: dict[int, bytes], timeout: float) -> bool:
    """Reads what there is; whether there was anything. An end that nobody writes to any more is always ready."""
    ready, _, _ = select.select(list(buffers), [], [], timeout)
    got = False
    for descriptor in ready:
        data = os.read(descriptor, 65536)
        buffers[descriptor] += data
        got = got or bool(data)
    if ready and not got and timeout:
        time.sleep(timeout)
    return got


def _last_is_done(data: bytes) -> bool:
    return data.endswith(b'{"done": true}\n')


def _outcome(heard: _Heard, returncode: int | None, seconds: float, channel: bool) -> Outcome:
    answer: dict[str, Any] = {}
    done, error = not channel and returncode == 0, None
    for line in heard.answers.splitlines():
        try:
            part = json.loads(line)
        except ValueError:
            continue  # half a line: it died in mid-write, and how it ended says so
        done = done or "done" in part
        error = part.get("error", error)
        answer |= part.get("answer", {})
    noise = heard.noise.decode("utf-8", "replace")
    return Outcome(answer, done, error, noise, returncode, heard.timed_out, seconds)
