"""Checks, findings and diagnoses made for the purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from llmbench.doctor.model import Answer, Check, Diagnosis, Finding
from llmbench.doctor.runner import Context

Run = Callable[[Context], Iterator[Finding]]


def made(id: str, *found: Finding, run: Run | None = None, **options: Any) -> Check:
    """A check that gives these findings, or does what ``run`` does."""

    def give(context: Context) -> Iterator[Finding]:
        yield from found

    options = {"deadline": 5.0, "needs": ()} | options
    return Check(id, id.partition(".")[0], f"title of {id}", run=run or give, **options)


def wrong(
    verdict: Literal["fail", "warn"], evidence: str = "", cause: str = "a cause", fix: str = "a fix", **more: Any
) -> Finding:
    return Finding(verdict, evidence, cause, fix, **more)


def failed(evidence: str = "", cause: str = "a cause", fix: str = "a fix", **more: Any) -> Finding:
    return wrong("fail", evidence, cause, fix, **more)


def warned(evidence: str = "", cause: str = "a cause", fix: str = "a fix", **more: Any) -> Finding:
    return wrong("warn", evidence, cause, fix, **more)


def diagnosis(*found: tuple[str, Finding], facts: dict[str, Any] | None = None, **more: Any) -> Diagnosis:
    """As if these checks had given these findings; the findings of one check stand together."""
    ids = list(dict.fromkeys(id for id, _ in found))
    answers = [Answer(made(id), tuple(finding for other, finding in found if other == id), 0.1) for id in ids]
    about: dict[str, Any] = {"environment": {}, "seconds": 1.0, "started_at": "2026-01-01T00:00:00+00:00"} | more
    return Diagnosis("/venv/bin/python", tuple(answers), facts or {}, **about)
