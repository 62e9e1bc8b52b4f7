"""What every job that trains begins with: the workload, its model and its batches, all from one seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.workloads import WORKLOADS


def build(job: dict[str, Any]) -> tuple[Any, nn.Module, tuple[Tensor, ...]]:
    """The workload, its untrained model on the CPU, and the global batches of all steps.

    Args:
        job: ``config`` and ``data``.
    """
    config = job["config"]
    torch.manual_seed(config["seed"])
    workload = WORKLOADS[config["family"]](config, job["data"])
    model = workload.build()
    return workload, model, workload.stage(config["steps"])
