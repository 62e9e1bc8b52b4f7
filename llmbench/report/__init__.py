"""Pages, each one file that holds everything; charts are static SVG, a script only adds. And what other programs read.

Names are imported when they are asked for: doctor takes from here what needs the standard library only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbench.report.doctor import doctor_page
    from llmbench.report.run import run_page, write_run_report

__all__ = ["doctor_page", "run_page", "write_run_report"]

_HOMES = {"doctor_page": "doctor", "run_page": "run", "write_run_report": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
