"""Memory over time: of real processes, and of a driver's stand-in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.launch import sampler, timeline
from llmbench.launch.timeline import MemoryWatch, thinned
from tests.conftest import wait_for

MIB = 2**20
# Takes so many MiB when a line comes in, gives them back at the next, and ends at the last.
TAKES = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    taken = bytearray(int(line) * 2**20)
    taken[::4096] = bytes([1]) * len(taken[::4096])
    print("taken", flush=True)
"""


class Process:
    """One that takes memory when it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._answer()

    def take(self, mib: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{mib}\n")
        self._process.stdin.flush()
        self._answer()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    made = [Process(), Process()]
    yield made
    for process in made:
        process.end()


def phase(name: str) -> dict[str, Any]:
    return {"event": "phase", "name": name}


def test_what_a_process_takes_is_seen_with_its_phases_in_order(processes: list[Process]) -> None:
    watch = MemoryWatch("cpu", period=3600)
    watch.begin()
    watch.note({"event": "started", "pid": processes[0].pid})
    watch.note(phase("build"))
    processes[0].take(100)
    watch.note(phase("timed"))
    processes[0].take(1)
    watch.note(phase("evaluate"))
    found = watch.end()
    assert found is not None
    assert list(found.phases) == ["import", "build", "timed", "evaluate"]
    assert list(found.phases.values()) == sorted(found.phases.values())
    assert found.phases["import"] == 0
    assert found.seconds == sorted(found.seconds)
    samples = list(zip(found.seconds, found.bytes, strict=True))
    at = {name: next(amount for at, amount in samples if at >= begin) for name, begin in found.phases.items()}
    assert at["timed"] - at["build"] > 95 * MIB
    assert at["timed"] - at["evaluate"] > 90 * MIB
    assert found.source == "resident memory of the process"


def test_between_its_events_it_is_sampled_too(processes: list[Process]) -> None:
    watch = MemoryWatch("cpu", period=0.01)
    watch.begin()
    watch.note({"event": "started", "pid": processes[0].pid})
    window = watch._window
    assert window is not None
    before = len(window.samples)
    wait_for(lambda: len(window.samples) > before + 5)
    assert watch.end() is not None


def test_ranks_are_summed_and_their_launcher_does_not_count(processes: list[Process]) -> None:
    launcher = Process()
    try:
        launcher.take(200)
        watch = MemoryWatch("cpu", period=3600)
        watch.begin()
        watch.note({"event": "started", "pid": launcher.pid})
        for rank, process in enumerate(processes):
            process.take(50)
            watch.note({"event": "rank", "rank": rank, "pid": process.pid, "host": "here"})
        found = watch.end()
    finally:
        launcher.end()
    assert found is not None
    assert found.bytes[0] > 200 * MIB
    assert 100 * MIB < found.bytes[-1] < 200 * MIB
    assert found.source.startswith("resident memory, sum over 2 ranks")


def test_a_process_that_has_ended_leaves_what_was_seen(processes: list[Process]) -> None:
    watch = MemoryWatch("cpu", period=3600)
    watch.begin()
    watch.note({"event": "started", "pid": processes[0].pid})
    processes[0].end()
    watch.note(phase("build"))
    watch.note({"event": "started", "pid": processes[0].pid})
    found = watch.end()
    assert found is not None
    assert len(found.bytes) == 1


def test_a_job_leaves_nothing_to_the_next(processes: list[Process]) -> None:
    watch = MemoryWatch("cpu", period=3600)
    assert watch.end() is None
    watch.note(phase("of nobody"))
    watch.begin()
    watch.note({"event": "started", "pid": processes[0].pid})
    watch.note(phase("build"))
    watch.begin()
    assert watch.end() is None


@given(st.lists(st.integers(0, 2**45), min_size=1, max_size=600), st.integers(3, 130))
def test_thinning_keeps_order_ends_and_the_peak(amounts: list[int], most: int) -> None:
    samples = [(index / 10, amount) for index, amount in enumerate(amounts)]
    kept = thinned(samples, most)
    assert len(kept) <= max(most, 3)
    assert kept == sorted(kept)
    assert set(kept) <= set(samples)
    assert (kept[0], kept[-1]) == (samples[0], samples[-1])
    assert max(amount for _, amount in kept) == max(amounts)


class NVMLError(Exception):
    pass


def driver(used: dict[str, int], *, refuses: bool = False) -> Any:
    def memory(device: str) -> SimpleNamespace:
        if refuses:
            raise NVMLError("Not Supported")
        return SimpleNamespace(used=used[device])

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(used),
        nvmlDeviceGetHandleByIndex=lambda index: list(used)[index],
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=memory,
    )


def on_cuda(monkeypatch: pytest.MonkeyPatch, nvml: Any, uuids: list[str] | None) -> MemoryWatch:
    monkeypatch.setattr(sampler, "pynvml", nvml)
    monkeypatch.setattr(timeline, "pynvml", nvml)
    return MemoryWatch("cuda", uuids, period=3600)


@pytest.mark.parametrize(("uuids", "seen"), [(None, 7 * MIB), (["GPU-a"], 5 * MIB)])
def test_of_several_devices_the_fullest_counts(
    monkeypatch: pytest.MonkeyPatch, uuids: list[str] | None, seen: int
) -> None:
    watch = on_cuda(monkeypatch, driver({"GPU-a": 5 * MIB, "GPU-b": 7 * MIB}), uuids)
    watch.begin()
    watch.note(phase("build"))
    found = watch.end()
    assert found is not None
    assert set(found.bytes) == {seen}
    assert "NVML" in found.source


def test_without_a_driver_or_its_answer_there_is_no_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = driver({"GPU-a": 1})

    def no_driver() -> None:
        raise NVMLError("Driver Not Loaded")

    missing.nvmlInit = no_driver
    for nvml in (missing, driver({"GPU-a": 1}, refuses=True)):
        watch = on_cuda(monkeypatch, nvml, None)
        watch.begin()
        watch.note(phase("build"))
        assert watch.end() is None


def test_time_begins_with_the_job(processes: list[Process]) -> None:
    watch = MemoryWatch("cpu", period=3600)
    before = time.monotonic()
    watch.begin()
    watch.note({"event": "started", "pid": processes[0].pid})
    found = watch.end()
    assert found is not None
    assert 0 <= found.seconds[0] <= time.monotonic() - before + 0.001  # to the millisecond
