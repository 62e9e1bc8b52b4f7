"""A diagnosis as Markdown: one paste for a bug report, with everything in folds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.facts import first
from llmbench.doctor.outline import Problem, checks, findings, outline, summary, words

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>~$])")
# GitHub would tell a person, or link an issue, that has nothing to do with this.
_REFERENCE = re.compile(r"(?<=[@#])(?=\w)")
_LABELS = {"found": "Found", "cause": "Cause", "fix": "Fix", "so": "Follows"}


def markdown(document: Mapping[str, Any]) -> str:
    """Draws what ``Diagnosis.to_json`` gives, which is redacted already."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    told = outline(document)
    yield f"### llmbench doctor: {escaped(str(document.get('headline') or ''))}"
    yield ""
    yield from _table(("", ""), ((name, code(value)) for name, value in first(document)))
    yield ""
    for problem in told.problems:
        yield from _problem(problem)
        yield ""
    yield from _fold(f"All checks: {summary(document)}", _every_finding(document))
    for title, key in (("Facts", "facts"), ("Environment variables", "environment")):
        if document.get(key):
            yield from _fold(title, _json(_short(document[key])))


def _problem(problem: Problem) -> Iterator[str]:
    title = escaped(str(problem.finding.get("title") or ""))
    yield f"**{str(problem.finding['verdict']).upper()}** {code(problem.id)} {title}".rstrip()
    for label, value in words(problem):
        if label == "more":
            yield f"- More: <{value}>"
        else:
            yield f"- {_LABELS[label]}: {code(value) if label == 'fix' else escaped(value)}"


def _every_finding(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(
        ("Verdict", "Check", "Found"),
        (
            (str(finding.get("verdict")), code(str(check.get("id"))), escaped(str(finding.get("evidence") or "")))
            for check in checks(document)
            for finding in findings(check)
        ),
    )


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        cells = [cell.replace("|", r"\|") for cell in row]  # a pipe would end a cell even inside of code
        yield f"| {' | '.join(cells)} |"


def _fold(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield "<details>"
    yield f"<summary>{escaped_html(title)}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"
    yield ""


_LONGEST = 4000
"""Characters of one fact. GitHub takes 65536 in all."""


def _short(value: Any, depth: int = 0) -> Any:
    """What is long, at or below the second level, is told by its length alone."""
    if isinstance(value, Mapping) and depth < 2:
        return {key: _short(item, depth + 1) for key, item in value.items()}
    length = len(json.dumps(value, indent=1))
    return value if length <= _LONGEST else f"{length} characters: see --json"


def _json(value: Any) -> Iterator[str]:
    text = json.dumps(value, indent=1)
    fence = _fence(text, 3)
    yield from (f"{fence}json", *text.splitlines(), fence)


def code(text: str) -> str:
    """The text as code on one line."""
    text = " ".join(text.split())
    fence = _fence(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that is Markdown, HTML, or names a person or an issue of GitHub."""
    return _REFERENCE.sub("<!-- -->", _SPECIAL.sub(r"\\\1", " ".join(text.split())))


def escaped_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(least, longest + 1 if longest >= least else least)
