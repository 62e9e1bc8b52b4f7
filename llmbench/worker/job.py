"""What a child process does: one job, whose result is a JSON file. Failures are told as data."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import traceback
from typing import Any

import torch

from llmbench.worker.events import Events
from llmbench.worker.faults import Unavailable, describe


def run(job: dict[str, Any], events: Events) -> int:
    """Runs one job and writes its result.

    Args:
        job: ``kind`` (describe, peaks, base, case), ``result`` (file to write), and what the kind needs.

    Returns:
        Exit code: 0 when the result was written, 1 when the job raised (the result then tells what).
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the control side asks a hanging job where it hangs
    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    try:
        result = _kinds()[job["kind"]](job, events)
    except Unavailable as reason:
        result = {"unavailable": str(reason)}
    except BaseException as error:
        traceback.print_exc()
        result = {"error": describe(error)}
    _write(job["result"], result)
    return 1 if "error" in result else 0


def _kinds() -> dict[str, Any]:
    from llmbench.worker.case import run_case, train_base
    from llmbench.worker.measure.machine import describe_machine
    from llmbench.worker.measure.peaks import measure_peaks

    return {"describe": describe_machine, "peaks": measure_peaks, "base": train_base, "case": run_case}


def _write(path: str, result: dict[str, Any]) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(temporary, path)
