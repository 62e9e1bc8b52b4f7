"""A comparison as JUnit XML and as Markdown; both agree with the exit code."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from llmbench.report.compare import verdicts
from llmbench.report.compare.environment import Environments
from llmbench.report.compare.settle import Settling, settling
from llmbench.report.format import count
from llmbench.report.outputs import junit, markdown
from llmbench.report.outputs.markdown import Markdown
from llmbench.stats.comparison import UNTOLD, Comparison, Row

_MOST_KEYS = 12
_MOST_CASES = 5
_HEADS = ("verdict", "case", "throughput", "95 % interval", "could have seen", "memory", "loss")
_NUMBERS = (2, 3, 4, 5)


def comparison_junit(comparison: Comparison, environments: Environments, command: Sequence[str]) -> str:
    """A test case for each case; it fails if the gate failed for it."""
    strict = comparison.rules.strict and not comparison.refused
    suite = junit.Suite(
        name=f"llmbench compare {comparison.base.runs[0].suite}",
        cases=[_test(row, comparison.failures_of(row), strict, command) for row in comparison.rows] or _nothing(strict),
        properties={
            "title": verdicts.title(comparison),
            "gate": verdicts.gate(comparison),
            "exit_code": str(comparison.exit_code),
            "base": str(comparison.base.path),
            "cand": str(comparison.cand.path),
            "environment": f"{len(environments.differs)} of {environments.total} keys differ",
        },
    )
    return junit.junit_xml([suite])


def _nothing(strict: bool) -> list[junit.Case]:
    """What stands for a comparison of no case: no green without a test."""
    problem = junit.Problem("inconclusive", "there was no case to compare")
    return [junit.Case("cases", "compare", failure=problem if strict else None, skipped=None if strict else "no case")]


def _test(row: Row, failures: Sequence[str], strict: bool, command: Sequence[str]) -> junit.Case:
    workload, _, name = row.case.partition("/")
    word = verdicts.OUTCOMES[row.outcome].word
    untold = row.outcome in UNTOLD
    problem = junit.Problem(row.outcome if failures else "inconclusive", "; ".join(failures) or _said(row), _said(row))
    return junit.Case(
        name=name or row.case,
        classname=f"compare.{workload}",
        properties={name: value for name, value in _properties(row, word).items() if value},
        failure=problem if failures or (strict and untold) else None,
        skipped=_said(row) if untold and not failures and not strict else None,
        output=shlex.join(command),
    )


def _said(row: Row) -> str:
    word = verdicts.OUTCOMES[row.outcome].word
    return ": ".join(filter(None, (word, f"{verdicts.speed(row)} {row.reason or ''}".strip())))


def _properties(row: Row, word: str) -> dict[str, str]:
    return {
        "verdict": word,
        "throughput": verdicts.speed(row),
        "could_have_seen": verdicts.could_see(row),
        "memory": verdicts.memory(row),
        "loss": verdicts.loss(row),
    }


def comparison_markdown(comparison: Comparison, environments: Environments, command: Sequence[str]) -> str:
    """Verdict, what differs, what changed in a table, all cases folded, the command; at most 64 KiB."""
    changed = [row for row in comparison.rows if row.changed and row.outcome != "only cand"]
    parts = [
        f"## {_symbol(comparison)} llmbench compare: {markdown.text(verdicts.title(comparison))}",
        f"**Gate {markdown.text(verdicts.gate(comparison))}** (exit code {comparison.exit_code})",
        _environment(comparison, environments),
        "\n".join(f"- ✖ {markdown.code(row.case)} {markdown.text(failure)}" for row, failure in comparison.failures),
        _table(changed) if changed else "",
        markdown.details(f"All {count(len(comparison.rows), 'case')}", _table(comparison.rows))
        if len(changed) < len(comparison.rows)
        else "",
        *map(_settling, settling(comparison)),
        markdown.block(shlex.join(command), "console"),
    ]
    return markdown.capped("\n\n".join(filter(None, parts)) + "\n")


def _settling(one: Settling) -> str:
    hint = f" ({one.hint})" if one.hint else ""
    cases = ", ".join(map(markdown.code, one.cases[:_MOST_CASES]))
    more = f" and {len(one.cases) - _MOST_CASES} more" if len(one.cases) > _MOST_CASES else ""
    return f"{cases}{more} would be settled by{markdown.text(hint)}:\n\n{markdown.block(one.command, 'console')}"


def _symbol(comparison: Comparison) -> str:
    if comparison.exit_code:
        return "✖"
    return "?" if comparison.undecided or comparison.refused else "✓"


def _environment(comparison: Comparison, environments: Environments) -> str:
    if not environments.differs:
        return f"The environments agree in all {environments.total} keys."
    shown = environments.differs[:_MOST_KEYS]
    rows = [(markdown.code(one.key), one.base, one.cand) for one in shown]
    more = len(environments.differs) - len(shown)
    head = f"{len(environments.differs)} of {environments.total} keys of the environment differ"
    table = markdown.table(("key", "BASE", "CAND"), [*rows, *([(f"and {more} more",)] if more else [])])
    hardware = f"Other hardware: {markdown.text('; '.join(comparison.hardware))}\n\n" if comparison.hardware else ""
    return hardware + markdown.details(head, table)


def _table(rows: Sequence[Row]) -> Markdown:
    return markdown.table(_HEADS, [_cells(row) for row in rows], _NUMBERS)


def _cells(row: Row) -> list[str]:
    verdict = verdicts.OUTCOMES[row.outcome]
    return [
        f"{verdict.symbol} {verdict.word}",
        markdown.code(row.case),
        verdicts.speed(row).partition(" [")[0],
        verdicts.interval(row),
        verdicts.could_see(row),
        verdicts.memory(row),
        verdicts.loss(row),
    ]
