"""torch.compile, of the whole model or of each of its blocks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.faults import Unavailable

CXX = ("g++", "c++", "clang++")
CC = ("gcc", "cc", "clang")


def apply_compile(model: nn.Module, scope: str, device: Device) -> nn.Module:
    """Compiles in place; nothing is compiled before the first step.

    Args:
        scope: ``whole``, or ``blocks``: every transformer block by itself. They are alike, so the first compiles for
            all, and the time to the first step no longer grows with the depth.

    Raises:
        Unavailable: there is no compiler to compile with.
    """
    missing = missing_tool(device)
    if missing:
        raise Unavailable(missing)
    blocks = list(getattr(model, "blocks", None) or [])
    for module in blocks if scope == "blocks" and blocks else [model]:
        module.compile()
    return model


def missing_tool(device: Device) -> str | None:
    """What inductor lacks on this machine, with the cure; None when it can compile."""
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
