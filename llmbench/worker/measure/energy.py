"""Energy from the hardware's own counters: NVML on NVIDIA devices, RAPL on CPUs. Never estimated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmbench.worker.device import Device

RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Reads a counter at both edges of the timed window.

    On CUDA every process reads the counter of its own current device, so that the energy of a case is the sum over
    its ranks. RAPL counts for the whole machine: there one rank counts for all.

    Args:
        counts: whether this process is the one that reads RAPL; of no meaning on CUDA.

    Attributes:
        reason: why there is no energy; None while there is.
    """

    def __init__(self, device: Device, counts: bool = True) -> None:
        self.reason: str | None = None
        self._counter: _Nvml | _Rapl | None = None
        try:
            if device.cuda:
                self._counter = _Nvml()
            elif counts:
                self._counter = _Rapl()
            else:
                self.reason = "counted by local rank 0"
        except _NoCounterError as error:
            self.reason = str(error)

    def start(self) -> None:
        self._begin = self._read()

    def stop(self) -> dict[str, Any] | None:
        """Joules since ``start`` and their source; None without a counter (``reason`` says why)."""
        end = self._read()
        if self._counter is None or self._begin is None or end is None:
            return None
        try:
            return {"joules": self._counter.joules(self._begin, end), "source": self._counter.source}
        except _NoCounterError as error:
            self.reason = str(error)
            return None

    def _read(self) -> list[int] | None:
        try:
            return self._counter.read() if self._counter else None
        except _NoCounterError as error:
            self.reason = str(error)
            return None


class _NoCounterError(Exception):
    """Why there is no counter to read."""


class _Nvml:
    """Millijoules of the current CUDA device since the driver was loaded."""

    source = "NVML total energy"

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise _NoCounterError("pynvml is not installed beside torch: pip install nvidia-ml-py") from None
        self._nvml = pynvml
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except pynvml.NVMLError as error:
            raise _NoCounterError(f"NVML: {error}") from None
        self.read()

    def read(self) -> list[int]:
        try:
            return [self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)]
        except self._nvml.NVMLError as error:
            raise _NoCounterError(f"NVML: {error}") from None

    @staticmethod
    def joules(begin: list[int], end: list[int]) -> float:
        return (end[0] - begin[0]) / 1e3


class _Rapl:
    """Microjoules of each package (https://docs.kernel.org/power/powercap/powercap.html)."""

    source = "RAPL package energy"

    def __init__(self) -> None:
        # Packages only: their counters include cores, uncore and graphics, which have entries of their own.
        # "psys" is the whole platform: it includes the packages.
        zones = [zone for zone in sorted(RAPL.glob("intel-rapl:[0-9]*")) if zone.name.count(":") == 1]
        self._counters = [zone / "energy_uj" for zone in zones if _text(zone / "name") != "psys"]
        self._counters = [counter for counter in self._counters if counter.exists()]
        if not self._counters:
            raise _NoCounterError("no RAPL counter in /sys/class/powercap (a virtual machine has none)")
        self.read()

    def read(self) -> list[int]:
        try:
            return [int(counter.read_text()) for counter in self._counters]
        except OSError as error:
            raise _NoCounterError(f"RAPL: {error.strerror}: {error.filename} (readable by root only)") from None

    def joules(self, begin: list[int], end: list[int]) -> float:
        changes = zip(self._counters, begin, end, strict=True)
        return sum(self._change(counter, before, after) for counter, before, after in changes) / 1e6

    def _change(self, counter: Path, before: int, after: int) -> int:
        """Microjoules, over one wrap at most.

        A window in which a counter passed its whole range once more looks the same, and is told too low: at 200 W a
        range of 262 kJ lasts 22 minutes.
        """
        if after >= before:
            return after - before
        limit = _text(counter.with_name("max_energy_range_uj"))
        if not limit.isdigit():
            raise _NoCounterError(f"the counter of {self.source} wrapped around, and its range cannot be read")
        return int(limit) - before + after


def _text(file: Path) -> str:
    """Of a file that may not be there."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
