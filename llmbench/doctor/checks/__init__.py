"""The checks, a file per area. A new check is one decorated function; a new area is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from llmbench.doctor.checks.registry import registered
from llmbench.doctor.model import Check

AREAS = ("python", "environment", "torch", "compile", "numerics", "cpu", "storage", "network", "cuda")


def all_checks() -> list[Check]:
    """Every check, in the order of the areas and of their files."""
    for area in AREAS:
        import_module(f"llmbench.doctor.checks.{area}")
    return sorted(registered(), key=lambda check: AREAS.index(check.area))
