"""Training steps of the reference models: forward, backward, clipping and AdamW; `pytest suites/ --benchmark-only`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import DEVICES, clock, describe
from steps import TrainingStep

from llmbench.worker.device import Device
from llmbench.worker.modes.compile import missing_tool

MODES = ("eager", "bf16", "compile")
WORKLOADS = ("gpt-tiny", "bert-tiny", "lora-tiny", "regression-mlp")


def grouped(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.benchmark(group=f"training step of {name}", timer=clock))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workload", [grouped(name) for name in WORKLOADS])
def test_training_step(benchmark: Any, workload: str, device: str, mode: str) -> None:
    """One optimizer step. Compiling happens before the first round, and is not measured here."""
    lacking = missing_tool(Device(device)) if mode == "compile" else None
    if lacking:
        pytest.skip(lacking)
    step = TrainingStep(workload, mode, device)
    describe(benchmark, device, "bf16" if mode == "bf16" else "fp32", step.shape, **step.work)
    step()
    loss = benchmark(step)
    assert torch.isfinite(loss), f"the loss became {loss.item()}: the times are those of no training"
