from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llmbench.worker.device import Device
from llmbench.worker.measure import peaks
from llmbench.worker.measure.peaks import ARITHMETIC, DATA_SHEET, data_sheet, measure_peaks
from tests.worker.conftest import Events

CPU = Device("cpu")


@pytest.mark.parametrize(
    ("device", "arithmetic", "tflops"),
    # The names are those that torch.cuda.get_device_name() gives.
    [
        ("NVIDIA B200", "bf16", 2250.0),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200", "fp8", 1978.9),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA GH200 480GB", "tf32", 494.7),
        ("NVIDIA H100 80GB HBM3", "fp16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA H100 NVL", "fp32", 60.0),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312.0),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156.0),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312.0),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A40", "bf16", 149.7),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA A10G", "bf16", 70.0),
        ("NVIDIA L4", "fp8", 242.5),
        ("NVIDIA L40", "bf16", 181.05),
        ("NVIDIA L40S", "fp32", 91.6),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 3090", "fp16", 71.0),
        ("NVIDIA RTX A6000", "bf16", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", "fp32", 91.1),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla V100-PCIE-32GB", "fp32", 14.0),
        ("Tesla T4", "fp16", 65.0),
    ],
)
def test_the_data_sheet_of_a_known_device(device: str, arithmetic: str, tflops: float) -> None:
    found = data_sheet(device, arithmetic)
    assert found is not None
    assert found["tflops"] == tflops
    assert found["source"]


@pytest.mark.parametrize(
    "device",
    [
        *("cpu", "", "AMD Instinct MI300X", "NVIDIA GB200", "NVIDIA H100 64GB HBM3"),
        # Near names of other devices.
        *("NVIDIA RTX A1000", "NVIDIA T400 4GB", "NVIDIA A100X", "Tesla V100-SXM3-32GB", "Quadro RTX 6000"),
        *("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti"),
        # Parts of a device, and virtual ones.
        *("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA H200 MIG 3g.71gb", "GRID T4-16Q", "NVIDIA A40-8Q"),
    ],
)
def test_an_unknown_device_has_no_peak(device: str) -> None:
    assert all(data_sheet(device, arithmetic) is None for arithmetic in ARITHMETIC)


@pytest.mark.parametrize(
    ("device", "arithmetic"), [("Tesla T4", "bf16"), ("Tesla V100-SXM2-16GB", "tf32"), ("NVIDIA A100-SXM4-40GB", "fp8")]
)
def test_a_device_without_the_arithmetic_has_no_peak_of_it(device: str, arithmetic: str) -> None:
    assert data_sheet(device, arithmetic) is None


def test_the_table_is_of_dense_arithmetic() -> None:
    """Twice the width, half the speed or less: a figure with sparsity would stand out."""
    for pattern, tflops, source in DATA_SHEET:
        assert re.compile(pattern)
        assert source
        assert set(tflops) <= set(ARITHMETIC)
        if {"tf32", "fp16"} <= set(tflops):
            assert tflops["fp16"] / tflops["tf32"] == pytest.approx(2, rel=0.02)
        if {"fp8", "fp16"} <= set(tflops):
            assert tflops["fp8"] / tflops["fp16"] == pytest.approx(2, rel=0.02)
        if {"bf16", "fp16"} <= set(tflops):
            assert tflops["bf16"] == tflops["fp16"]


# Measuring


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SIZES", {"cpu": (32, 64), "cuda": (32, 64)})
    monkeypatch.setattr(peaks, "SECONDS", 0.01)
    monkeypatch.setattr(peaks, "COPY_BYTES", {"cpu": 2**20, "cuda": 2**20})


def test_peaks_are_measured_by_arithmetic(quick: None) -> None:
    found = measure_peaks({"device": "cpu"}, Events())
    assert set(found["peaks"]) == set(ARITHMETIC)
    measured = {name for name, tflops in found["peaks"].items() if tflops is not None}
    assert measured == {"fp32", "bf16", "fp16"} == set(found["sizes"])
    assert all(found["peaks"][name] > 0 for name in measured)
    assert set(found["sizes"].values()) <= {32, 64}
    assert found["reasons"] == {"tf32": "tf32 is measured on CUDA only", "fp8": "fp8 is measured on CUDA only"}


class Clock:
    """A device on which time passes only as products take it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float]) -> None:
        self.now = 0.0
        self.products: list[int] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

        def multiply(device: Device, name: str, size: int) -> Callable[[], Any]:
            return lambda: self.run(size, seconds)

        monkeypatch.setattr(peaks, "_multiply", multiply)
        monkeypatch.setattr(peaks, "measure_bandwidth", lambda device: 1.0)

    def run(self, size: int, seconds: Callable[[int, int], float]) -> None:
        self.now += seconds(size, self.products.count(size))
        self.products.append(size)


def test_the_best_of_several_repeats_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    # 512 reaches the most, once; each size is slow at first.
    def seconds(size: int, number: int) -> float:
        if number < 2:
            return 0.1
        return 0.001 if size == 512 and number == 3 else size**3 / 1e11

    Clock(monkeypatch, seconds)
    found = measure_peaks({"device": "cpu"}, Events())
    assert found["sizes"]["fp32"] == 512
    assert found["peaks"]["fp32"] == pytest.approx(2 * 512**3 / 0.001 / 1e12)


def test_a_slow_arithmetic_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without it, fp16 is imitated one number at a time."""
    clock = Clock(monkeypatch, lambda size, number: size**3 / 1e8)
    found = measure_peaks({"device": "cpu"}, Events())
    assert set(clock.products) == {256}
    assert clock.now < 3 * 3 * peaks.SECONDS
    assert found["peaks"]["fp16"] == pytest.approx(2 * 1e8 / 1e12)


