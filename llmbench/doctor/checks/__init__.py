"""The checks, a file per area. A new check is one decorated function; a new area is one file and one line here.

Another package adds its own through the entry point group ``llmbench.checks``: each entry names a module that registers
checks and faults when it is imported, as the files here do.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from llmbench.doctor.checks.registry import registered, registered_faults
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
)
"""In the order in which they are told; those of plug-ins come after."""

PLUGINS = "llmbench.checks"


@cache
def load() -> dict[str, str]:
    """Imports all checks. Returns why a plug-in could not be imported, by its name."""
    for area in AREAS:
        import_module(f"llmbench.doctor.checks.{area}")
    broken = {}
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:  # whatever somebody else's code raises, doctor goes on
            broken[f"{entry.name} ({entry.value})"] = f"{type(error).__name__}: {error}"
    return broken


def all_checks() -> list[Check]:
    """Every check, in the order of the areas and of their files."""
    load()
    return sorted(registered(), key=lambda check: AREAS.index(check.area) if check.area in AREAS else len(AREAS))


def all_faults() -> list[Fault]:
    """Every fault that can be told, in the order of the checks."""
    order = {check.id: number for number, check in enumerate(all_checks())}
    return sorted(registered_faults(), key=lambda fault: order[fault.check])
