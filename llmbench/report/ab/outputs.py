"""An A/B comparison as JUnit XML and as Markdown; both agree with the exit code."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from llmbench.report.ab import verdicts
from llmbench.report.ab.environment import environments, short
from llmbench.report.format import count
from llmbench.report.outputs import junit, markdown
from llmbench.report.outputs.markdown import Markdown
from llmbench.results.ab import SIDES
from llmbench.stats.ab import UNTOLD, AbComparison, CaseVerdict, Row

_MOST_KEYS = 12
_HEADS = ("verdict", "case", "metric", "change", "interval", "sessions", "noise", "could have seen")
_NUMBERS = (3, 4, 5, 6, 7)


def ab_junit(comparison: AbComparison, command: Sequence[str]) -> str:
    """A test case for each case and metric; it fails if the gate failed for it.

    What could not be told is skipped, with ``--strict`` a failure; a base that could not be run is an error.
    """
    ab = comparison.ab
    tests = [_test(comparison, case, row, command) for case in comparison.cases for row in case.rows]
    found = environments(ab)
    suite = junit.Suite(
        name=f"llmbench ab {ab.suite}",
        cases=tests or _nothing(comparison.strict),
        properties={
            "title": verdicts.title(comparison),
            "gate": verdicts.gate(comparison),
            "exit_code": str(comparison.exit_code),
            "base": short(ab, "base"),
            "cand": short(ab, "cand"),
            "environment": f"{len(found.differs)} of {found.total} keys differ",
            "seed": str(ab.seed),
        },
        timestamp=ab.started_at,
    )
    return junit.junit_xml([suite])


def _nothing(strict: bool) -> list[junit.Case]:
    """What stands for a comparison of no case: no green without a test."""
    problem = junit.Problem("inconclusive", "there was no case to compare")
    return [junit.Case("cases", "ab", failure=problem if strict else None, skipped=None if strict else "no case")]


def _test(comparison: AbComparison, case: CaseVerdict, row: Row, command: Sequence[str]) -> junit.Case:
    workload, _, name = row.case.partition("/")
    untold = row.outcome in UNTOLD
    why = verdicts.question(case, row) if untold else verdicts.failure(row)
    problem = junit.Problem(row.outcome, why, f"{verdicts.gate(comparison)}\n{why}")
    no_base = row.outcome == "no base"
    return junit.Case(
        name=f"{name or row.case} {row.metric}",
        classname=f"ab.{workload}",
        seconds=case.seconds if row is case.rows[0] else 0.0,
        properties={key: value for key, value in _properties(case, row).items() if value},
        failure=problem if row.worse or (comparison.strict and untold and not no_base) else None,
        error=problem if no_base else None,
        skipped=why if untold and not no_base and not comparison.strict else None,
        output=shlex.join(command),
    )


def _properties(case: CaseVerdict, row: Row) -> dict[str, str]:
    return {
        "verdict": verdicts.verdict_of(row).word,
        "change": verdicts.estimate(row),
        "interval": verdicts.interval(row),
        "sessions": str(verdicts.sessions(row)),
        "noise": verdicts.noise(row),
        "could_have_seen": verdicts.could_see(row),
        "design": case.design,
    }


def ab_markdown(comparison: AbComparison, command: Sequence[str]) -> str:
    """Verdict, what differs, what got worse, open questions, all rows folded, the command; at most 64 KiB."""
    rows = comparison.rows
    told = [row for row in rows if row.outcome != "same"]
    parts = [
        f"## {verdicts.symbol(comparison)} llmbench ab: {markdown.text(verdicts.headline(comparison))}",
        markdown.text(verdicts.counts(comparison)),
        f"**Gate {markdown.text(verdicts.gate(comparison))}** (exit code {comparison.exit_code})",
        _environment(comparison),
        "\n".join(
            f"- ✖ {markdown.code(row.case)} {markdown.text(verdicts.failure(row))}" for row in comparison.failures
        ),
        "\n".join(
            f"- ? {markdown.code(one.case)} {', '.join(one.metrics)}: {markdown.spans(one.why)}"
            for case in comparison.cases
            for one in verdicts.questions(case)
        ),
        _table(told) if told else "",
        markdown.details(f"All {count(len(rows), 'row')}", _table(rows)) if len(told) < len(rows) else "",
        "Change is of time, memory or loss, CAND over BASE: + is more time." if rows else "",
        markdown.block(shlex.join(command), "console"),
    ]
    return markdown.capped("\n\n".join(filter(None, parts)) + "\n")


def _environment(comparison: AbComparison) -> str:
    base, cand = (markdown.code(short(comparison.ab, side)) for side in SIDES)
    sides = f"BASE {base} · CAND {cand}"
    found = environments(comparison.ab)
    if not found.differs:
        return f"{sides}: the environments agree in all {found.total} keys."
    rows = [(markdown.code(one.key), one.base, one.cand) for one in found.differs[:_MOST_KEYS]]
    more = len(found.differs) - len(rows)
    table = markdown.table(("key", "BASE", "CAND"), [*rows, *([(f"and {more} more",)] if more else [])])
    return f"{sides}\n\n" + markdown.details(
        f"{len(found.differs)} of {found.total} keys of the environment differ", table
    )


def _table(rows: Sequence[Row]) -> Markdown:
    return markdown.table(_HEADS, [_cells(row) for row in rows], _NUMBERS)


def _cells(row: Row) -> list[str]:
    verdict = verdicts.verdict_of(row)
    return [
        f"{verdict.symbol} {verdict.word}",
        markdown.code(row.case),
        row.metric,
        verdicts.estimate(row),
        verdicts.interval(row),
        str(verdicts.sessions(row)),
        verdicts.noise(row),
        verdicts.could_see(row),
    ]
