"""Memory over the whole life of a case, sampled from outside the processes that train.

On a CPU the resident memory of the worker, or of its ranks together; on CUDA what is in use of the device, by NVML.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol

import psutil
import pynvml

from llmbench.launch.sampler import Window, handles
from llmbench.results.schema import MemoryTimeline

PERIOD = 0.1  # seconds between samples
MOST_POINTS = 120

Sample = tuple[float, int]


class MemoryWatch:
    """Watches one job after the other: ``begin``, ``note`` what the worker tells of itself, ``end``.

    Args:
        device: what trains. A driver that is missing or refuses makes ``end`` return None.
        uuids: the CUDA devices in use, as for ``Sampler``.
        period: seconds between samples.
    """

    def __init__(
        self, device: Literal["cpu", "cuda"], uuids: Sequence[str] | None = None, period: float = PERIOD
    ) -> None:
        self._reader: _Reader = _Device(uuids) if device == "cuda" else _Resident()
        self._period = period
        self._window: Window[Sample] | None = None
        self._began = 0.0
        self._phases: dict[str, float] = {}

    def begin(self) -> None:
        """Starts the clock; a job that was not ended is forgotten."""
        self.end()
        self._reader.forget()
        self._began = time.monotonic()
        self._phases = {"import": 0.0}
        self._window = Window(self._sample, self._period)

    def note(self, event: Mapping[str, Any]) -> None:
        """Takes an event of the worker: which processes there are, and which phase begins. Samples at once then."""
        if self._window is None:
            return
        if event["event"] in ("started", "rank"):
            self._reader.add(event["pid"], rank=event.get("rank"))
        elif event["event"] == "phase":
            self._phases.setdefault(event["name"], time.monotonic() - self._began)
        else:
            return
        if found := self._sample():
            self._window.samples.append(found)

    def end(self) -> MemoryTimeline | None:
        """What was sampled since ``begin``; None if nothing was."""
        if self._window is None:
            return None
        window, self._window = self._window, None
        window.close()
        samples = thinned(sorted(window.samples), MOST_POINTS)
        if not samples:
            return None
        return MemoryTimeline(
            seconds=[round(seconds, 3) for seconds, _ in samples],
            bytes=[amount for _, amount in samples],
            source=self._reader.source,
            phases={name: round(seconds, 3) for name, seconds in self._phases.items()},
        )

    def _sample(self) -> Sample | None:
        amount = self._reader.read()
        return None if amount is None else (time.monotonic() - self._began, amount)


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many: the first, the last, and the highest of each stretch in between."""
    if len(samples) <= most:
        return list(samples)
    inner, stretches = samples[1:-1], most - 2
    edges = [len(inner) * index // stretches for index in range(stretches + 1)]
    highest = [max(inner[begin:end], key=lambda sample: sample[1]) for begin, end in pairwise(edges)]
    return [samples[0], *highest, samples[-1]]


class _Reader(Protocol):
    """Reads one kind of memory.

    Attributes:
        source: who tells what.
    """

    @property
    def source(self) -> str: ...
    def forget(self) -> None: ...
    def add(self, pid: int, rank: int | None) -> None: ...
    def read(self) -> int | None: ...


class _Resident:
    """The resident memory of the processes of a job."""

    def __init__(self) -> None:
        self._processes: list[psutil.Process] = []
        self._of_ranks = False

    @property
    def source(self) -> str:
        if not self._of_ranks:
            return "resident memory of the process"
        return f"resident memory, sum over {len(self._processes)} ranks; pages that they share count in each"

    def forget(self) -> None:
        self._processes, self._of_ranks = [], False

    def add(self, pid: int, rank: int | None) -> None:
        """A process of the job. Where there are ranks, the one that launched them does not count."""
        try:
            process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return  # it has ended already
        if rank is not None and not self._of_ranks:
            self._processes, self._of_ranks = [], True
        self._processes = [*self._processes, process]

    def read(self) -> int | None:
        """None before there is a process, and when none is left."""
        found = [amount for process in self._processes if (amount := _resident(process))]
        return sum(found) if found else None


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has ended


class _Device:
    """What is in use of the fullest CUDA device, whoever uses it."""

    source = "NVML: memory in use of the fullest device, by all processes"

    def __init__(self, uuids: Sequence[str] | None) -> None:
        self._devices: list[Any] = []
        try:
            pynvml.nvmlInit()
            self._devices = handles(uuids)
        except pynvml.NVMLError:
            return  # the sampler of the hardware has told why

    def forget(self) -> None:
        return

    def add(self, pid: int, rank: int | None) -> None:
        return

    def read(self) -> int | None:
        try:
            used = [int(pynvml.nvmlDeviceGetMemoryInfo(device).used) for device in self._devices]
        except pynvml.NVMLError:
            return None
        return max(used, default=None)
