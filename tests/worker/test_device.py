from __future__ import annotations

import time

import pytest
import torch

from llmbench.worker.device import Device


def test_auto_is_cuda_where_torch_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        assert (Device("auto").kind, Device("auto").cuda) == (kind, there)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA was asked for"):
        Device("cuda")


def test_the_cpu_by_a_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("cpu")
    assert (device.kind, device.cuda, device.name) == ("cpu", False, "cpu")
    times = iter([5.0, 7.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    begin = device.mark()
    device.synchronize()
    assert device.between(begin, device.mark()) == 2.5


def test_tensors_move_to_the_device() -> None:
    tensors = (torch.ones(2), torch.zeros(3))
    moved = Device("cpu").move(tensors)
    assert all(torch.equal(one, other) for one, other in zip(moved, tensors, strict=True))
    assert {tensor.device.type for tensor in moved} == {"cpu"}
