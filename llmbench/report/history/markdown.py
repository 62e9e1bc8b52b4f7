"""A history as Markdown, for a step summary or an issue."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.report.format import count
from llmbench.report.history import selfchecks
from llmbench.report.history.text import name
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
from llmbench.report.outputs.markdown import Markdown, capped, code, details, table, text
from llmbench.results.history import History
from llmbench.stats.metrics import Metric
from llmbench.stats.selfcheck import SelfChecks
from llmbench.stats.trends import Trend

_ROWS = 200


def history_markdown(
    history: History, found: Sequence[Trend], metric: Metric, reference: str | None, checks: SelfChecks
) -> str:
    """Headline, a table of the steps, what self-checks say, and all cases folded; at most 64 KB."""
    over = f" over {reference}" if reference else ""
    groups = step_groups(found, metric)
    facts = f"{amount(history, metric)}, {count(len(found), 'case')}"
    if note := not_shown(history, metric):
        facts += f"; {note}"
    parts = [
        f"## {text(f'History of {metric.title}{over}: {headline(found, metric)}')}",
        text(facts + (f"; {count(len(history.faults), 'thing')} could not be read" if history.faults else "")),
    ]
    if groups:
        heads = ("", "Step", "Case", "Since", "Commits", "Changed in the environment")
        parts.append(table(heads, [_step(group) for group in groups[:50]]))
    if told := selfchecks.texts(selfchecks.lines(checks)) + selfchecks.alarms(checks):
        parts.append("\n".join(["### False alarms", "", *(f"- {text(line)}" for line in told)]))
    heads = ("State", "Case", "Latest", "vs previous", "vs median of 30", "Runs")
    rows = [_row(trend, metric) for trend in found[:_ROWS]]
    more = "" if len(found) <= _ROWS else f"\n\n{len(found) - _ROWS} more are in the JSON."
    parts.append(details("All cases", table(heads, rows, numbers=(2, 3, 4, 5)) + more))
    return capped("\n\n".join(parts) + "\n")


def _step(group: StepGroup) -> list[str]:
    named = Markdown(", ".join(code(name(trend)) for trend, _ in group.steps[:3]))
    more = f" and {len(group.steps) - 3} more" if len(group.steps) > 3 else ""
    return [
        group.symbol,
        group.size + ("" if group.up != group.worse else ", worse" if group.worse else ", better"),
        Markdown(named + more),
        Markdown(f"{code(group.first.after.id)}, for {group.runs_since} runs"),
        code(group.commits) if group.commits else "–",
        in_words(group.changed) or "same environment",
    ]


def _row(trend: Trend, metric: Metric) -> list[str]:
    verdict = verdict_of(trend, metric)
    return [
        f"{verdict.symbol} {verdict.word}",
        code(name(trend)),
        shown(trend.latest, trend.unit),
        change(trend.to_previous),
        change(trend.to_median),
        str(len(trend.points)),
    ]
