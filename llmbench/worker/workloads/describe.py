"""Entry: tells the control side what a workload is that only this interpreter can import.

JSON on stdin: ``{"name": "module:attribute" | "entry point"}`` or ``{"hf": {… config.json …}}``. JSON on stdout:
``{"found": …}``, ``{"unavailable": reason}``, ``{"unknown": [entry points]}``, ``{"error": [type, text]}``, or
``{"broken": [type, text]}`` where torch cannot be imported.
"""

import json
import os
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

GROUP = "llmbench.workloads"


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what the user's module prints is no part of the answer
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path[0] = os.getcwd()  # a script's folder comes first: its modules would shadow others of the same name
    package = types.ModuleType("llmbench")  # as in llmbench/worker/start.py
    package.__path__ = [str(here.parent.parent)]
    sys.modules["llmbench"] = package
    os.write(answer, json.dumps(_answer(json.load(sys.stdin))).encode())


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    source = question.get("name", "")
    if source and ":" not in source:  # answered without torch: most often it is a slip of the pen
        points = {point.name: point.value for point in entry_points(group=GROUP)}
        if source not in points:
            return {"unknown": sorted(points)}
        source = points[source]
    try:
        from llmbench.worker.faults import Unavailable
        from llmbench.worker.workloads import hf_config, own
    except Exception as error:
        return {"broken": [type(error).__name__, str(error)]}
    try:
        return {"found": own.describe(source) if source else hf_config.describe(question["hf"])}
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    except Exception as error:
        return {"error": [type(error).__name__, str(error)]}


if __name__ == "__main__":
    main()
