"""State of the device while the clock runs, sampled from outside the process that trains.

NVML tells of NVIDIA devices, ``/sys`` and ``/proc`` of CPUs. What cannot be read is null, and the reason is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, Literal, Protocol, TypeVar

import psutil
import pynvml

from llmbench.results.schema import Hardware, Range

PERIOD = 0.25  # seconds between samples
PATIENCE = 2.0  # seconds to wait for a sample under way
TICKS = 0.1  # seconds: in less, the kernel's ticks of 10 ms are too coarse for a share
SYS, PROC = Path("/sys"), Path("/proc")

# https://docs.nvidia.com/deploy/nvml-api, nvmlClocksEventReasons. Idle (0x1) is no throttling.
NVML_REASONS = {
    0x002: "clock setting",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal",
    0x040: "thermal",  # by the hardware itself
    0x080: "power brake",
    0x100: "display clock setting",
}
# How each quantity is called, read from one device, and combined over several.
NVML_QUANTITIES: dict[str, tuple[str, Callable[[Any], float], Callable[[list[float]], float]]] = {
    "clock_mhz": ("clock", lambda one: pynvml.nvmlDeviceGetClockInfo(one, pynvml.NVML_CLOCK_SM), min),
    "memory_clock_mhz": ("memory clock", lambda one: pynvml.nvmlDeviceGetClockInfo(one, pynvml.NVML_CLOCK_MEM), min),
    "temperature_celsius": (
        "temperature",
        lambda one: pynvml.nvmlDeviceGetTemperature(one, pynvml.NVML_TEMPERATURE_GPU),
        max,
    ),
    "power_watts": ("power", lambda one: pynvml.nvmlDeviceGetPowerUsage(one) / 1e3, sum),
    "utilization": ("utilization", lambda one: pynvml.nvmlDeviceGetUtilizationRates(one).gpu / 100, fmean),
}

# Drivers of CPU sensors, and of thermal zones where there is no such driver.
CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal")


class Sampler:
    """Samples the devices in use, in a thread of its own: at once, then every 0.25 s until ``stop``.

    Several devices train in step, so the one that holds up the others counts: clocks are those of the slowest
    device, the temperature is that of the hottest; power is the sum, utilization the mean.

    Args:
        device: what trains. Neither a missing driver nor a missing sensor raises: ``Hardware.reason`` names it.
        uuids: the CUDA devices in use, as torch or NVML spells them; None: all that NVML sees.
        period: seconds between samples.
        sys: where sysfs is mounted.
        proc: where procfs is mounted.
    """

    def __init__(
        self,
        device: Literal["cpu", "cuda"],
        uuids: Sequence[str] | None = None,
        period: float = PERIOD,
        sys: Path = SYS,
        proc: Path = PROC,
    ) -> None:
        self._probe: _Probe = _NvmlProbe(uuids) if device == "cuda" else _CpuProbe(sys, proc)
        self._period = period
        self._window: Window[dict[str, float]] | None = None

    def start(self) -> None:
        """Begins a window. One that was not stopped is forgotten."""
        self.stop()
        self._probe.begin()
        self._window = Window(self._probe.sample, self._period)

    def stop(self) -> Hardware | None:
        """What was sampled since ``start``; None if it was not started."""
        if self._window is None:
            return None
        window, self._window = self._window, None
        if not window.close():
            self._probe.reasons.append(f"{self._probe.source} did not answer for {PATIENCE:.0f} s")
        samples = [*window.samples, self._probe.end()]
        return Hardware(
            samples=len(window.samples),
            source=self._probe.source,
            throttled=sorted(self._probe.throttled),
            reason="; ".join(dict.fromkeys(self._probe.reasons)) or None,
            **{name: _range(sample[name] for sample in samples if name in sample) for name in QUANTITIES},
        )


Sample = TypeVar("Sample")


class Window(Generic[Sample]):
    """A thread that samples from its creation until it is closed; what is empty is left out."""

    def __init__(self, sample: Callable[[], Sample | None], period: float) -> None:
        self.samples: list[Sample] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(sample, period), name="sampler", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Whether the thread has ended: a driver whose device is lost may never answer."""
        self._closed.set()
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def _run(self, sample: Callable[[], Sample | None], period: float) -> None:
        while True:
            if found := sample():
                self.samples.append(found)
            if self._closed.wait(period):
                return


QUANTITIES = ("clock_mhz", "memory_clock_mhz", "temperature_celsius", "power_watts", "utilization")


def _range(values: Iterable[float]) -> Range | None:
    known = list(values)
    return Range(mean=fmean(known), low=min(known), high=max(known)) if known else None


class _Probe(Protocol):
    """Reads one kind of device.

    Attributes:
        source: who tells.
        reasons: why something could not be read.
        throttled: what held the clock down since ``begin``.
    """

    source: str
    reasons: list[str]
    throttled: set[str]

    def begin(self) -> None: ...
    def sample(self) -> dict[str, float]: ...
    def end(self) -> dict[str, float]: ...


