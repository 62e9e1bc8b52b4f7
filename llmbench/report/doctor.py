"""The page of a diagnosis: what it means, what to fix first, a text for a bug report, every finding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.report.format import NOTHING, count, duration, flatten, plain, shorten, timestamp
from llmbench.report.page import render
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

_REPORTED = (
    "python.version",
    "python.platform",
    "torch.version",
    "torch.git",
    "torch.cuda",
    "torch.hip",
    "nvidia.driver",
    "nvidia.devices",
    "compiler.title",
    "cpus.usable",
    "torch.cpu_capability",
    "memory.total_bytes",
)
"""Facts that a bug report begins with."""


@dataclass(frozen=True)
class FindingView:
    """One row of the table. ``link`` is an https address or None."""

    verdict: Verdict
    area: str
    check: str
    title: str
    evidence: str
    cause: str | None
    fix: str | None
    link: str | None

    @property
    def is_problem(self) -> bool:
        return self.verdict.key in ("fail", "incomplete", "warn")


def doctor_page(document: Mapping[str, Any]) -> str:
    """The HTML of ``llmbench doctor --json``'s document. What is missing from it is left out of the page."""
    findings = _findings(document)
    problems = [finding for finding in findings if finding.is_problem]
    checks = _list(document.get("checks"))
    seconds = document.get("seconds")
    took = f"{count(len(checks), 'check')} in {duration(seconds)}" if isinstance(seconds, int | float) else None
    facts = _mapping(document.get("facts"))
    meta = [timestamp(_text(document.get("started_at"))), _text(document.get("python")), took]
    return render(
        "doctor.html.j2",
        json.dumps(document, ensure_ascii=False, default=str),
        title=_text(document.get("headline")) or _headline(findings),
        meta=[part for part in meta if part],
        pills=pills((finding.verdict for finding in findings), VERDICTS),
        first=problems[:3],
        others=len(problems) - 3,
        bug_report=_bug_report(document, problems),
        findings=findings,
        every_key=[(key, plain(value)) for key, value in flatten(facts)],
        variables=[(key, plain(value)) for key, value in flatten(_mapping(document.get("environment")))],
    )


def _findings(document: Mapping[str, Any]) -> list[FindingView]:
    """Worst first, else in the order of the checks."""
    found = [
        _finding(check, finding)
        for check in map(_mapping, _list(document.get("checks")))
        for finding in map(_mapping, _list(check.get("findings")) or [{}])
    ]
    order = list(VERDICTS)
    return sorted(found, key=lambda finding: order.index(finding.verdict.key))


def _finding(check: Mapping[str, Any], finding: Mapping[str, Any]) -> FindingView:
    key = _text(finding.get("verdict")) or _text(check.get("verdict")) or "incomplete"
    link = _text(finding.get("link"))
    return FindingView(
        verdict=VERDICTS.get(key) or Verdict("incomplete", "?", key, "warn"),
        area=_text(check.get("area")) or "",
        check=_text(check.get("id")) or "",
        title=_text(check.get("title")) or _text(check.get("id")) or "a check without a name",
        evidence=_text(finding.get("evidence")) or "",
        cause=_text(finding.get("cause")),
        fix=_text(finding.get("fix")),
        link=link if link and link.startswith("https://") else None,
    )


def _headline(findings: Sequence[FindingView]) -> str:
    worst = findings[0].verdict.key if findings else "skip"
    return {
        "fail": "This environment has faults",
        "incomplete": "Not everything could be checked",
        "warn": "This environment works, with warnings",
        "pass": "Nothing is wrong with this environment",
    }.get(worst, "Nothing was checked")


def _bug_report(document: Mapping[str, Any], problems: Sequence[FindingView]) -> str:
    """Plain text to paste elsewhere."""
    version, headline = _text(document.get("llmbench")) or "", _text(document.get("headline")) or ""
    lines = [f"llmbench {version} doctor: {headline}"]
    facts = {key: plain(value) for key, value in flatten(_mapping(document.get("facts")))}
    known = [key for key in _REPORTED if facts.get(key, NOTHING) != NOTHING]
    lines += [_text(document.get("python")) or "", *(f"{key}: {shorten(facts[key], 120)}" for key in known), ""]
    lines += [f"{p.verdict.word.upper()} {p.check}: {shorten(p.evidence, 300)}" for p in problems]
    return "\n".join(lines).strip()


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else plain(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
