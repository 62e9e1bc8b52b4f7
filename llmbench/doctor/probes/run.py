"""Runs one probe: ``python run.py PROBE.py CHANNEL ARGUMENTS``.

A probe is a file with a function ``probe(arguments)`` that yields dictionaries. Each is written to the file descriptor
CHANNEL as one line of JSON as soon as it is there, so that what was found before a crash is not lost. What a probe or a
library prints goes elsewhere and cannot disturb this.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import traceback


def main() -> int:
    path, channel, arguments = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    # The pipe is this process's own: children would keep it open.
    os.set_inheritable(channel, False)

    def report(part: dict) -> None:
        os.write(channel, json.dumps(part).encode() + b"\n")

    faulthandler.enable()
    try:
        _see_what_a_script_here_sees()
        spec = importlib.util.spec_from_file_location("llmbench_probe", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for part in module.probe(arguments):
            report({"answer": part})
    except BaseException as error:
        traceback.print_exc()
        report({"error": describe(error)})
        return 1
    report({"done": True})
    return 0


def _see_what_a_script_here_sees() -> None:
    """Puts the working folder first on the path, not this file's: what hides torch from users must hide it here."""
    if getattr(sys.flags, "safe_path", False):
        return
    sys.path[0] = ""


def describe(error: BaseException) -> dict:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    details = {"type": type(error).__name__, "message": str(error), "where": place}
    if isinstance(error, ImportError):
        details["module"] = error.name or ""
    return details


if __name__ == "__main__":
    sys.exit(main())
