"""What of a diagnosis is told, and under what: each fault with what follows from it, what is fine, what does not apply.

All outputs are drawn from this, and this from the document that ``--json`` prints; what is missing there is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PROBLEMS = ("fail", "incomplete", "warn")
"""The verdicts that a person is told of, worst first."""


@dataclass
class Problem:
    """A finding that somebody must look at.

    Attributes:
        check: its check, as in the document.
        finding: itself, as in the document.
        follows: check and finding of each fault that is there because of it.
        unasked: ids of the checks that could not be asked because of it.
    """

    check: Mapping[str, Any]
    finding: Mapping[str, Any]
    follows: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """What ``--explain`` knows it by: the fault, or the check that found what has no id of its own."""
        return str(self.finding.get("fault") or self.check.get("id") or "")


@dataclass
class Outline:
    """A diagnosis as it is told.

    Attributes:
        problems: worst first, else in the order of the checks.
        fine: checks that passed, as in the document.
        idle: checks that do not apply here, and are not unasked because of a problem.
    """

    problems: list[Problem] = field(default_factory=list)
    fine: list[Mapping[str, Any]] = field(default_factory=list)
    idle: list[Mapping[str, Any]] = field(default_factory=list)


def outline(document: Mapping[str, Any]) -> Outline:
    """Puts a document in the order in which it is told."""
    told = Outline()
    found = list(_findings(document))
    for verdict in PROBLEMS:
        told.problems += [Problem(check, finding) for check, finding in found if finding.get("verdict") == verdict]
    roots: dict[Any, Problem] = {}
    for problem in told.problems:
        roots.setdefault(problem.check.get("id"), problem)
    beyond = {check.get("id"): finding.get("root") for check, finding in found if finding.get("root")}
    for check in checks(document):
        _place(check, told, roots, beyond)
    return told


def checks(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The checks of a document, in its order."""
    found = document.get("checks")
    return [check for check in found if isinstance(check, Mapping)] if isinstance(found, list) else []


def findings(check: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The findings of a check."""
    found = check.get("findings")
    return [finding for finding in found if isinstance(finding, Mapping)] if isinstance(found, list) else []


def _findings(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for check in checks(document):
        for finding in findings(check):
            yield check, finding


def _root(finding: Mapping[str, Any], roots: Mapping[Any, Problem], beyond: Mapping[Any, Any]) -> Problem | None:
    """The problem that a finding follows from, even if there are others in between."""
    id, seen = finding.get("root"), set()
    while id not in roots and id in beyond and id not in seen:
        seen.add(id)
        id = beyond[id]
    return roots.get(id)


def _place(check: Mapping[str, Any], told: Outline, roots: Mapping[Any, Problem], beyond: Mapping[Any, Any]) -> None:
    rest = []
    for finding in findings(check):
        root = _root(finding, roots, beyond)
        if root is None:
            rest.append(finding.get("verdict"))
        elif str(finding.get("evidence")).startswith("needs "):
            root.unasked.append(str(check.get("id")))
        else:
            root.follows.append((check, finding))
    if rest and not any(verdict in PROBLEMS for verdict in rest):
        (told.fine if "pass" in rest else told.idle).append(check)


def words(problem: Problem) -> Iterator[tuple[str, str]]:
    """What is said of a problem, each with its label: found, cause, fix, more, so (what follows from it)."""
    finding = problem.finding
    for label, key in (("found", "evidence"), ("cause", "cause"), ("fix", "fix"), ("more", "link")):
        if finding.get(key):
            yield label, str(finding[key])
    for check, follower in problem.follows:
        evidence = str(follower.get("evidence") or "")
        yield "so", f"{follower.get('fault') or check.get('id')}: {evidence.partition(': ')[2] or evidence}"
    if problem.unasked:
        count = len(problem.unasked)
        yield "so", f"{count} check{'s were' if count > 1 else ' was'} not asked: {', '.join(problem.unasked)}"


def summary(document: Mapping[str, Any]) -> str:
    """How many findings there are of each verdict, and the seconds that they took."""
    counts = document.get("counts") or {}
    parts = [f"{counts[verdict]} {verdict}" for verdict in (*PROBLEMS, "pass", "skip") if counts.get(verdict)]
    return f"{', '.join(parts) or 'nothing was asked'} in {document.get('seconds') or 0:.1f} s"
