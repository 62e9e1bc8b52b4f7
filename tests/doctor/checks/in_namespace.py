"""Runs doctor in many situations, one after another, in one mount namespace: its own process starts only once.

Reads situations as JSON from stdin: by name, ``setup`` (shell), ``environ`` (None removes), ``only``, ``folder`` (to work
in), ``mounts`` ([folder, mode, type] of ``failing_mount.py``), ``user`` (number to become). Writes the findings of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmbench.doctor.runner import diagnose

FAILING = str(Path(__file__).with_name("failing_mount.py"))


def findings(situation: dict[str, Any]) -> list[dict[str, Any]]:
    for name, value in situation.get("environ", {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    subprocess.run(["bash", "-ec", situation.get("setup", ":")], check=True, stdout=sys.stderr)
    for folder, *how in situation.get("mounts", []):
        server = subprocess.Popen([sys.executable, FAILING, folder, *how], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n"
    if situation.get("folder"):
        os.chdir(situation["folder"])
    if situation.get("user"):
        os.setgroups([])
        os.setgid(situation["user"])
        os.setuid(situation["user"])
    diagnosis = diagnose(only=situation["only"], patience=situation.get("patience", 1.0))
    return [{"check": a.check.id, **vars(finding)} for a in diagnosis.answers for finding in a.findings]


def main() -> None:
    results = {}
    for name, situation in json.load(sys.stdin).items():
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                json.dump(findings(situation), pipe)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        results[name] = json.loads(text) if text else None
    print(json.dumps(results))


if __name__ == "__main__":
    main()
