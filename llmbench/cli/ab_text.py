"""What ``llmbench ab`` says in a terminal: a line as a case ends; then what differs, every metric, the gate."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.cli.tables import columns
from llmbench.report.ab import verdicts
from llmbench.report.ab.environment import environments, line
from llmbench.report.format import count, duration, one_line, shorten
from llmbench.results.ab import SIDES
from llmbench.stats.ab import AbComparison, CaseVerdict, Row

WIDTH = 100
_MOST_KEYS = 6
_MOST_NAMED = 5
_HEADS = ["", "verdict", "change", "interval", "sessions", "noise", "could have seen"]


def ab_text(comparison: AbComparison) -> str:
    """All of it, no line wider than 100 columns but those that quote."""
    parts = [
        _environment(comparison),
        _table(comparison.cases),
        _apart(comparison.cases),
        "\n".join(one_line(f"✖ {row.case}: {verdicts.failure(row)}") for row in comparison.failures),
        _questions(comparison.cases),
        "\n".join(map(one_line, (verdicts.title(comparison), verdicts.gate(comparison)))),
    ]
    return "\n\n".join(filter(None, parts))


def case_line(case: CaseVerdict) -> str:
    """A case as it ends: ``= same  gpt-tiny/eager/ws1  +0.4 % time [−1.6, +2.4]  5 sessions, 68.1 s, …``."""
    verdict = verdicts.verdict_of_case(case)
    row = verdicts.decisive(case)
    head = f"{verdict.symbol} {verdict.word:12}  {one_line(case.case.id):34}"
    told = [_change(row), _told(case, row)] if row else [_told(case, row)]
    return "  ".join([head, *map(one_line, filter(None, told))])


def _change(row: Row) -> str:
    if row.outcome in ("broken", "no base") or not verdicts.estimate(row):
        return row.reason or ""
    metric = "" if row.metric == "step" else f"{row.metric} "
    reason = f" ({row.reason})" if row.reason else ""
    return f"{metric}{verdicts.estimate(row)} {verdicts.interval(row)}".rstrip() + reason


def _told(case: CaseVerdict, row: Row | None) -> str:
    parts = [count(len(case.sessions), "session"), duration(case.seconds)]
    if row and row.time:
        parts += [f"noise {verdicts.noise(row)}", f"could have seen {verdicts.could_see(row)}"]
    return ", ".join(parts)


def _environment(comparison: AbComparison) -> str:
    ab = comparison.ab
    found = environments(ab)
    lines = [shorten(one_line(f"{side.upper()} {line(ab, side)}"), WIDTH) for side in SIDES]
    if not found.differs:
        return "\n".join([*lines, f"the environments agree in all {found.total} keys"])
    lines.append(f"the environments differ in {len(found.differs)} of {found.total} keys")
    shown = found.differs[:_MOST_KEYS]
    lines += [shorten(f"  {one_line(f'{one.key}: {one.base} → {one.cand}')}", WIDTH) for one in shown]
    if rest := len(found.differs) - len(shown):
        lines.append(f"  and {rest} more")
    return "\n".join(lines)


def _table(cases: Sequence[CaseVerdict]) -> str:
    """A line for each case, and under it one for each metric."""
    rows = [(case, row) for case in cases for row in case.rows]
    if not rows:
        return "no case" if not cases else ""
    cells = [
        [
            f"  {row.metric}",
            f"{verdicts.verdict_of(row).symbol} {verdicts.verdict_of(row).word}",
            verdicts.estimate(row),
            verdicts.interval(row),
            str(verdicts.sessions(row)),
            verdicts.noise(row),
            verdicts.could_see(row),
        ]
        for _, row in rows
    ]
    heads = list(_HEADS)
    for column in (1, 2):  # words stand to the left
        widest = max(len(cell[column]) for cell in [heads, *cells])
        for cell in [heads, *cells]:
            cell[column] = cell[column].ljust(widest)
    head, *drawn = columns([heads, *cells]).splitlines()
    told = [head]
    before: CaseVerdict | None = None
    for (case, _), text in zip(rows, drawn, strict=True):
        if case is not before:
            told.append(_heading(case))
        before = case
        told.append(text)
    return "\n".join([*told, "change: CAND over BASE, + is more; step: a typical step, total: all time spent"])


def _heading(case: CaseVerdict) -> str:
    about = f" · {count(len(case.sessions), 'session')} in {duration(case.seconds)}"
    if case.case.base.mode != case.case.cand.mode:
        about = f" · {case.case.base.mode} → {case.case.cand.mode}{about}"
    about = one_line(about)
    return f"{shorten(one_line(case.case.id), max(20, WIDTH - len(about) - 1))} {about}"


def _apart(cases: Sequence[CaseVerdict]) -> str:
    names = [case.case.id for case in cases if case.design == "apart"]
    if not names:
        return ""
    told = f"both sides did not fit into memory at once: {_named(names)}"
    return one_line(told) + "\n  they ran one after the other, so that only larger differences can be seen"


def _questions(cases: Sequence[CaseVerdict]) -> str:
    """Reasons for which nothing can be told, and what to do; each once."""
    groups: dict[str, list[str]] = {}
    for one in (one for case in cases for one in verdicts.questions(case)):
        groups.setdefault(one.why, []).append(f"{one.case} {', '.join(one.metrics)}")
    return "\n".join(one_line(f"? {_named(names)}: {why}") for why, names in groups.items())


def _named(names: Sequence[str]) -> str:
    shown = list(dict.fromkeys(names))
    if len(shown) > _MOST_NAMED:
        return f"{shown[0]} and {len(shown) - 1} more"
    return "; ".join(shown)
