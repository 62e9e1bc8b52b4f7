"""The checks, a file per area. A new check is one decorated function; a new area is one file and one line here.

Another package adds its own through the entry point group ``llmbench.checks``: each entry names a module that registers
checks and faults when it is imported, as the files here do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from io import StringIO
from signal import Signals

from llmbench.doctor.checks import registry
from llmbench.doctor.model import Check, Fault

AREAS = (
    "python",
    "environment",
    "torch",
    "companions",
    "compile",
    "numerics",
    "cpu",
    "storage",
    "network",
    "cuda",
    "gpu",
    "stress",
    "plugins",
    "baseline",
    "nodes",
)
"""In the order in which they are told; those of plug-ins come after."""

PLUGINS = "llmbench.checks"


_DEADLINE = 10.0
_IMPORT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); __import__(sys.argv[2])"


@cache
def load() -> dict[str, str | None]:
    """Imports all checks. Returns the plug-ins by name, and why one could not be imported."""
    for area in AREAS:
        import_module(f"llmbench.doctor.checks.{area}")
    loaded: dict[str, str | None] = {}
    try:
        plugins = list(entry_points(group=PLUGINS))
    except Exception as error:  # whatever lies among the installed packages, doctor goes on
        return {PLUGINS: f"the entry points cannot be read: {type(error).__name__}: {error}"}
    for entry in plugins:
        before = registry.state()
        reason = _load(entry) or registry.unsound()
        if reason:
            registry.restore(before)
        loaded[f"{entry.name} ({entry.value})"] = reason
    return loaded


def _load(plugin: EntryPoint) -> str | None:
    """Imports a plug-in, first in a process of its own: it may hang or crash. Returns why it cannot be imported."""
    argv = [sys.executable, "-c", _IMPORT, json.dumps(sys.path), plugin.module]
    try:
        tried = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        return f"its import gave no answer within {_DEADLINE:.0f} s"
    except OSError as error:
        return f"its import could not be tried: {error}"
    if tried.returncode < 0:
        return f"its import was killed by {Signals(-tried.returncode).name}"
    try:
        with redirect_stdout(StringIO()):  # it would stand in the middle of --json
            plugin.load()
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return None


def all_checks() -> list[Check]:
    """Every check, in the order of the areas, of the names of their files, and of their lines."""
    load()
    return sorted(registry.registered(), key=_place)


def _place(check: Check) -> tuple[int, str, str, int]:
    area = AREAS.index(check.area) if check.area in AREAS else len(AREAS)
    # The file that is called as the area comes first.
    module = check.run.__module__.rpartition(".")[2].removeprefix(check.area)
    return area, check.area, module, check.run.__code__.co_firstlineno


def all_faults() -> list[Fault]:
    """Every fault that can be told, in the order of the checks."""
    order = {check.id: number for number, check in enumerate(all_checks())}
    return sorted(registry.registered_faults(), key=lambda fault: (order[fault.check], fault.id))
