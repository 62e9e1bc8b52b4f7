"""A diagnosis as text for people: what it means, what to mend, and one line for each thing that is fine."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

WIDTH = 100
_STYLES = {"fail": "bold red", "incomplete": "bold magenta", "warn": "bold yellow", "pass": "green", "skip": "dim"}
_PROBLEMS = ("fail", "incomplete", "warn")
_ID_WIDTH = 26


def text(document: Mapping[str, Any], width: int = WIDTH, colours: bool = False) -> str:
    """Draws what ``Diagnosis.to_json`` gives.

    Args:
        document: redacted already.
        width: columns, at most 100 are used. Only a word that is longer, such as a path, stands out.
        colours: whether the reader is a terminal; ``NO_COLOR`` is heeded.
    """
    console = Console(
        file=io.StringIO(), width=max(40, min(width, WIDTH)), force_terminal=colours, highlight=False, emoji=False
    )
    for line in _lines(document, console.width):
        console.print(line, soft_wrap=True)
    written = console.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()


def _lines(document: Mapping[str, Any], width: int) -> Iterator[Text]:
    yield from (Text(line, style="bold") for line in textwrap.wrap(document["headline"], width))
    yield Text()
    findings = [(check, finding) for check in document["checks"] for finding in check["findings"]]
    for verdict in _PROBLEMS:
        for check, finding in findings:
            if finding["verdict"] == verdict:
                yield from _problem(check, finding, width)
                yield Text()
    unasked: Counter[str] = Counter()
    for check, finding in findings:
        if finding["verdict"] == "pass":
            yield _line("pass", "ok", check["id"], finding["evidence"], width)
        elif finding["verdict"] == "skip" and finding["evidence"].startswith("needs "):
            unasked[finding["evidence"].removeprefix("needs ")] += 1
    for check, finding in findings:
        if finding["verdict"] == "skip" and not finding["evidence"].startswith("needs "):
            yield _line("skip", "-", check["id"], finding["evidence"], width)
    for need, count in unasked.items():
        yield _line("skip", "-", f"{count} not asked", f"they need {need}", width)
    yield Text()
    yield Text(_summary(document), style="dim")


def _problem(check: Mapping[str, Any], finding: Mapping[str, Any], width: int) -> Iterator[Text]:
    verdict = finding["verdict"]
    yield Text.assemble((f"{verdict.upper():<5}", _STYLES[verdict]), (f" {check['id']}", "bold"))
    for name, value in (("found", finding["evidence"]), ("cause", finding["cause"]), ("fix", finding["fix"])):
        yield from _labelled(name, value, width)
    yield from _labelled("more", finding["link"], width)


def _labelled(name: str, value: str | None, width: int) -> Iterator[Text]:
    lines = textwrap.wrap(value or "", width - 14, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        label = name if number == 0 else ""
        yield Text.assemble(("      " + f"{label:<8}", "dim"), (line, "bold" if name == "fix" else ""))


def _line(verdict: str, word: str, id: str, evidence: str, width: int) -> Text:
    room = width - _ID_WIDTH - 4
    short = evidence if len(evidence) <= room else evidence[: room - 3].rstrip() + "..."
    return Text.assemble((f"{word:<3}", _STYLES[verdict]), f" {id:<{_ID_WIDTH}}", (short, "dim"))


def _summary(document: Mapping[str, Any]) -> str:
    counts = document["counts"]
    parts = [f"{counts[verdict]} {verdict}" for verdict in (*_PROBLEMS, "pass", "skip") if counts.get(verdict)]
    count = len(document["checks"])
    return f"{count} check{'s' if count != 1 else ''} in {document['seconds']:.1f} s: {', '.join(parts)}"
