"""The page of a diagnosis: what it means, what to fix first and what follows from it, every finding, all facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.doctor.facts import first as first_facts
from llmbench.doctor.fix import fix_script, is_complete
from llmbench.doctor.outline import Problem, outline
from llmbench.report.format import count, duration, flatten, plain, shorten, timestamp
from llmbench.report.page import plain_json, render
from llmbench.report.verdict import Verdict, pills

VERDICTS = {
    verdict.key: verdict
    for verdict in (
        Verdict("fail", "✖", "fail", "bad"),
        Verdict("incomplete", "?", "incomplete", "warn"),
        Verdict("warn", "!", "warn", "warn"),
        Verdict("pass", "✓", "pass", "good"),
        Verdict("skip", "–", "skip", "muted"),
    )
}
"""Worst first."""


@dataclass(frozen=True)
class FindingView:
    """One finding. ``link`` is an https address or None; ``root`` is the check that it follows from."""

    verdict: Verdict
    area: str
    check: str
    fault: str | None
    title: str
    evidence: str
    cause: str | None
    fix: str | None
    link: str | None
    root: str | None

    @property
    def id(self) -> str:
        """What ``llmbench doctor --explain`` knows it by."""
        return self.fault or self.check


@dataclass(frozen=True)
class ProblemView:
    """A problem, what follows from it (name and evidence), and the checks that could not be asked."""

    finding: FindingView
    follows: list[tuple[str, str]]
    unasked: list[str]


def doctor_page(document: Mapping[str, Any]) -> str:
    """The HTML of ``llmbench doctor --json``'s document. What is missing from it is left out of the page."""
    told = _with_texts(document)
    findings = _findings(told)
    problems = [problem_view(problem) for problem in outline(told).problems]
    checks = _list(told.get("checks"))
    seconds = document.get("seconds")
    took = f"{count(len(checks), 'check')} in {duration(seconds)}" if isinstance(seconds, int | float) else None
    facts = _mapping(document.get("facts"))
    meta = [timestamp(_text(document.get("started_at"))), _text(document.get("python")), took]
    return render(
        "doctor.html.j2",
        plain_json(document),
        styles=["doctor"],
        title=_text(document.get("headline")) or _headline(findings),
        meta=[part for part in meta if part],
        pills=pills((finding.verdict for finding in findings), VERDICTS),
        problems=problems,
        shown=_SHOWN,
        bug_report=_bug_report(document, problems),
        fix_script=_script(told),
        findings=findings,
        every_key=[(key, plain(value)) for key, value in flatten(facts)],
        variables=[(key, plain(value)) for key, value in flatten(_mapping(document.get("environment")))],
    )


_SHOWN = 3
"""Problems that are not folded."""


_TEXTS = ("id", "area", "title", "verdict", "fault", "evidence", "cause", "fix", "link", "root", "script")


def _with_texts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with texts where texts belong, whatever stands there: what reads it looks them up and cuts them."""

    def texts(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, **{key: _text(part[key]) for key in _TEXTS if key in part}}

    checks = [texts(check) for check in map(_mapping, _list(document.get("checks")))]
    for check in checks:
        check["findings"] = [texts(finding) for finding in map(_mapping, _list(check.get("findings")))]
    return {**document, "checks": checks}


def _findings(document: Mapping[str, Any]) -> list[FindingView]:
    """Worst first, else in the order of the checks."""
    found = [
        finding_view(check, finding)
        for check in map(_mapping, _list(document.get("checks")))
        for finding in map(_mapping, _list(check.get("findings")) or [{}])
    ]
    order = list(VERDICTS)
    return sorted(found, key=lambda finding: order.index(finding.verdict.key))


def finding_view(check: Mapping[str, Any], finding: Mapping[str, Any]) -> FindingView:
    """A finding of a check of a document."""
    key = _text(finding.get("verdict")) or _text(check.get("verdict")) or "incomplete"
    link = _text(finding.get("link"))
    return FindingView(
        verdict=VERDICTS.get(key) or Verdict("incomplete", "?", key, "warn"),
        area=_text(check.get("area")) or "",
        check=_text(check.get("id")) or "",
        fault=_text(finding.get("fault")),
        title=_text(finding.get("title"))
        or _text(check.get("title"))
        or _text(check.get("id"))
        or "a check without a name",
        evidence=_text(finding.get("evidence")) or "",
        cause=_text(finding.get("cause")),
        fix=_text(finding.get("fix")),
        link=link if link and link.startswith("https://") else None,
        root=_text(finding.get("root")),
    )


def problem_view(problem: Problem) -> ProblemView:
    """A problem with what follows from it."""
    followers = [finding_view(check, finding) for check, finding in problem.follows]
    return ProblemView(
        finding_view(problem.check, problem.finding),
        [(finding.id, finding.evidence.partition(": ")[2] or finding.evidence) for finding in followers],
        problem.unasked,
    )


def _script(document: Mapping[str, Any]) -> str | None:
    """The script of the safe fixes, if there is one."""
    scripts = [problem.finding.get("script") for problem in outline(document).problems]
    return fix_script(document) if any(script and is_complete(str(script)) for script in scripts) else None


def _headline(findings: Sequence[FindingView]) -> str:
    worst = findings[0].verdict.key if findings else "skip"
    return {
        "fail": "This environment has faults",
        "incomplete": "Not everything could be checked",
        "warn": "This environment works, with warnings",
        "pass": "Nothing is wrong with this environment",
    }.get(worst, "Nothing was checked")


def _bug_report(document: Mapping[str, Any], problems: Sequence[ProblemView]) -> str:
    """Plain text to paste elsewhere."""
    lines = [f"llmbench doctor: {_text(document.get('headline')) or ''}"]
    lines += [f"{name}: {shorten(value, 120)}" for name, value in first_facts(document)]
    found = [problem.finding for problem in problems]
    lines += ["", *(f"{f.verdict.word.upper()} {f.id}: {shorten(f.evidence, 300)}" for f in found)]
    return "\n".join(lines).strip()


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else plain(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