class _NvmlProbe:
    """NVIDIA devices. Utilization is NVML's own mean over the last sixth of a second to a second."""

    def __init__(self, uuids: Sequence[str] | None) -> None:
        self.source = "NVML"
        self._unavailable: list[str] = []
        self._devices: list[Any] = []
        try:
            pynvml.nvmlInit()
            self._devices = handles(uuids)
        except pynvml.NVMLError as error:
            self._unavailable = [f"NVML: {error}"]
        self.begin()

    def begin(self) -> None:
        self.reasons = list(self._unavailable)
        self.throttled: set[str] = set()

    def sample(self) -> dict[str, float]:
        """What the devices have at this moment."""
        if not self._devices:
            return {}
        for bits in self._read("throttle reasons", _throttle_reasons):
            self.throttled |= {name for bit, name in NVML_REASONS.items() if int(bits) & bit}
        found = {name: self._read(what, ask) for name, (what, ask, _) in NVML_QUANTITIES.items()}
        return {name: float(NVML_QUANTITIES[name][2](values)) for name, values in found.items() if values}

    def end(self) -> dict[str, float]:
        """Nothing: the devices idle by now."""
        return {}

    def _read(self, what: str, ask: Callable[[Any], float]) -> list[float]:
        """One value of each device; none if any does not tell: a sum of some would be wrong."""
        try:
            return [ask(device) for device in self._devices]
        except pynvml.NVMLError as error:
            self.reasons.append(f"{what}: {error}")
            return []


def handles(uuids: Sequence[str] | None) -> list[Any]:
    """NVML's handles of these devices, of all if None."""
    if uuids is None:
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    # torch leaves the prefix out.
    full = [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in uuids]
    return [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in full]


def _throttle_reasons(device: Any) -> float:
    try:
        return float(pynvml.nvmlDeviceGetCurrentClocksEventReasons(device))
    except pynvml.NVMLError_FunctionNotFound:  # a driver from before the function was renamed
        return float(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device))


class _CpuProbe:
    """The CPUs of this machine, busy with whatever."""

    def __init__(self, sys: Path, proc: Path) -> None:
        self.source = "Linux sysfs and procfs"
        cpus = sys / "devices" / "system" / "cpu"
        self._clocks = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._cpuinfo = proc / "cpuinfo"
        # Without this flag, as in a virtual machine, the kernel repeats the nominal clock.
        self._measured = not self._clocks and "aperfmperf" in _text(self._cpuinfo)
        self._temperatures = _cpu_temperatures(sys)
        self._counters = sorted(cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
        self._absent = ["power and memory clock are not sampled on a CPU"]
        if not self._clocks and not self._measured:
            self._absent.append("no clock (a virtual machine is not told)")
        if not self._temperatures:
            self._absent.append("no temperature sensor (a virtual machine has none)")
        if not self._counters:
            self._absent.append("no throttle counters")
        self.begin()

    def begin(self) -> None:
        self.reasons = list(self._absent)
        self.throttled: set[str] = set()
        self._throttled_before = self._numbers("throttle counters", self._counters)
        self._times = psutil.cpu_times()
        self._utilization_known = False

    def sample(self) -> dict[str, float]:
        """What the CPUs have at this moment, and their utilization since the last sample."""
        clocks = [clock / 1e3 for clock in self._numbers("clock", self._clocks)]
        if self._measured:
            clocks = [float(line.split(":")[1]) for line in _text(self._cpuinfo).splitlines() if "cpu MHz" in line]
        temperatures = self._numbers("temperature", self._temperatures)
        found = self._utilization(TICKS)
        if clocks:
            found["clock_mhz"] = fmean(clocks)
        if temperatures:
            found["temperature_celsius"] = max(temperatures) / 1e3
        return found

    def end(self) -> dict[str, float]:
        """The utilization since the last sample; notes whether the CPUs were throttled since ``begin``."""
        after = self._numbers("throttle counters", self._counters)
        if any(new > old for old, new in zip(self._throttled_before, after, strict=False)):
            self.throttled.add("thermal")
        return self._utilization(TICKS if self._utilization_known else 0.0)

    def _utilization(self, least: float) -> dict[str, float]:
        """Share of the CPUs' time that they worked since it was last told; nothing before ``least`` seconds."""
        times = psutil.cpu_times()
        total = _total(times) - _total(self._times)
        if total <= least * (psutil.cpu_count() or 1):
            return {}
        busy = _busy(times) - _busy(self._times)
        self._times, self._utilization_known = times, True
        return {"utilization": min(1.0, max(0.0, busy / total))}

    def _numbers(self, what: str, files: list[Path]) -> list[int]:
        try:
            return [int(file.read_text()) for file in files]
        except (OSError, ValueError) as error:
            self.reasons.append(f"{what}: {error}")
            return []


def _total(times: Any) -> float:
    return _busy(times) + sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "steal"))


def _busy(times: Any) -> float:
    # Time of guests is counted in user and nice already (proc(5)).
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))


def _cpu_temperatures(sys: Path) -> list[Path]:
    """Files in thousandths of a degree."""
    chips = sorted(file.parent for file in sys.glob("class/hwmon/hwmon*/name") if _text(file).strip() in CHIPS)
    if chips:
        return [file for chip in chips for file in sorted(chip.glob("temp*_input"))]
    zones = sorted(sys.glob("class/thermal/thermal_zone*/type"))
    return [file.with_name("temp") for file in zones if _text(file).strip() in ZONES]


def _text(file: Path) -> str:
    """Of a file that may not be there."""
    try:
        return file.read_text()
    except OSError:
        return ""
