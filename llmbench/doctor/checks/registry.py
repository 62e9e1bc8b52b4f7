"""Where checks make themselves known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmbench.doctor.model import Check, Finding

if TYPE_CHECKING:
    from llmbench.doctor.runner import Context

Run = Callable[["Context"], Iterator[Finding]]
_checks: dict[str, Check] = {}


def check(id: str, title: str, *, deadline: float = 10.0, needs: tuple[str, ...] = ()) -> Callable[[Run], Run]:
    """Registers a function as the check ``id`` (``area.name``); see ``Check``."""

    def register(run: Run) -> Run:
        if id in _checks:
            raise ValueError(f"two checks are called {id}")
        _checks[id] = Check(id, id.partition(".")[0], title, deadline, needs, run)
        return run

    return register


def registered() -> list[Check]:
    return list(_checks.values())
