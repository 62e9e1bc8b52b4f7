"""Runs a command that may crash, hang or print anything, and always comes back with what is known of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CHANNEL = "{channel}"
_NOISE_BYTES = 64 * 1024
_TICK = 0.02
_EXIT_GRACE = 5.0


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
        noise_read, noise_write = _pipe()
        answer_read, answer_write = _pipe()
        argv = [str(answer_write) if part == CHANNEL else part for part in command]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=noise_write,
                stderr=noise_write,
                env=dict(environ),
                pass_fds=(answer_write,) if channel else (),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            _close(noise_read, answer_read, noise_write, answer_write)
            return Outcome(noise=str(error), seconds=time.monotonic() - started)
        _close(noise_write, answer_write)
        self._add(process.pid)
        try:
            noise, answers, timed_out = _listen(process, noise_read, answer_read, started + deadline)
        finally:
            _kill_session(process.pid)
            process.wait()
            with self._lock:
                self._running.discard(process.pid)
            _close(noise_read, answer_read)
        return _outcome(answers, noise, process.returncode, timed_out, time.monotonic() - started, channel)

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


def _pipe() -> tuple[int, int]:
    """A pipe above the standard streams: where one of those is closed, the system would hand out its number."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
        os.close(end)
    return ends[0], ends[1]


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _kill_session(pid: int) -> None:
    # The leader's process group: a process that left it also left our reach, and no longer holds our deadline.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _listen(process: subprocess.Popen[bytes], noise: int, answer: int, end: float) -> tuple[bytes, bytes, bool]:
    """Reads both pipes until the process exits or ``end`` passes. One that has answered gets a short grace to exit."""
    buffers = {noise: b"", answer: b""}
    answered_at: float | None = None
    while True:
        exited = process.poll() is not None
        _read_ready(buffers, 0 if exited else _TICK)
        buffers[noise] = buffers[noise][-_NOISE_BYTES:]
        if exited:
            while _read_ready(buffers, 0):
                buffers[noise] = buffers[noise][-_NOISE_BYTES:]
            return buffers[noise], buffers[answer], False
        now = time.monotonic()
        if answered_at is None and _last_is_done(buffers[answer]):
            answered_at = now
        if now > end or (answered_at is not None and now > answered_at + _EXIT_GRACE):
            return buffers[noise], buffers[answer], True


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


def _outcome(answers: bytes, noise: bytes, returncode: int, timed_out: bool, seconds: float, channel: bool) -> Outcome:
    answer: dict[str, Any] = {}
    done, error = not channel and returncode == 0, None
    for line in answers.splitlines():
        try:
            part = json.loads(line)
        except ValueError:
            continue  # half a line: it died in mid-write, and how it ended says so
        done = done or "done" in part
        error = part.get("error", error)
        answer |= part.get("answer", {})
    text = noise.decode("utf-8", "replace")
    return Outcome(answer, done, error, text, returncode, timed_out, seconds)
