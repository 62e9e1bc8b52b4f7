"""The real torch of this environment: what trains must pass."""

from __future__ import annotations

import pytest

from llmbench.doctor.runner import diagnose

from .conftest import verdicts

pytest.importorskip("torch")


def test_what_trains_passes() -> None:
    found = verdicts(diagnose(only=["torch", "numerics", "cpu.loader", "network.allreduce", "cuda.build"]))
    assert {id: verdict for id, verdict in found.items() if verdict in ("fail", "incomplete")} == {}
    passes = ("torch.import", "torch.numpy", "numerics.tensor", "numerics.autograd", "numerics.mse", "numerics.nan")
    for id in (*passes, "numerics.bf16", "cpu.loader", "network.allreduce"):
        assert found[id] == "pass"
