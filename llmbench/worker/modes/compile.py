"""torch.compile, of the whole model or of each of its blocks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.modes.blocks import blocks

CXX = ("g++", "c++", "clang++")
CC = ("gcc", "cc", "clang")


SCOPES = {"compile": None, "compile-blocks": None, "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune"}


def missing(part: str, device: Device) -> str | None:
    """What inductor lacks on this machine, with the cure; None when it can compile."""
    if part == "reduce-overhead" and not device.cuda:
        return "CUDA graphs are of CUDA: use compile on the CPU"
    return missing_tool(device)


def apply_compile(model: nn.Module, mode: list[str]) -> nn.Module:
    """Compiles in place; nothing is compiled before the first step.

    ``compile-blocks`` compiles every transformer block by itself. They are alike, so the first compiles for all, and
    the time to the first step no longer grows with the depth.
    """
    chosen = next((part for part in SCOPES if part in mode), None)
    if chosen is None:
        return model
    found = list(blocks(model)) if chosen == "compile-blocks" else []
    for module in found or [model]:
        module.compile(mode=SCOPES[chosen])
    return model


def before_forward(model: nn.Module, mode: list[str], device: Device, micro_batches: int) -> Callable[[], None]:
    """What to do before each forward pass, so that CUDA graphs may use the memory of the last one again.

    A graph writes its gradients to the same place each time. Autograd takes those of the first micro-batch for the
    sum itself, which the next one would overwrite (pytorch/pytorch#169545): so the sum gets a place of its own first.
    """
    if not (device.cuda and {"reduce-overhead", "max-autotune"} & set(mode)):
        return lambda: None

    def begin() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        if micro_batches > 1:
            keep_gradients(model)

    return begin


def keep_gradients(model: nn.Module) -> None:
    """Gives every trained parameter without a gradient one of zeros."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def facts() -> dict[str, Any]:
    """What torch.compile did in this process so far, as dynamo counted it."""
    from torch._dynamo.utils import counters, get_compilation_metrics

    compilations = [known for known in get_compilation_metrics() if known.co_name]
    again = [known for known in compilations if not str(known.compile_id).endswith("/0")]
    breaks: Counter[str] = Counter({_line(reason): count for reason, count in counters["graph_break"].items()})
    reasons = breaks + Counter(_line(known.recompile_reason or "recompiled") for known in again)
    return {
        "graphs": counters["stats"].get("unique_graphs", 0),
        "graph_breaks": sum(breaks.values()),
        "recompiles": len(again),
        "reasons": [f"{reason} ({count} ×)" for reason, count in reasons.most_common(5)],
    }


def _line(reason: str) -> str:
    return " ".join(reason.split())[:200]


def missing_tool(device: Device) -> str | None:
    """The compiler that inductor lacks, with the cure; None when it is there."""
    if device.cuda:
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed, which torch.compile needs on CUDA: pip install triton"
        if not _found("CC", CC):
            return "no C compiler on PATH, which triton needs: apt-get install gcc, or set CC"
        return None
    if not _found("CXX", CXX):
        return "no C++ compiler on PATH, which torch.compile needs on the CPU: apt-get install g++, or set CXX"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "no Python headers (Python.h), which torch.compile needs on the CPU: apt-get install python3-dev"
    return None


def _found(variable: str, names: tuple[str, ...]) -> bool:
    # A compiler that the user names counts as there: if it does not work, the case shall fail and say so.
    return bool(os.environ.get(variable)) or any(shutil.which(name) for name in names)
