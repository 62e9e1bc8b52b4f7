"""What is known of an area, a check or a fault, without asking anything of the machine."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from llmbench.doctor.checks import AREAS, all_checks, all_faults
from llmbench.doctor.model import Check, Fault
from llmbench.errors import UserError, nearest

VERDICTS = {"fail": "training breaks or computes wrong", "warn": "it trains, but slower, or will break later"}


def explain(id: str, width: int = 80) -> str:
    """The text of ``--explain ID``.

    Args:
        id: of an area, a check or a fault.
        width: columns; a longer word stands out.

    Raises:
        UserError: there is no such id.
    """
    checks = {check.id: check for check in all_checks()}
    faults = {fault.id: fault for fault in all_faults()}
    areas = list(dict.fromkeys([*AREAS, *(check.area for check in checks.values())]))
    if id in faults:
        lines = _fault(faults[id], width)
    elif id in checks:
        lines = _check(checks[id], faults_of(checks[id], list(faults.values())), width)
    elif id in areas:
        lines = _area(id, [check for check in checks.values() if check.area == id], width)
    else:
        known = [*checks, *faults] if "." in id else areas
        raise UserError(f"--explain {id}: no such area, check or fault", nearest(id, known))
    return "\n".join(lines) + "\n"


def faults_of(check: Check, faults: list[Fault]) -> list[Fault]:
    """The faults that a check can find."""
    return [fault for fault in faults if fault.check == check.id]


def conditions(check: Check) -> list[str]:
    """When a check is asked, and under what its faults are told, in sentences."""
    said = []
    if check.needs:
        said.append(f"Asked only if none of these failed: {', '.join(check.needs)}.")
    if check.follows:
        said.append(f"What it finds is told under a fault of: {', '.join(check.follows)}.")
    if check.deep:
        said.append("Asked only with --deep, or by its id.")
    return said


def documentation(check: Check) -> str:
    """What the check's author says of it: the docstring, on one line."""
    return " ".join((check.run.__doc__ or "").replace("``", "").split())


def _area(area: str, checks: list[Check], width: int) -> Iterator[str]:
    yield from _wrap(f"{area}: {len(checks)} check{'s' if len(checks) != 1 else ''}", width)
    for check in checks:
        yield ""
        yield check.id
        yield from _wrap(check.title, width, 2)
    yield ""
    yield from _wrap("Learn more: llmbench doctor --explain CHECK", width)


def _check(check: Check, faults: list[Fault], width: int) -> Iterator[str]:
    yield from _wrap(f"{check.id}: {check.title}", width)
    for text in (documentation(check), *conditions(check)):
        if text:
            yield from _wrap(text, width, 2)
    yield from _wrap(f"Deadline: {check.deadline:g} s (--patience multiplies it).", width, 2)
    for fault in faults:
        yield ""
        yield f"{fault.verdict}  {fault.id}"
        yield from _wrap(fault.title, width, 6)


def _fault(fault: Fault, width: int) -> Iterator[str]:
    yield from _wrap(f"{fault.id}: {fault.title}", width)
    yield ""
    rows = [("verdict", f"{fault.verdict}: {VERDICTS[fault.verdict]}"), ("cause", fault.cause), ("fix", fault.fix)]
    rows += [("script", line) for line in (fault.script or "").splitlines()]
    rows += [("more", fault.link or ""), ("check", fault.check)]
    for label, text in rows:
        for number, line in enumerate(_lines(text, max(10, width - 10))):
            yield f"{label if number == 0 else '':<8}  {line}"


def _wrap(text: str, width: int, indent: int = 0) -> list[str]:
    return [" " * indent + line for line in _lines(text, max(10, width - indent))]


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
