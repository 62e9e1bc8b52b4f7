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


def title_of(fault: str | None) -> str | None:
    """What is wrong, in a line, if a fault has this id."""
    return _faults[fault].title if fault in _faults else None


State = tuple[dict[str, Check], dict[str, Fault]]


def state() -> State:
    """What is registered now, for ``restore``."""
    return dict(_checks), dict(_faults)


def restore(before: State) -> None:
    """Forgets what was registered since."""
    checks, faults = before
    _checks.clear()
    _checks.update(checks)
    _faults.clear()
    _faults.update(faults)


def unsound() -> str | None:
    """Why what is registered cannot be asked: what a check needs must be there, and must not need it in turn."""
    for fault in _faults.values():
        if fault.check not in _checks:
            return f"there is no check {fault.check} that could find {fault.id}"
    for check in _checks.values():
        gone = [id for id in (*check.needs, *check.follows) if id not in _checks]
        if "." not in check.id or gone:
            return f"{check.id} needs {gone[0]}, which does not exist" if gone else f"{check.id} is no area.name"
        for relation in ("needs", "follows"):
            if _comes_back(check, relation):
                return f"{check.id} {relation} itself"
    return None


def _comes_back(check: Check, relation: str) -> bool:
    """Whether a check can be reached from itself."""
    seen: set[str] = set()
    ahead = list(getattr(check, relation))
    while ahead:
        id = ahead.pop()
        if id == check.id:
            return True
        if id not in seen:
            seen.add(id)
            ahead += getattr(_checks[id], relation) if id in _checks else ()
    return False
