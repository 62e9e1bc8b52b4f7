from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from llmbench.launch import sampler
from llmbench.launch.sampler import Sampler
from llmbench.results.schema import Hardware
from tests.conftest import wait_for

NEVER = 3600.0  # seconds between samples: only the first is taken


def sampled(made: Sampler, between: Callable[[], object] = lambda: None) -> Hardware:
    """One window, with something done in it after the first sample."""
    sample, first = made._probe.sample, threading.Event()

    def told() -> dict[str, float]:
        found = sample()
        first.set()
        return found

    made._probe.sample = told  # type: ignore[method-assign]
    made.start()
    assert first.wait(60)
    between()
    found = made.stop()
    assert found is not None
    return found


# NVML, by a stand-in for pynvml


class NVMLError(Exception):
    pass


class FunctionNotFoundError(NVMLError):
    pass


class Nvml:
    """A driver with two devices. ``broken`` holds functions that raise; ``asked`` the devices that were looked up."""

    NVMLError, NVMLError_FunctionNotFound = NVMLError, FunctionNotFoundError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        self.broken: dict[str, NVMLError] = {}
        self.asked: list[str] = []
        self.clocks = {"GPU-a": 1980, "GPU-b": 1755}
        self.memory_clocks = {"GPU-a": 2619, "GPU-b": 2619}
        self.temperatures = {"GPU-a": 61, "GPU-b": 71}
        self.milliwatts = {"GPU-a": 650_000, "GPU-b": 700_500}
        self.busy = {"GPU-a": 90, "GPU-b": 100}
        self.reasons = {"GPU-a": 0x1, "GPU-b": 0x0}  # idle, nothing

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.broken:
            raise_ = self.broken[name]

            def refuse(*_: object) -> None:
                raise raise_

            return refuse
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return ["GPU-a", "GPU-b"][index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        if uuid not in self.clocks:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetClockInfo(self, device: str, kind: int) -> int:  # noqa: N802
        return {1: self.clocks, 2: self.memory_clocks}[kind][device]

    def nvmlDeviceGetTemperature(self, device: str, sensor: int) -> int:  # noqa: N802
        assert sensor == 0
        return self.temperatures[device]

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:  # noqa: N802
        self.asked.append("power")
        return self.milliwatts[device]

    def nvmlDeviceGetUtilizationRates(self, device: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=self.busy[device])

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: str) -> int:  # noqa: N802
        return self.reasons[device]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: str) -> int:  # noqa: N802
        return self.reasons[device]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    driver = Nvml()
    monkeypatch.setattr(sampler, "pynvml", driver)
    return driver


def test_several_devices_are_as_good_as_the_one_that_holds_up_the_others(nvml: Nvml) -> None:
    found = sampled(Sampler("cuda", ["GPU-a", "GPU-b"], NEVER))
    assert found.samples == 1
    assert found.source == "NVML"
    assert found.clock_mhz is not None
    assert found.clock_mhz.mean == 1755
    assert found.memory_clock_mhz is not None
    assert found.memory_clock_mhz.mean == 2619
    assert found.temperature_celsius is not None
    assert found.temperature_celsius.mean == 71
    assert found.power_watts is not None
    assert found.power_watts.mean == 1350.5
    assert found.utilization is not None
    assert found.utilization.mean == 0.95
    assert (found.throttled, found.reason) == ([], None)


def test_the_range_is_over_the_window(nvml: Nvml) -> None:
    def slow_down() -> None:
        nvml.clocks["GPU-a"] = 1200
        nvml.asked.clear()
        wait_for(lambda: nvml.asked, 10)

    found = sampled(Sampler("cuda", ["GPU-a"], period=0.005), slow_down)
    assert found.clock_mhz is not None
    assert (found.clock_mhz.low, found.clock_mhz.high) == (1200, 1980)
    assert 1200 < found.clock_mhz.mean < 1980
    assert found.samples >= 2


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x0, []),
        (0x1, []),
        (0x4, ["power cap"]),
        (0x20, ["thermal"]),
        (0x60, ["thermal"]),
        (0x8 | 0x80, ["hardware slowdown", "power brake"]),
        (0x2 | 0x10 | 0x100, ["clock setting", "display clock setting", "sync boost"]),
    ],
)
def test_throttle_reasons_have_names(bits: int, names: list[str], nvml: Nvml) -> None:
    nvml.reasons["GPU-b"] = bits
    assert sampled(Sampler("cuda", None, NEVER)).throttled == names


