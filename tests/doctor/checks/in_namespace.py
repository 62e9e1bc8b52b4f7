"""Runs doctor in many situations, one after another, each in namespaces of its own: Python starts only once.

Reads situations as JSON from stdin, by name: ``setup`` (shell), ``environ`` (None removes), ``only``, ``folder`` (to
work in), ``network`` (a network and host name of its own, with loopback up), ``mounts`` ([folder, mode, type] of
``failing_mount.py``), ``powerless`` (doctor's processes have not root's rights to write everywhere and to use every
port). Writes the findings of each.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmbench.doctor.checks import all_checks
from llmbench.doctor.runner import diagnose

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUTS = 0x00020000, 0x40000000, 0x04000000
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE, PR_CAPBSET_DROP = 1, 2, 10, 24
FAILING = str(Path(__file__).with_name("failing_mount.py"))


def findings(situation: dict[str, Any]) -> list[dict[str, Any]]:
    namespaces = CLONE_NEWNS | (CLONE_NEWNET | CLONE_NEWUTS if situation.get("network") else 0)
    assert ctypes.CDLL(None).unshare(namespaces) == 0
    if situation.get("network"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
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
    if situation.get("powerless"):
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    diagnosis = diagnose(
        only=situation["only"], deep=situation.get("deep", False), patience=situation.get("patience", 1.0)
    )
    return [{"check": a.check.id, **vars(finding)} for a in diagnosis.answers for finding in a.findings]


def main() -> None:
    results = {}
    all_checks()  # imported before a situation may hide the files
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
