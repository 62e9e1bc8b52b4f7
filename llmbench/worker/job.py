"""What a child process does: one job, whose result is a JSON file. Failures are told as data."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import time
import traceback
from typing import Any

import torch

from llmbench.worker.events import Events
from llmbench.worker.faults import Unavailable, describe
from llmbench.worker.process import write_json

# By kind, who does it: module and function. Only that one is imported.
KINDS = {
    "describe": ("measure.machine", "describe_machine"),
    "peaks": ("measure.peaks", "measure_peaks"),
    "base": ("case", "train_base"),
    "reference": ("measure.parity", "measure_reference"),
    "case": ("case", "run_case"),
    "compile": ("case", "compile_again"),
    "turns": ("lockstep", "run_turns"),
    "scan_solo": ("measure.alone", "measure_alone"),
    "scan_pair": ("measure.network", "measure_pair"),
}


def run(job: dict[str, Any], events: Events) -> int:
    """Runs one job and writes its result.

    Args:
        job: ``kind``, ``result`` (file to write), and what the kind needs; with ``distributed``, ``world_size``
            processes do it together.

    Returns:
        Exit code: 0 when the result was written, 1 when the job raised (the result then tells what).
    """
    begin_process(job)
    result = _distributed(job, events) if job.get("distributed") else work(job, events)
    write_json(job["result"], result)
    return 1 if "error" in result else 0


def begin_process(job: dict[str, Any]) -> None:
    """What a process needs before its job: a way to tell where it hangs, and its own place for compiled code."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the control side asks a hanging job where it hangs
    if job.get("inductor_cache"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job["inductor_cache"]


def _distributed(job: dict[str, Any], events: Events) -> dict[str, Any]:
    from llmbench.worker.ranks import run_ranks

    try:
        return run_ranks(job, events, work)
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    except BaseException as error:
        traceback.print_exc()
        return {"error": describe(error)}


def work(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Does the job in this process."""
    if job.get("threads") or job.get("distributed"):
        torch.set_num_threads(job.get("threads") or _share_of_cores())
    try:
        module, function = KINDS[job["kind"]]
        return getattr(importlib.import_module(f"llmbench.worker.{module}"), function)(job, events)
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    except BaseException as error:
        found = describe(error) | {"at": time.time()}  # of several ranks that raise, the first is the cause
        traceback.print_exc()
        return {"error": found}


def _share_of_cores() -> int:
    """The ranks of a host share its cores."""
    return max(1, torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"]))
