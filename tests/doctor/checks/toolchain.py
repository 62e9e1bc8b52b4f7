"""Asks single checks of the area ``compile`` in an environment that the test lays out, without those that they need."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Finding
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context

BUILDS = {
    "include": sysconfig.get_path("include"),
    "header": True,
    "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "scripts": "/env/bin",
    "setuptools": True,
    "ninja": False,
}
BASE = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def asked(
    id: str,
    environ: Mapping[str, str] | None = None,
    deadline: float = 30,
    patience: float = 1.0,
    **facts: Any,
) -> list[Finding]:
    """The findings of one check, with these variables beside PATH, and these facts beside those of a healthy build."""
    (check,) = [check for check in all_checks() if check.id == id]
    context = Context(sys.executable, BASE | dict(environ or {}), False, Processes(), patience, deadline=deadline)
    context.facts.update({"builds": dict(BUILDS)} | facts)
    return list(check.run(context))


def only(id: str, environ: Mapping[str, str] | None = None, **options: Any) -> Finding:
    """Its one finding. A fault has a cause and a fix, with nothing left to be filled in that the check knows."""
    (finding,) = asked(id, environ, **options)
    if finding.fault:
        assert finding.fault.startswith(f"{id}.")
        assert finding.cause
        assert finding.fix
    return finding


def program(path: Path, script: str) -> str:
    """A shell script as a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)
