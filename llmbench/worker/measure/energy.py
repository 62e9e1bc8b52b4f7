"""Energy from the hardware's own counters: NVML on NVIDIA devices, RAPL on CPUs. Never estimated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmbench.worker.device import Device

RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Reads a counter at both edges of the timed window."""

    def __init__(self, device: Device) -> None:
        self.reason: str | None = None
        self._source = ""
        self._read: Callable[[], float] | None = None
        try:
            self._source, self._read = _nvml() if device.cuda else _rapl()
        except _NoCounterError as error:
            self.reason = str(error)
        self._begin = 0.0

    def start(self) -> None:
        if self._read:
            self._begin = self._read()

    def stop(self) -> dict[str, Any] | None:
        """Joules since ``start`` and their source; None without a counter (``reason`` says why)."""
        if not self._read:
            return None
        joules = self._read() - self._begin
        if joules < 0:
            self.reason = f"the counter of {self._source} wrapped around"
            return None
        return {"joules": joules, "source": self._source}


class _NoCounterError(Exception):
    """Why there is no counter to read."""


def _nvml() -> tuple[str, Callable[[], float]]:
    try:
        import pynvml
    except ImportError:
        raise _NoCounterError("pynvml is not installed beside torch: pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise _NoCounterError(f"NVML: {error}") from None
    return "NVML total energy", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def _rapl() -> tuple[str, Callable[[], float]]:
    # Packages only: their counters include cores, uncore and graphics, which have entries of their own.
    counters = sorted(RAPL.glob("intel-rapl:[0-9]*/energy_uj"))
    counters = [counter for counter in counters if counter.parent.name.count(":") == 1]
    if not counters:
        raise _NoCounterError("no RAPL counter in /sys/class/powercap (a virtual machine has none)")
    try:
        for counter in counters:
            counter.read_text()
    except OSError as error:
        raise _NoCounterError(f"RAPL: {error.strerror}: {error.filename} (readable by root only)") from None
    return "RAPL package energy", lambda: sum(int(counter.read_text()) for counter in counters) / 1e6
