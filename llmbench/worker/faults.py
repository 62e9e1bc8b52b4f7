"""What can go wrong in a job, as data."""

from __future__ import annotations

import os
import traceback
from typing import Any

import torch


class Unavailable(Exception):  # noqa: N818  it is a reason to skip, not an error
    """This machine lacks what the mode needs; the case is skipped, not failed."""


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as data: its type, its text, where it was raised, and whether memory ran out."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return {
        "type": type(error).__name__,
        "message": str(error).strip(),
        "where": f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}" if last else None,
        "out_of_memory": _out_of_memory(error),
    }


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory: you tried to …".
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