def test_a_driver_from_before_throttle_reasons_were_renamed(nvml: Nvml) -> None:
    nvml.broken["nvmlDeviceGetCurrentClocksEventReasons"] = FunctionNotFoundError("Function Not Found")
    nvml.reasons["GPU-a"] = 0x4
    found = sampled(Sampler("cuda", None, NEVER))
    assert (found.throttled, found.reason) == (["power cap"], None)


def test_what_held_the_clock_down_in_an_earlier_window_is_forgotten(nvml: Nvml) -> None:
    made = Sampler("cuda", None, NEVER)
    nvml.reasons["GPU-a"] = 0x20
    assert sampled(made).throttled == ["thermal"]
    nvml.reasons["GPU-a"] = 0x0
    again = sampled(made)
    assert (again.throttled, again.samples) == ([], 1)


def test_devices_are_found_by_the_uuid_that_torch_gives(nvml: Nvml) -> None:
    found = sampled(Sampler("cuda", ["b"], NEVER))
    assert nvml.asked[0] == "GPU-b"
    assert found.power_watts is not None
    assert found.power_watts.mean == 700.5
    Sampler("cuda", ["MIG-1234"])
    assert nvml.asked[-1] == "MIG-1234"


def test_a_device_that_does_not_tell_its_power(nvml: Nvml) -> None:
    nvml.broken["nvmlDeviceGetPowerUsage"] = NVMLError("Not Supported")
    found = sampled(Sampler("cuda", None, period=0.005), lambda: time.sleep(0.1))
    assert found.power_watts is None
    assert found.clock_mhz is not None
    assert found.reason == "power: Not Supported"  # said once


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount"])
def test_no_driver(broken: str, nvml: Nvml) -> None:
    nvml.broken[broken] = NVMLError("NVML Shared Library Not Found")
    found = sampled(Sampler("cuda", None, NEVER))
    assert found.samples == 0
    assert found.clock_mhz is None
    assert found.reason == "NVML: NVML Shared Library Not Found"


def test_a_device_that_is_not_there(nvml: Nvml) -> None:
    found = sampled(Sampler("cuda", ["GPU-z"], NEVER))
    assert (found.samples, found.reason) == (0, "NVML: Not Found")


# CPUs, by a tree of files as Linux has it


