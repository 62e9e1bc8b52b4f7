from __future__ import annotations

import time

import pytest
import torch

from llmbench.worker.device import Device
from llmbench.worker.measure import peaks
from llmbench.worker.measure.peaks import DATA_SHEET, data_sheet, measure_peaks
from tests.worker.conftest import Events


@pytest.mark.parametrize(
    ("device", "dtype", "tflops"),
    # The names are those that torch.cuda.get_device_name() gives.
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312.0),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA A10G", "bf16", 70.0),
        ("NVIDIA L4", "fp32", 30.3),
        ("NVIDIA L40S", "fp32", 91.6),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("Tesla V100-PCIE-32GB", "fp32", 14.0),
        ("Tesla T4", "fp32", 8.1),
    ],
)
def test_the_data_sheet_of_a_known_device(device: str, dtype: str, tflops: float) -> None:
    found = data_sheet(device, dtype)
    assert found is not None
    assert found["tflops"] == tflops
    assert found["source"]


@pytest.mark.parametrize(
    "device",
    [
        *("cpu", "", "NVIDIA GeForce RTX 4090", "NVIDIA H100 NVL", "AMD Instinct MI300X"),
        *("NVIDIA L40", "NVIDIA RTX A1000", "NVIDIA T400 4GB", "NVIDIA A100X", "NVIDIA GH200 480GB"),  # near names
    ],
)
def test_an_unknown_device_has_no_peak(device: str) -> None:
    assert data_sheet(device, "fp32") is None


@pytest.mark.parametrize("device", ["Tesla T4", "Tesla V100-SXM2-16GB"])
def test_a_device_without_the_arithmetic_has_no_peak_of_it(device: str) -> None:
    assert data_sheet(device, "bf16") is None


def test_a_more_particular_name_comes_before_what_it_contains() -> None:
    names = [name for name, _, _ in DATA_SHEET]
    for place, name in enumerate(names):
        assert not any(name.startswith(f"{earlier} ") for earlier in names[:place])


def test_a_matmul_is_counted_with_two_operations_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    # Begin and end of five products: the fastest takes a quarter of a second.
    times = iter([0, 9, 10, 11, 20, 20.5, 30, 30.25, 40, 41])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    assert peaks._matmul(Device("cpu"), torch.float32, size=32, repeats=3) == 2 * 32**3 / 0.25 / 1e12


def test_peaks_are_measured_by_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = peaks._matmul
    monkeypatch.setattr(peaks, "_matmul", lambda device, dtype, size, repeats: matmul(device, dtype, 64, 2))
    found = measure_peaks({"device": "cpu"}, Events())
    assert set(found["peaks"]) == {"fp32", "bf16"}
    assert all(tflops > 0 for tflops in found["peaks"].values())
    assert found["size"] == 1024
