"""A history in a terminal: steps first, then a line a case, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from llmbench.report.format import count, printable
from llmbench.report.history import selfchecks
from llmbench.report.history.views import (
    StepGroup,
    amount,
    change,
    headline,
    in_words,
    not_shown,
    shown,
    step_groups,
    verdict_of,
)
from llmbench.results.history import History
from llmbench.stats.metrics import Metric
from llmbench.stats.selfcheck import SelfChecks
from llmbench.stats.trends import Trend

WIDTH = 100
_GROUPS = 12
_CASES = 4  # of a group
_ROWS = 200


def history_text(
    history: History, found: Sequence[Trend], metric: Metric, reference: str | None, checks: SelfChecks
) -> str:
    """Steps, the table of cases, what self-checks say, and what it is all of."""
    groups = step_groups(found, metric)
    parts = ["\n".join(_group(group) for group in groups[:_GROUPS])]
    if len(groups) > _GROUPS:
        parts.append(
            f"{count(sum(len(group.steps) for group in groups[_GROUPS:]), 'older or smaller step')}: --json or --html"
        )
    parts += [_table(found, metric), _self_checks(checks), _summary(history, found, metric, reference)]
    return printable_lines("\n\n".join(filter(None, parts)))


def printable_lines(text: str) -> str:
    """No control character of a record reaches the terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _group(group: StepGroup) -> str:
    cases = ", ".join(name(trend) for trend, _ in group.steps[:_CASES])
    more = f" and {len(group.steps) - _CASES} more" if len(group.steps) > _CASES else ""
    facts = [
        f"since {group.first.after.id}, for {group.runs_since} runs",
        f"commit {group.commits}" if group.commits else "",
        in_words(group.changed) or "same environment",
    ]
    lines = [f"{group.symbol} {group.size}  {cases}{more}", "; ".join(filter(None, facts))]
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent="    ", break_on_hyphens=False)
        for line, indent in zip(lines, ("", "    "), strict=True)
    )


def name(trend: Trend) -> str:
    return f"{trend.case} ({trend.told_apart})" if trend.told_apart else trend.case


def _table(found: Sequence[Trend], metric: Metric) -> str:
    units = {trend.unit for trend in found if trend.unit}
    unit = next(iter(units)) if len(units) == 1 else ""
    heads = [
        "state",
        "case",
        unit if unit and unit not in ("s", "×") else metric.title,
        "vs previous",
        "vs median",
        "step",
        "runs",
    ]
    rows = [
        [
            f"{(verdict := verdict_of(trend, metric)).symbol} {verdict.word}",
            name(trend),
            shown(trend.latest, trend.unit),
            change(trend.to_previous),
            change(trend.to_median),
            change(trend.steps[-1].size) if trend.steps else "",
            str(len(trend.points)),
        ]
        for trend in found[:_ROWS]
    ]
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    widths[1] = max(12, min(widths[1], WIDTH - sum(widths) + widths[1] - 2 * (len(heads) - 1)))
    lines = [_line(row, widths) for row in (heads, *rows)]
    if len(found) > _ROWS:
        lines.append(f"{len(found) - _ROWS} more: --json, or choose with --case")
    return "\n".join(lines) if found else ""


def _self_checks(checks: SelfChecks) -> str:
    told = selfchecks.texts(selfchecks.lines(checks))
    told += [f"  {alarm}" for alarm in selfchecks.alarms(checks)]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for line in told)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [_cut(cell, width) for cell, width in zip(row, widths, strict=True)]
    aligned = [
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _cut(text: str, width: int) -> str:
    """In the middle: names differ at their end."""
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def _summary(history: History, found: Sequence[Trend], metric: Metric, reference: str | None) -> str:
    over = f" over {reference}" if reference else ""
    lines = [
        f"{metric.title}{over}: {headline(found, metric)}",
        f"{amount(history, metric)}; {count(len(found), 'case')}",
    ]
    if note := not_shown(history, metric):
        lines.append(note)
    if history.copies:
        lines.append(f"{count(len(history.copies), 'copy', 'copies')} of runs left out")
    if history.faults:
        lines.append(f"{count(len(history.faults), 'thing')} could not be read, see above")
    return "\n".join(lines)