class Tree:
    """The folders /sys and /proc of a machine with two cores and a sensor."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.proc = folder / "sys", folder / "proc"
        for core in (0, 1):
            self.write(f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", 3_000_000 + 500_000 * core)
            self.write(f"devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", 5)
            self.write(f"devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count", 7)
        self.write("class/hwmon/hwmon0/name", "nvme")
        self.write("class/hwmon/hwmon0/temp1_input", 99_000)
        self.write("class/hwmon/hwmon1/name", "coretemp")
        self.write("class/hwmon/hwmon1/temp1_input", 64_000)
        self.write("class/hwmon/hwmon1/temp2_input", 66_500)
        self.proc.mkdir()
        self.cpuinfo("fpu aperfmperf", 2000, 2400)

    def write(self, path: str, content: object) -> Path:
        file = self.sys / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
        return file

    def cpuinfo(self, flags: str, *megahertz: float) -> None:
        lines = [f"cpu MHz\t\t: {clock:.3f}\nflags\t\t: {flags}\n" for clock in megahertz]
        (self.proc / "cpuinfo").write_text("\n".join(lines))

    def without(self, pattern: str) -> None:
        for file in list(self.sys.glob(pattern)):
            file.unlink()

    def sampler(self, period: float = NEVER) -> Sampler:
        return Sampler("cpu", period=period, sys=self.sys, proc=self.proc)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_state_of_the_cpus(tree: Tree) -> None:
    found = sampled(tree.sampler())
    assert found.samples == 1
    assert found.clock_mhz is not None
    assert found.clock_mhz.mean == 3250  # of both cores, in MHz
    assert found.temperature_celsius is not None
    assert found.temperature_celsius.mean == 66.5  # of the hottest sensor of the CPU
    assert found.throttled == []
    assert found.power_watts is None
    assert found.reason == "power and memory clock are not sampled on a CPU"


@pytest.mark.parametrize("counter", ["core", "package"])
def test_a_throttle_counter_that_counted_on(counter: str, tree: Tree) -> None:
    path = f"devices/system/cpu/cpu1/thermal_throttle/{counter}_throttle_count"
    assert sampled(tree.sampler(), lambda: tree.write(path, 9)).throttled == ["thermal"]


def test_throttling_before_the_window_does_not_count(tree: Tree) -> None:
    made = tree.sampler()
    tree.write("devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 100)
    assert sampled(made).throttled == []


def test_without_cpufreq_the_kernel_s_own_measure_of_the_clock(tree: Tree) -> None:
    tree.without("devices/system/cpu/cpu*/cpufreq/*")
    found = sampled(tree.sampler())
    assert found.clock_mhz is not None
    assert found.clock_mhz.mean == 2200


def test_a_virtual_machine_knows_neither_clock_nor_temperature_nor_throttling(tree: Tree) -> None:
    tree.cpuinfo("fpu hypervisor", 2600, 2600)  # the nominal clock, whatever the real one
    tree.without("devices/system/cpu/cpu*/*/*")
    tree.without("class/hwmon/*/*")
    found = sampled(tree.sampler())
    assert (found.clock_mhz, found.temperature_celsius, found.throttled) == (None, None, [])
    assert found.reason is not None
    for reason in ("no clock", "no temperature sensor (a virtual machine has none)", "no throttle counters"):
        assert reason in found.reason


def test_a_thermal_zone_where_there_is_no_driver_of_a_sensor(tree: Tree) -> None:
    tree.without("class/hwmon/hwmon1/*")
    tree.write("class/thermal/thermal_zone0/type", "acpitz")
    tree.write("class/thermal/thermal_zone0/temp", 20_000)
    tree.write("class/thermal/thermal_zone1/type", "x86_pkg_temp")
    tree.write("class/thermal/thermal_zone1/temp", 48_000)
    found = sampled(tree.sampler())
    assert found.temperature_celsius is not None
    assert found.temperature_celsius.mean == 48


def test_a_sensor_that_goes_away(tree: Tree) -> None:
    made = tree.sampler()
    tree.without("class/hwmon/hwmon1/temp2_input")
    found = sampled(made)
    assert found.temperature_celsius is None
    assert found.clock_mhz is not None
    assert "temperature: [Errno 2] No such file" in str(found.reason)


class Times(SimpleNamespace):
    """What psutil.cpu_times() gives: seconds of all CPUs together."""


def test_utilization_is_the_share_of_the_cpus_time(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Times(user=10.0, nice=0.0, system=1.0, irq=0.0, softirq=0.0, idle=50.0, iowait=2.0, steal=0.0, guest=4.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(**vars(now)))
    made = tree.sampler()

    def work() -> None:
        now.user += 4.0
        now.nice += 0.5
        now.system += 1.0
        now.softirq += 0.5
        now.guest += 4.0  # is in user already
        now.idle += 1.0
        now.iowait += 2.0
        now.steal += 1.0

    found = sampled(made, work)
    assert found.utilization is not None
    assert found.utilization.mean == pytest.approx(0.6)
    assert found.samples == 1  # the end of the window adds a utilization, and no sample


def test_no_utilization_if_no_tick_has_passed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(user=1.0, system=1.0, idle=1.0))
    assert sampled(tree.sampler()).utilization is None


# The thread


def test_a_short_window_has_a_sample(tree: Tree) -> None:
    made = tree.sampler()
    made.start()
    found = made.stop()
    assert found is not None
    assert found.samples == 1
    assert found.clock_mhz is not None


def test_nothing_runs_before_start_and_after_stop(tree: Tree) -> None:
    before = threading.active_count()
    made = tree.sampler(0.005)
    assert made.stop() is None
    assert threading.active_count() == before
    made.start()
    assert threading.active_count() == before + 1
    assert made.stop() is not None
    assert threading.active_count() == before
    assert made.stop() is None


def test_start_without_stop_begins_anew(tree: Tree) -> None:
    before = threading.active_count()
    made = tree.sampler()
    sampled(made, made.start)
    assert threading.active_count() == before
    assert made.stop() is None


def test_a_driver_that_hangs_holds_nobody_up(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "PATIENCE", 0.05)
    answer = threading.Event()
    monkeypatch.setattr(Nvml, "nvmlDeviceGetPowerUsage", lambda *_: answer.wait())
    made = Sampler("cuda", None, NEVER)
    made.start()
    found = made.stop()
    assert found is not None
    assert (found.samples, found.clock_mhz) == (0, None)
    assert found.reason == "NVML did not answer for 0 s"
    answer.set()


def test_this_machine() -> None:
    made = Sampler("cpu", period=0.01)
    end = time.thread_time() + 0.3

    def work() -> None:
        while time.thread_time() < end:
            sum(range(1000))

    found = sampled(made, work)
    assert found.samples > 1
    assert found.utilization is not None
    assert 0.5 / (os.cpu_count() or 1) < found.utilization.high <= 1
    assert found.clock_mhz is None or found.clock_mhz.low > 100
