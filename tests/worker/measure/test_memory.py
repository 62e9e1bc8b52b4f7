from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from llmbench.worker.device import Device
from llmbench.worker.measure import memory
from llmbench.worker.measure.memory import MemoryMeter, host_memory

MACHINE = psutil.virtual_memory().total


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of both versions of cgroups; none is there."""
    files = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    monkeypatch.setattr(memory, "CGROUP_LIMITS", tuple(map(str, files)))
    return files


def test_on_the_cpu_it_is_the_resident_memory(cgroup: list[Path]) -> None:
    now = psutil.Process().memory_info().rss
    found = MemoryMeter(Device("cpu")).read()
    assert {name for name, value in found.items() if value is None} == {
        "peak_allocated_bytes",
        "peak_reserved_bytes",
        "device_used_bytes",
    }
    assert found["start_rss_bytes"] == pytest.approx(now, rel=0.1)
    assert found["peak_rss_bytes"] >= 0.9 * found["start_rss_bytes"]
    assert found["capacity_bytes"] == MACHINE


def test_the_peak_holds_what_was_freed_again() -> None:
    meter = MemoryMeter(Device("cpu"))
    before = meter.read()["peak_rss_bytes"]
    spare = before - psutil.Process().memory_info().rss  # freed since the last peak
    block = bytearray(spare + 32 * 2**20)
    block[:: memory.os.sysconf("SC_PAGE_SIZE")] = b"\1" * len(block[:: memory.os.sysconf("SC_PAGE_SIZE")])
    del block
    assert meter.read()["peak_rss_bytes"] >= before + 24 * 2**20


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((None, None), MACHINE),
        (("max\n", None), MACHINE),
        (("1073741824\n", None), 2**30),
        ((None, "536870912\n"), 2**29),
        ((None, "9223372036854771712\n"), MACHINE),  # no limit, in version 1
        ((str(2**60), None), MACHINE),
    ],
)
def test_the_host_s_memory_is_that_of_its_cgroup(
    limits: tuple[str | None, ...], expected: int, cgroup: list[Path]
) -> None:
    for file, limit in zip(cgroup, limits, strict=True):
        if limit is not None:
            file.write_text(limit)
    assert host_memory() == expected


def test_without_proc_there_is_no_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "Path", lambda name: tmp_path / "none")
    found = MemoryMeter(Device("cpu")).read()
    assert found["start_rss_bytes"] is None
    assert found["peak_rss_bytes"] > 2**20
