"""The page of a comparison: the verdict, what differs, every case's change with its interval, losses overlaid."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from llmbench.report.charts.forest import forest
from llmbench.report.compare import verdicts
from llmbench.report.compare.document import document
from llmbench.report.compare.environment import Environments, in_common
from llmbench.report.compare.settle import settling
from llmbench.report.compare.views import Case, cases, curves, effects, figures, left_out, table
from llmbench.report.format import count
from llmbench.report.page import plain_json, render
from llmbench.results.sides import Side
from llmbench.stats.comparison import Comparison

_MOST_REASONS = 6


def compare_page(comparison: Comparison, environments: Environments, command: Sequence[str]) -> str:
    """The HTML of a comparison.

    Args:
        command: argv that made it.
    """
    heads, found = table(cases(comparison))
    drawn = effects(comparison)
    return render(
        "compare.html.j2",
        plain_json(document(comparison, environments, list(command))),
        styles=["compare"],
        title=_capital(verdicts.title(comparison)),
        meta=[f"BASE {_named(comparison.base)}", f"CAND {_named(comparison.cand)}", count(len(found), "case")],
        pills=verdicts.pills(comparison),
        comparison=comparison,
        figures=figures(comparison),
        gate=verdicts.gate(comparison),
        rule=verdicts.rule(comparison),
        failures=comparison.failures[:_MOST_REASONS],
        more_failures=comparison.failures[_MOST_REASONS:],
        command=shlex.join(command),
        differs=environments.differs,
        same=environments.same,
        common=in_common(comparison.base.runs, comparison.cand.runs),
        keys=environments.total,
        damage=[*comparison.base.damage, *comparison.cand.damage],
        forest=forest("Throughput, CAND over BASE", drawn, comparison.rules.equal_within) if drawn else None,
        not_drawn=left_out(comparison, drawn),
        heads=heads,
        cases=found,
        only=_only(found),
        settling=settling(comparison),
        curves=curves(comparison),
        equal_within=comparison.rules.equal_within,
    )


def _only(found: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    """Cases of one side, by side."""
    sides = (("Only in BASE", "only base"), ("Only in CAND", "only cand"))
    groups = [(title, [case for case in found if case.row.outcome == key]) for title, key in sides]
    return [(title, group) for title, group in groups if group]


def _named(side: Side) -> str:
    """``20261122-081204-7f3a``; of several runs the folder and how many."""
    if len(side.runs) == 1:
        return side.runs[0].id
    return f"{side.path.name or side.path}, {count(len(side.runs), 'run')}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
