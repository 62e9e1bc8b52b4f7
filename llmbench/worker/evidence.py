"""What a rank leaves behind that outlives it: a file of JSON lines. ``launch/evidence.py`` finds the cause in it.

Each line goes to the file by one system call, so that it survives the death of the process. A thread writes once a
second that the rank is alive, how many steps it did and how many collectives it began; the training itself writes
nothing while the clock runs.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any

import torch.distributed as dist

from llmbench.worker.events import BYTES, Events

BEAT_SECONDS = 1.0
MOST_STUCK_SECONDS = 60.0  # without a step until a rank tells where it is
NEAR_SECONDS = 5.0  # before its deadline a rank tells where it is, whatever it does
NO_STEPS = frozenset({"start", "import", "build", "compile"})  # phases that may take minutes, and do no step
MOST_FRAMES = 100
LOOK_SECONDS = 0.05  # between looks for ranks that begin


class Lines:
    """Appends events to a file. What cannot be written is noted once on stderr, and ends the writing, never the job.

    Args:
        path: the file; None writes nothing.
    """

    def __init__(self, path: str | None) -> None:
        self._descriptor: int | None = None
        if path is None:
            return
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._give_up(error)

    def write(self, event: str, **values: Any) -> None:
        if self._descriptor is None:
            return
        # A line that was torn before stays alone: this one does not end in it.
        line = f"\n{json.dumps({'at': time.time_ns(), 'event': event} | values)}\n".encode()
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._descriptor = None
        print(f"llmbench: no evidence is kept from here on: {error.strerror}", file=sys.stderr, flush=True)


class Evidence:
    """What one rank leaves. Use as a context manager: within, a thread beats.

    Args:
        job: ``evidence`` (the folder), ``world_size``, ``heartbeat`` (the file of the counters of steps), ``asked_at``
            and ``config`` with ``deadline_seconds``; ``stuck_seconds`` without a step until the rank tells where it is.
    """

    def __init__(self, job: dict[str, Any], rank: int) -> None:
        self._job, self._rank = job, rank
        folder = job.get("evidence")
        self._lines = Lines(file_of(folder, rank) if folder else None)
        self._kept = bool(folder)
        self._phase = "start"
        self._asked, self._asking = os.pipe()
        self._thread = threading.Thread(target=self._watch, name="llmbench-evidence", daemon=True)

    def __enter__(self) -> Evidence:
        if self._kept:
            self._lines.write(
                "start",
                host=socket.gethostname(),
                pid=os.getpid(),
                parent=os.getppid(),
                rank=self._rank,
                world_size=self._job.get("world_size"),
            )
            self._listen()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept:
            if threading.current_thread() is threading.main_thread():
                signal.set_wakeup_fd(-1)
            os.write(self._asking, bytes(1))
            self._thread.join()
        os.close(self._asked)
        os.close(self._asking)

    def follow(self, events: Events) -> Events:
        """Events that go on to ``events``, of which the phases are kept here too."""
        return _Followed(events, self)

    def phase(self, name: str) -> None:
        self._phase = name
        self._lines.write("phase", name=name)

    def error(self, found: dict[str, Any]) -> None:
        """What the rank raised, as ``faults.describe`` tells it."""
        names = ("type", "message", "where", "out_of_memory")
        self._lines.write("error", **{name: found.get(name) for name in names})

    def end(self, code: int) -> None:
        """The rank has come to its end, with a result or an error."""
        self._lines.write("end", code=code, step=self._step())

    def beat(self) -> int:
        """Tells that the rank lives; the steps that it has done."""
        step, found = self._step(), collectives()
        self._lines.write("beat", step=step, collective=found and found[0])
        return step

    def tell_where(self) -> None:
        """Writes the stacks of all threads, and the collectives so far."""
        self._lines.write("stack", text=stacks())
        found = collectives()
        if found is not None:
            self._lines.write("flight", last_enqueued=found[0], last_completed=found[1])

    def _listen(self) -> None:
        """Makes SIGUSR1 wake the thread up, beside what it does: the main thread may be anywhere in C++."""
        if threading.current_thread() is not threading.main_thread():
            return
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
        os.set_blocking(self._asking, False)
        signal.set_wakeup_fd(self._asking, warn_on_full_buffer=False)

    def _watch(self) -> None:
        progress, since, told = ("", 0), 0.0, False
        while True:
            woken = os.read(self._asked, 64) if select.select([self._asked], [], [], BEAT_SECONDS)[0] else b""
            if 0 in woken:
                return
            step = self.beat()
            if progress != (self._phase, step):
                progress, since, told = (self._phase, step), time.monotonic(), False
            stuck = not told and time.monotonic() - since >= self._patience(since)
            if stuck or signal.SIGUSR1 in woken:
                self.tell_where()
                told = True

    def _patience(self, since: float) -> float:
        """Seconds without a step, from then on, until the rank tells where it is."""
        deadline = self._job.get("config", {}).get("deadline_seconds")
        if deadline is None:
            left = near = float("inf")
        else:
            left = self._job["asked_at"] + deadline - since
            near = left - min(NEAR_SECONDS, deadline / 4)
        if self._phase in NO_STEPS:
            return near
        return min(near, float(self._job.get("stuck_seconds") or min(MOST_STUCK_SECONDS, left / 2)))

    def _step(self) -> int:
        """Steps that are done, from where ``events.Heartbeat`` counts them; 0 where nobody does."""
        try:
            descriptor = os.open(self._job["heartbeat"], os.O_RDONLY | os.O_CLOEXEC)
        except (KeyError, OSError):
            return 0
        try:
            return int.from_bytes(os.pread(descriptor, BYTES, BYTES * self._rank), "little")
        finally:
            os.close(descriptor)


class _Followed:
    def __init__(self, events: Events, evidence: Evidence) -> None:
        self._events, self._evidence = events, evidence

    def send(self, event: str, **values: Any) -> None:
        if event == "phase":
            self._evidence.phase(values["name"])
        self._events.send(event, **values)


def open_for(job: dict[str, Any], rank: int) -> Evidence:
    """The evidence of a rank; without ``job["evidence"]`` nothing is written."""
    return Evidence(job, rank)


def file_of(folder: str, rank: int) -> str:
    return os.path.join(folder, f"rank{rank}.jsonl")


def exited(folder: str, rank: int, code: int, by_us: bool | None) -> None:
    """Notes how a rank ended, beside what it wrote itself.

    Args:
        code: exit code, negative for a signal.
        by_us: whether it was stopped by who started it; None: that cannot be told.
    """
    Lines(file_of(folder, rank)).write("exit", code=code, by_us=by_us)


@contextmanager
def exits_of(folder: str | None, count: int) -> Iterator[None]:
    """Within, the end of each of ``count`` ranks that this process forks is noted, in the order in which they end.

    torch's launcher tells of the first that it saw only. It stops the others by SIGTERM, then by SIGKILL.
    """
    if folder is None:
        yield
        return
    watch = _Exits(folder)
    finder = threading.Thread(target=watch.find, args=(count,), daemon=True)
    finder.start()
    try:
        yield
    finally:
        watch.over.set()
        finder.join()
        for thread in watch.threads:
            thread.join(BEAT_SECONDS)


class _Exits:
    def __init__(self, folder: str) -> None:
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []
        self._folder = folder
        self._failed = False
        self._lock = threading.Lock()

    def find(self, count: int) -> None:
        """Waits for the ranks to begin, and then, in a thread for each, for their end."""
        found: set[int] = set()
        while len(found) < count:
            for rank, pid in self._begun().items():
                if rank not in found:
                    found.add(rank)
                    thread = threading.Thread(target=self._wait, args=(rank, pid), daemon=True)
                    thread.start()
                    self.threads.append(thread)
            if self.over.wait(LOOK_SECONDS):
                return

    def _begun(self) -> dict[int, int]:
        """Rank and process id of our children that have begun."""
        begun = {}
        for name in os.listdir(self._folder) if os.path.isdir(self._folder) else ():
            if not (name.startswith("rank") and name.endswith(".jsonl")):
                continue
            with open(os.path.join(self._folder, name), encoding="utf-8", errors="replace") as file:
                for line in islice(file, 2):
                    start = _start(line)
                    if start.get("parent") == os.getpid() and start.get("host") == socket.gethostname():
                        begun[start["rank"]] = start["pid"]
        return begun

    def _wait(self, rank: int, pid: int) -> None:
        try:
            # Looks without taking: the launcher waits for the same children.
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # the launcher was faster, which knows it then
        assert found is not None
        code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        with self._lock:
            by_us = self._failed and -code in (signal.SIGTERM, signal.SIGKILL)
            self._failed = self._failed or code != 0
            exited(self._folder, rank, code, by_us)


def _start(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # it is being written
    return found if isinstance(found, dict) and found.get("event") == "start" else {}


def collectives() -> tuple[int, int] | None:
    """How many collectives this process began and ended, of all its groups; None where torch does not tell.

    From torch's flight recorder (private, and on unless TORCH_FR_BUFFER_SIZE is 0), which takes microseconds.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    import torch._C._distributed_c10d as native

    enqueued, completed, told = 0, 0, False
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):  # of gloo, of NCCL
        try:
            groups = json.loads(getattr(native, name)(False, False))["pg_status"].values()
            enqueued += sum(max(0, int(group["last_enqueued_collective"])) for group in groups)
            completed += sum(max(0, int(group["last_completed_collective"])) for group in groups)
            told = told or bool(groups)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            continue  # it is another one in this version of torch
    return (enqueued, completed) if told else None


def stacks() -> str:
    """Where each thread is, in the form of ``faulthandler``; the main thread comes last."""
    main, own = threading.main_thread().ident, threading.get_ident()
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] == main)
    return "\n".join(_stack(ident, frame) for ident, frame in frames if ident != own)


def _stack(ident: int, frame: FrameType | None) -> str:
    lines = [f"Thread 0x{ident:016x} (most recent call first):"]
    while frame is not None and len(lines) <= MOST_FRAMES:
        lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}')
        frame = frame.f_back
    return "\n".join([*lines, ""])
