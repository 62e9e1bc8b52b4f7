"""How fast a node is on its own; real work, little of it."""

from __future__ import annotations

import pytest
import torch

from llmbench.worker.measure import alone


class Events:
    def send(self, event, **values):
        pass


def measure(shared):
    return alone.measure_alone({"device": "cpu", "seconds": 0.1, "shared": shared}, Events())


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shared", [False, True])
def test_both_metrics_of_a_cpu(shared):
    found = measure(shared)
    assert found["device"] == "cpu"
    assert found["metrics"].keys() == {"matmul", "memory_bandwidth"}
    for speed in found["metrics"].values():
        assert 1e7 < speed["value"] <= speed["best"] < 1e15
        assert shared or speed["best"] == speed["value"]


def test_a_quota_takes_its_share_of_the_speed_on_a_shared_machine(monkeypatch):
    monkeypatch.setattr(alone, "quota_cpus", lambda: None)
    monkeypatch.setattr(alone, "throttled_seconds", lambda: 0.0)
    free = measure(shared=True)["metrics"]
    monkeypatch.setattr(alone, "quota_cpus", lambda: 0.02)
    held = measure(shared=True)["metrics"]
    for metric, speed in held.items():
        assert speed["best"] < 0.2 * free[metric]["best"]  # a fiftieth; what else this machine does is no factor of ten
        assert speed["note"] == "a quota of 0.02 CPUs"
        assert free[metric]["note"] is None


def test_time_for_which_the_kernel_held_threads_back_takes_its_share(monkeypatch):
    monkeypatch.setattr(alone, "quota_cpus", lambda: None)
    monkeypatch.setattr(alone, "throttled_seconds", lambda: 0.0)
    free = measure(shared=True)["metrics"]
    told = iter((0.0, 1000.0, 2000.0, 3000.0))  # all of the time, and more on several CPUs
    monkeypatch.setattr(alone, "throttled_seconds", lambda: next(told))
    held = measure(shared=True)["metrics"]
    for metric, speed in held.items():
        assert speed["best"] < 0.2 * free[metric]["best"]
        assert speed["note"] == "held back by a CPU quota for 1000.0 s"
