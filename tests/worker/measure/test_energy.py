from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from llmbench.worker.device import Device
from llmbench.worker.measure import energy
from llmbench.worker.measure.energy import EnergyMeter

CPU = Device("cpu")


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    return tmp_path


def counter(rapl: Path, name: str, microjoules: int) -> Path:
    file = rapl / name / "energy_uj"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{microjoules}\n")
    return file


def test_the_energy_of_the_window_is_that_of_all_packages(rapl: Path) -> None:
    one, two = counter(rapl, "intel-rapl:0", 1_000_000), counter(rapl, "intel-rapl:1", 5_000_000)
    cores = counter(rapl, "intel-rapl:0:0", 1_000_000)  # part of its package
    counter(rapl, "intel-rapl", 0)
    meter = EnergyMeter(CPU)
    one.write_text("9000000\n")  # before the window
    meter.start()
    one.write_text("11500000\n")
    two.write_text("5250000\n")
    cores.write_text("77000000\n")
    assert meter.stop() == {"joules": 2.75, "source": "RAPL package energy"}
    assert meter.reason is None


def test_a_counter_that_wrapped_around_is_corrected_by_its_range(rapl: Path) -> None:
    one, two = counter(rapl, "intel-rapl:0", 262_143_000_000), counter(rapl, "intel-rapl:1", 3_000_000)
    one.with_name("max_energy_range_uj").write_text("262143328850\n")
    meter = EnergyMeter(CPU)
    meter.start()
    one.write_text("2000000\n")
    two.write_text("4000000\n")
    assert meter.stop() == {"joules": 0.32885 + 2 + 1, "source": "RAPL package energy"}


def test_a_counter_that_wrapped_around_an_unknown_range_tells_nothing(rapl: Path) -> None:
    file = counter(rapl, "intel-rapl:0", 262_143_000_000)
    meter = EnergyMeter(CPU)
    meter.start()
    file.write_text("1000\n")
    assert meter.stop() is None
    assert meter.reason == "the counter of RAPL package energy wrapped around, and its range cannot be read"


def test_the_platform_is_not_counted_beside_its_packages(rapl: Path) -> None:
    package, platform = counter(rapl, "intel-rapl:0", 0), counter(rapl, "intel-rapl:1", 0)
    package.with_name("name").write_text("package-0\n")
    platform.with_name("name").write_text("psys\n")
    meter = EnergyMeter(CPU)
    meter.start()
    package.write_text("3000000\n")
    platform.write_text("9000000\n")
    assert meter.stop() == {"joules": 3.0, "source": "RAPL package energy"}


def test_a_machine_is_counted_once_however_many_ranks_it_has(rapl: Path) -> None:
    counter(rapl, "intel-rapl:0", 1)
    meter = EnergyMeter(CPU, counts=False)
    meter.start()
    assert meter.stop() is None
    assert meter.reason == "counted by local rank 0"


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_counter_that_goes_away(when: str, rapl: Path) -> None:
    file = counter(rapl, "intel-rapl:0", 1)
    meter = EnergyMeter(CPU)
    if when == "before":
        file.unlink()
    meter.start()
    file.unlink(missing_ok=True)
    assert meter.stop() is None
    assert "RAPL: No such file" in str(meter.reason)


def test_a_machine_without_a_counter(rapl: Path) -> None:
    counter(rapl, "intel-rapl:0:0", 1)
    meter = EnergyMeter(CPU)
    meter.start()
    assert meter.stop() is None
    assert "no RAPL counter" in str(meter.reason)


def test_a_counter_that_cannot_be_read(rapl: Path) -> None:
    (rapl / "intel-rapl:0" / "energy_uj").mkdir(parents=True)
    meter = EnergyMeter(CPU)
    meter.start()
    assert meter.stop() is None
    assert str(meter.reason).startswith("RAPL: Is a directory: ")
    assert "root only" in str(meter.reason)


def test_this_machine_either_measures_or_says_why_not() -> None:
    meter = EnergyMeter(CPU)
    meter.start()
    found = meter.stop()
    assert (found is None) == bool(meter.reason)
    assert found is None or found["joules"] >= 0


# NVML, by a stand-in for pynvml


class Cuda(Device):
    def __init__(self) -> None:
        self.kind = "cuda"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("pynvml")
    module.millijoules = 5_000
    module.NVMLError = type("NVMLError", (Exception,), {})
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda uuid: {"GPU-uuid-3": "the device"}[uuid]
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: {"the device": module.millijoules}[handle]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)  # of a rank that is not the first
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))
    return module


def test_the_energy_of_a_gpu(nvml: ModuleType) -> None:
    meter = EnergyMeter(Cuda())
    meter.start()
    nvml.millijoules = 7_500
    assert meter.stop() == {"joules": 2.5, "source": "NVML total energy"}


def test_every_rank_counts_its_own_gpu(nvml: ModuleType) -> None:
    meter = EnergyMeter(Cuda(), counts=False)
    meter.start()
    nvml.millijoules = 6_000
    assert meter.stop() == {"joules": 1.0, "source": "NVML total energy"}


def test_a_gpu_that_is_lost_within_the_window(nvml: ModuleType) -> None:
    meter = EnergyMeter(Cuda())
    meter.start()

    def refuse(*arguments: object) -> None:
        raise nvml.NVMLError("GPU is lost")

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert meter.stop() is None
    assert meter.reason == "NVML: GPU is lost"


@pytest.mark.parametrize("name", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_that_does_not_count(name: str, nvml: ModuleType) -> None:
    def refuse(*arguments: object) -> None:
        raise nvml.NVMLError("Not Supported")

    setattr(nvml, name, refuse)
    meter = EnergyMeter(Cuda())
    meter.start()
    assert meter.stop() is None
    assert meter.reason == "NVML: Not Supported"


def test_without_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = EnergyMeter(Cuda())
    assert meter.stop() is None
    assert "pip install nvidia-ml-py" in str(meter.reason)
