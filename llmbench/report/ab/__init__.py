"""The page of an A/B comparison: the verdict, what differs, every metric with its interval, each case at length."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from llmbench.report.ab import verdicts
from llmbench.report.ab.details import SESSION_HEADS, details
from llmbench.report.ab.document import ab_document
from llmbench.report.ab.environment import environments, facts, short
from llmbench.report.ab.views import HEADS, effects, figures, left_out, lines
from llmbench.report.charts.forest import forest
from llmbench.report.format import count, timestamp
from llmbench.report.page import plain_json, render, write_page
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.ab import AbComparison

_MOST_REASONS = 6


def write_ab_report(folder: AbFolder, comparison: AbComparison) -> Path:
    """Writes the page beside what it tells of.

    Returns:
        its file.

    Raises:
        OSError: the folder cannot be written.
    """
    write_page(folder.report, ab_page(comparison, folder))
    return folder.report


def ab_page(comparison: AbComparison, folder: AbFolder | None = None) -> str:
    """The HTML of a comparison.

    Args:
        folder: where it lies: for logs of what failed, what was found damaged, and its name.
    """
    ab = comparison.ab
    found = environments(ab)
    drawn = effects(comparison)
    questions = [
        (f"{one.case} {', '.join(one.metrics)}", one.why)
        for case in comparison.cases
        for one in verdicts.questions(case)
    ]
    failures = [(row.case, verdicts.failure(row)) for row in comparison.failures]
    return render(
        "ab.html.j2",
        plain_json(ab_document(comparison)),
        styles=["compare", "ab"],
        title=verdicts.headline(comparison),
        meta=[f"BASE {short(ab, 'base')}", f"CAND {short(ab, 'cand')}", ab.suite, timestamp(ab.started_at), ab.id],
        pills=verdicts.pills(comparison),
        comparison=comparison,
        figures=figures(comparison),
        gate=verdicts.gate(comparison),
        rule=verdicts.rule(comparison),
        failures=failures[:_MOST_REASONS],
        more_failures=failures[_MOST_REASONS:],
        questions=questions[:_MOST_REASONS],
        more_questions=questions[_MOST_REASONS:],
        notices=_notices(comparison),
        damage=folder.damage if folder else [],
        command=shlex.join(ab.command),
        resume=shlex.join(["llmbench", "ab", "--resume", str(folder.path) if folder else "DIR"]),
        sides=facts(ab),
        differs=found.differs,
        same=found.same,
        keys=found.total,
        forest=_forest(comparison) if drawn else None,
        not_drawn=left_out(comparison, drawn),
        heads=HEADS,
        lines=lines(comparison),
        details=details(comparison, folder),
        session_heads=SESSION_HEADS,
        gate_rules=ab.gate,
        looks=verdicts.looks(comparison),
        percent=verdicts.round_percent,
        cases=len(comparison.cases),
    )


def _forest(comparison: AbComparison) -> Any:
    rules = comparison.ab.gate
    return forest(
        "Time, CAND over BASE",
        effects(comparison),
        rules.tolerance,
        limit=rules.limit,
        ends=("▲ faster: less time", "more time: slower ▼"),
    )


def _notices(comparison: AbComparison) -> list[str]:
    """What to know before any figure."""
    ab, told = comparison.ab, []
    if ab.self_check:
        told.append("A self-check: both sides are the same, so whatever is told to differ is a false alarm.")
    apart = [case.case.id for case in comparison.cases if case.design == "apart"]
    if apart:
        told.append(
            f"Both sides do not fit into memory at once in {count(len(apart), 'case')}: they ran one after the other, "
            "so that only larger differences can be seen."
        )
    if ab.status != "done":
        told.append(
            "It was interrupted: more sessions can be added."
            if ab.status == "interrupted"
            else "It was still going on, or was killed, when this page was made."
        )
    return told
