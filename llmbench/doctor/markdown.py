"""A diagnosis as Markdown: one paste for a bug report, with everything in folds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.facts import first
from llmbench.doctor.outline import Problem, checks, findings, outline, summary, words
from llmbench.report.outputs.markdown import block, code, details, table, text

_LABELS = {"found": "Found", "cause": "Cause", "fix": "Fix", "so": "Follows"}


def markdown(document: Mapping[str, Any]) -> str:
    """Draws what ``Diagnosis.to_json`` gives, which is redacted already."""
    return "\n\n".join(_parts(document)) + "\n"


def _parts(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"### llmbench doctor: {text(str(document.get('headline') or ''))}"
    yield table(("", ""), [(name, code(value)) for name, value in first(document)])
    for problem in outline(document).problems:
        yield "\n".join(problem_lines(problem))
    yield details(f"All checks: {summary(document)}", _every_finding(document))
    for title, key in (("Facts", "facts"), ("Environment variables", "environment")):
        if document.get(key):
            yield details(title, block(json.dumps(_short(document[key]), indent=1), "json"))


def problem_lines(problem: Problem) -> Iterator[str]:
    """A paragraph of a problem and the list of what is said of it."""
    title = text(str(problem.finding.get("title") or ""))
    yield f"**{str(problem.finding['verdict']).upper()}** {code(problem.id)} {title}".rstrip()
    for label, value in words(problem):
        if label == "more":
            yield f"- More: <{value}>"
        else:
            yield f"- {_LABELS[label]}: {code(value) if label == 'fix' else text(value)}"


def _every_finding(document: Mapping[str, Any]) -> str:
    return table(
        ("Verdict", "Check", "Found"),
        [
            (str(finding.get("verdict")), code(str(check.get("id"))), str(finding.get("evidence") or ""))
            for check in checks(document)
            for finding in findings(check)
        ],
    )


_LONGEST = 4000
"""Characters of one fact. GitHub takes 65536 in all."""


def _short(value: Any, depth: int = 0) -> Any:
    """What is long, at or below the second level, is told by its length alone."""
    if isinstance(value, Mapping) and depth < 2:
        return {key: _short(item, depth + 1) for key, item in value.items()}
    length = len(json.dumps(value, indent=1))
    return value if length <= _LONGEST else f"{length} characters: see --json"
