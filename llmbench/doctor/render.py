"""A diagnosis as text for people: what it means, what to mend and what follows from it; quiet about what is fine."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.outline import Outline, Problem, findings, outline, summary, words

WIDTH = 100
_NARROW = 50
_COLOURS = {"bold": "1", "dim": "2", "fail": "1;31", "incomplete": "1;35", "warn": "1;33", "pass": "32", "skip": "2"}
_INDENT = 6
_LABEL = 8
_ID = 28


def text(document: Mapping[str, Any], width: int = 80, colours: bool = False, verbose: bool = False) -> str:
    """Draws what ``Diagnosis.to_json`` gives.

    Args:
        document: redacted already.
        width: columns, at most 100 are used. Only a word that is longer, such as a path, stands out.
        colours: whether the reader is a terminal; ``NO_COLOR`` is heeded.
        verbose: whether to list what is fine and what does not apply.
    """
    page = Page(max(20, min(width, WIDTH)), colours and not os.environ.get("NO_COLOR"))
    return "\n".join(page.lines(document, verbose)) + "\n"


class Page:
    """Draws the parts of a text of so many columns, with or without colours."""

    def __init__(self, width: int, colours: bool) -> None:
        self._width = width
        self._colours = colours

    def lines(self, document: Mapping[str, Any], verbose: bool) -> Iterator[str]:
        told = outline(document)
        yield from self.wrapped(str(document.get("headline") or ""), "bold")
        yield ""
        for problem in told.problems:
            yield from self.problem(problem)
            yield ""
        quiet = _quiet(told, verbose)
        if verbose:
            for word, checks in (("ok", told.fine), ("-", told.idle)):
                for check in checks:
                    yield from self._check(word, check)
            yield ""
        if quiet:
            yield from self.wrapped(quiet, "dim")
        yield from self.wrapped(f"{summary(document)}. More: llmbench doctor --explain ID", "dim")

    def problem(self, problem: Problem) -> Iterator[str]:
        """What was found, why, and what mends it."""
        verdict = str(problem.finding["verdict"])
        yield f"{self._in(verdict, f'{verdict.upper():<5}')} {self._in('bold', problem.id)}"
        before = ""
        for label, value in words(problem):
            yield from self._labelled("" if label == before else label, value, "bold" if label == "fix" else "")
            before = label

    def _check(self, word: str, check: Mapping[str, Any]) -> Iterator[str]:
        style = "pass" if word == "ok" else "skip"
        evidence = "; ".join(str(finding.get("evidence") or "") for finding in findings(check))
        id = str(check.get("id"))
        if self._width < _NARROW or len(id) > _ID:
            yield f"{self._in(style, f'{word:<2}')} {id}"
            yield from self._indented(evidence, 3, "dim")
            return
        lines = _wrap(evidence, self._width - _ID - 4) or [""]
        for number, line in enumerate(lines):
            before = f"{self._in(style, f'{word:<2}')} {id:<{_ID}}" if number == 0 else " " * (_ID + 3)
            yield f"{before} {self._in('dim', line)}".rstrip()

    def _labelled(self, label: str, value: str, style: str) -> Iterator[str]:
        if self._width < _NARROW:
            yield from self._indented(f"{label}: {value}" if label else value, 2, style)
            return
        for number, line in enumerate(_wrap(value, self._width - _INDENT - _LABEL)):
            before = " " * _INDENT + f"{label if number == 0 else '':<{_LABEL}}"
            yield self._in("dim", before) + self._in(style, line)

    def _indented(self, value: str, indent: int, style: str) -> Iterator[str]:
        for line in _wrap(value, self._width - indent):
            yield " " * indent + self._in(style, line)

    def wrapped(self, value: str, style: str) -> Iterator[str]:
        """Lines of a paragraph."""
        for line in _wrap(value, self._width):
            yield self._in(style, line)

    def _in(self, style: str, text: str) -> str:
        return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if self._colours and style and text.strip() else text


def _wrap(value: str, width: int) -> list[str]:
    return textwrap.wrap(value, width, break_long_words=False, break_on_hyphens=False)


def _quiet(told: Outline, verbose: bool) -> str:
    fine, idle = len(told.fine), len(told.idle)
    parts = [f"{fine} check{'s are' if fine != 1 else ' is'} fine"] if fine else []
    if idle:
        parts.append(f"{idle} do{'es' if idle == 1 else ''} not apply")
    return ", ".join(parts) + ("" if verbose else " (-v shows them)") if parts else ""