def test_a_fast_arithmetic_is_repeated_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda size, number: size**3 / 1e12)
    measure_peaks({"device": "cpu"}, Events())
    assert set(clock.products) == set(peaks.SIZES["cpu"])
    assert clock.now < 3 * 4 * 2 * peaks.SECONDS


def test_a_product_that_torch_cannot_do_has_a_reason(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mm = torch.mm

    def refuse(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        if a.dtype == torch.float16:
            raise RuntimeError('"addmm_impl_cpu_" not implemented for Half\nand more')
        return mm(a, b, out=out)

    monkeypatch.setattr(torch, "mm", refuse)
    found = measure_peaks({"device": "cpu"}, Events())
    assert found["peaks"]["fp16"] is None
    assert found["reasons"]["fp16"] == '"addmm_impl_cpu_" not implemented for Half'
    assert found["peaks"]["bf16"] > 0


def test_the_product_is_that_of_the_factors() -> None:
    multiply = peaks._multiply(CPU, "bf16", 8)
    one, two = multiply(), multiply()
    assert one.dtype == torch.bfloat16
    assert one.shape == (8, 8)
    assert torch.equal(one, two)
    assert one.abs().sum() > 0


# A CUDA device, by a stand-in: its products run on the CPU


class Cuda(Device):
    """CUDA by name; tensors, clock and products are the CPU's."""

    def __init__(self, kind: str) -> None:
        self.kind = "cuda"
        self.torch = torch.device("cpu")

    @property
    def cuda(self) -> bool:
        return True

    synchronize = lambda self: None  # noqa: E731
    mark = lambda self: time.perf_counter()  # noqa: E731
    between = staticmethod(lambda begin, end: end - begin)


@pytest.fixture
def cuda(quick: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the device is; ``precision`` collects that of the fp32 products."""
    state: dict[str, Any] = {"capability": (9, 0), "free": 2**40, "precision": []}
    mm = torch.mm

    def multiply(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        if a.dtype == torch.float32:
            state["precision"].append(torch.get_float32_matmul_precision())
        return mm(a, b, out=out)

    monkeypatch.setattr(peaks, "Device", Cuda)
    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: state["capability"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (state["free"], 2**40))
    monkeypatch.setattr(torch.version, "hip", None)
    before = torch.get_float32_matmul_precision()
    yield state
    assert torch.get_float32_matmul_precision() == before


def test_a_new_device_has_all_of_them(cuda: dict[str, Any]) -> None:
    found = measure_peaks({"device": "cuda"}, Events())
    assert all(tflops > 0 for tflops in found["peaks"].values()), found["reasons"]
    assert set(cuda["precision"]) == {"highest", "high"}  # fp32, then TF32


@pytest.mark.parametrize(
    ("capability", "without"),
    [
        ((8, 9), []),
        ((8, 0), ["fp8"]),
        ((7, 5), ["tf32", "bf16", "fp8"]),
        ((6, 1), ["tf32", "bf16", "fp16", "fp8"]),
    ],
)
def test_what_the_hardware_has_not_is_not_measured(
    capability: tuple[int, int], without: list[str], cuda: dict[str, Any]
) -> None:
    cuda["capability"] = capability
    found = measure_peaks({"device": "cuda"}, Events())
    assert [name for name, tflops in found["peaks"].items() if tflops is None] == without
    number = ".".join(map(str, capability))
    for name in without:
        assert found["reasons"][name] == f"a device of compute capability {number} has no {name} in hardware"


def test_matrices_that_would_not_fit_are_left_out(cuda: dict[str, Any]) -> None:
    cuda["free"] = 2 * 4 * 4 * 64**2  # the larger would take half of it
    assert set(measure_peaks({"device": "cuda"}, Events())["sizes"].values()) == {32}
    cuda["free"] = 0
    found = measure_peaks({"device": "cuda"}, Events())
    assert set(found["peaks"].values()) == {None}
    assert set(found["reasons"].values()) == {"too little free memory"}
    assert found["bandwidth"] is None
    assert "bandwidth" in found["reasons"]


# Bandwidth


def test_a_copy_reads_and_writes_every_byte(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now, copied = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    copy = Tensor.copy_

    def timed(self: Tensor, source: Tensor) -> Tensor:
        now[0] += 0.004 if len(copied) < 3 else 0.002  # it warms up
        copied.append(source.nbytes)
        return copy(self, source)

    monkeypatch.setattr(Tensor, "copy_", timed)
    assert peaks.measure_bandwidth(Device("cpu")) == pytest.approx(2 * 2**20 / 0.002)
    assert set(copied) == {2**20}


def test_the_bandwidth_is_measured_beside_the_peaks(quick: None) -> None:
    assert measure_peaks({"device": "cpu"}, Events())["bandwidth"] > 0


def test_a_copy_takes_a_small_share_of_the_memory(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "COPY_BYTES", {"cpu": 2**40})
    monkeypatch.setattr(peaks, "host_memory", lambda: 2**26)
    sizes = []
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda size, **how: sizes.append(4 * size) or ones(size, **how))
    assert peaks.measure_bandwidth(Device("cpu")) > 0
    assert sizes == [2**22]
