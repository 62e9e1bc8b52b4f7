"""Asks doctor in many situations, each in namespaces of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

Found = list[dict[str, Any]]
"""Findings, as JSON, each with its ``check``."""


def in_namespaces(situations: dict[str, dict[str, Any]]) -> dict[str, Found]:
    """What doctor finds in each situation; see ``in_namespace.py``."""
    script = str(Path(__file__).with_name("in_namespace.py"))
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    done = subprocess.run(
        [*command, sys.executable, script],
        input=json.dumps(situations),
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Found] = json.loads(done.stdout)
    assert all(found.values()), done.stderr
    return found


def told(found: Found, fault: str, verdict: str, words: str) -> None:
    """The fault was found once, with this verdict and these words, and its fix can be typed as it is."""
    (finding,) = [finding for finding in found if finding["fault"] == fault]
    assert finding["verdict"] == verdict, finding
    assert words in finding["evidence"]
    assert "<" not in finding["fix"], finding["fix"]
