from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmbench.worker.measure import load
from llmbench.worker.measure.load import LoadMeter

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """What the kernel and the clock would say."""

    def __init__(self, folder: Path) -> None:
        self.file, self.cgroup = folder / "stat", folder / "cgroup"
        self.cgroup.mkdir()
        self.wall = 100.0
        self.usage = {"ru_utime": 1.0, "ru_stime": 0.5, "ru_nivcsw": 3}
        self.stat(0)

    def stat(self, *fields: int) -> None:
        numbers = [*(field * TICKS for field in fields), *[0] * 10][:10]
        self.file.write_text(f"cpu  {' '.join(map(str, numbers))}\ncpu0 9 9 9 9 9 9 9 9 9 9\n")

    def waited(self, name: str, number: int) -> None:
        (self.cgroup / "cpu.stat").write_text(f"nr_periods 7\n{name} {number}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(load, "Path", {"/proc/stat": made.file}.__getitem__)
    monkeypatch.setattr(load, "cgroup_folders", lambda controller: [made.cgroup, made.cgroup.parent])
    monkeypatch.setattr(load.resource, "getrusage", lambda who: SimpleNamespace(**made.usage))
    monkeypatch.setattr(load.time, "perf_counter", lambda: made.wall)
    return made


def test_the_differences_between_the_edges_of_the_window(machine: Machine) -> None:
    machine.waited("throttled_usec", 500_000)
    meter = LoadMeter()
    meter.start()
    machine.wall += 10.0
    machine.usage = {"ru_utime": 8.0, "ru_stime": 1.5, "ru_nivcsw": 10}
    machine.stat(7, 1, 2, 1000, 1000, 1, 1, 4)  # user nice system idle iowait irq softirq steal
    machine.waited("throttled_usec", 2_000_000)
    assert meter.stop() == {
        "wall_seconds": 10.0,
        "cpu_seconds": 8.0,
        "preempted": 7.0,
        "busy_seconds": 12.0,
        "others_cpu_seconds": 12.0 - 8.0,
        "steal_seconds": 4.0,
        "quota_seconds": 1.5,
    }


def test_the_quota_of_version_1_counts_nanoseconds(machine: Machine) -> None:
    machine.waited("throttled_time", 0)
    meter = LoadMeter()
    meter.start()
    machine.waited("throttled_time", 250_000_000)
    assert meter.stop()["quota_seconds"] == 0.25


def test_without_a_quota_nobody_waits_for_it(machine: Machine) -> None:
    meter = LoadMeter()
    meter.start()
    assert meter.stop()["quota_seconds"] is None


def test_others_used_no_less_than_nothing(machine: Machine) -> None:
    """The kernel counts a process and the machine by different clocks."""
    meter = LoadMeter()
    meter.start()
    machine.usage["ru_utime"] += 5.0
    machine.stat(4)
    assert meter.stop()["others_cpu_seconds"] == 0.0


def test_a_machine_that_does_not_tell(machine: Machine) -> None:
    machine.file.unlink()
    meter = LoadMeter()
    meter.start()
    machine.wall += 1.0
    found = meter.stop()
    assert (found["others_cpu_seconds"], found["steal_seconds"]) == (None, None)
    assert (found["wall_seconds"], found["cpu_seconds"]) == (1.0, 0.0)


def test_this_machine() -> None:
    meter = LoadMeter()
    meter.start()
    sum(range(10**6))
    found = meter.stop()
    assert found["wall_seconds"] > 0
    assert found["cpu_seconds"] > 0
    assert all(value is None or value >= 0 for value in found.values())
