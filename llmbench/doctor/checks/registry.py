"""Where checks, and the faults that they tell apart, make themselves known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from llmbench.doctor.model import Check, Fault, Finding

if TYPE_CHECKING:
    from llmbench.doctor.runner import Context

Run = Callable[["Context"], Iterator[Finding]]
_checks: dict[str, Check] = {}
_faults: dict[str, Fault] = {}


def check(
    id: str,
    title: str,
    *,
    deadline: float = 10.0,
    needs: tuple[str, ...] = (),
    follows: tuple[str, ...] = (),
    deep: bool = False,
    alone: bool = False,
) -> Callable[[Run], Run]:
    """Registers a function as the check ``id`` (``area.name``); see ``Check``."""

    def register(run: Run) -> Run:
        if id in _checks:
            raise ValueError(f"two checks are called {id}")
        _checks[id] = Check(id, id.partition(".")[0], title, deadline, needs, run, follows, deep, alone)
        return run

    return register


def fault(
    id: str,
    verdict: Literal["fail", "warn"],
    title: str,
    *,
    cause: str,
    fix: str,
    link: str | None = None,
    script: str | None = None,
) -> Fault:
    """Registers a fault ``area.check.fault``; see ``Fault``."""
    if id in _faults:
        raise ValueError(f"two faults are called {id}")
    _faults[id] = Fault(id, verdict, title, cause, fix, link, script)
    return _faults[id]


def registered() -> list[Check]:
    return list(_checks.values())


def registered_faults() -> list[Fault]:
    return list(_faults.values())
