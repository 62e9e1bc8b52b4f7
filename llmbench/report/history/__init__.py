"""The page of many runs: what changed, since when, and what else changed there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmbench.report.columns import compact, pack
from llmbench.report.format import count
from llmbench.report.history import selfchecks, views
from llmbench.report.history.document import history_document
from llmbench.report.history.rows import MOST_ROWS, anchors, details, links_from, rows, said_above
from llmbench.report.history.views import amount, failures, headline, history_pills, not_shown, step_groups, timeline
from llmbench.report.page import render
from llmbench.results.history import History
from llmbench.stats.metrics import Metric
from llmbench.stats.selfcheck import SelfChecks
from llmbench.stats.trends import Trend

_COLUMNS = ("trends", "records")


def history_page(
    history: History,
    found: Sequence[Trend],
    metric: Metric,
    *,
    reference: str | None = None,
    checks: SelfChecks | None = None,
    file: Path | None = None,
) -> str:
    """The HTML of a history.

    Args:
        history: what was read.
        found: its trends, the most urgent first.
        metric: what they are of.
        reference: the case that all values are divided by.
        checks: what self-checks say.
        file: where the page will lie: links to the reports of the runs are relative to it.
    """
    checks = checks or SelfChecks()
    document = history_document(history, found, metric, reference, checks) | {"run": {"id": f"history-{metric.name}"}}
    del document["runs"]  # its rows say the same; where a run lay here is nobody's business elsewhere
    named, link = anchors(found), links_from(file)
    failing = failures(found)
    units = sorted({trend.unit for trend in found if trend.unit})
    return render(
        "history.html.j2",
        compact(document | {name: pack(document[name]) for name in _COLUMNS}),
        styles=["history"],
        columns=_COLUMNS,
        title=f"History: {headline(found, metric)}",
        subtitle=metric.title + (f" over {reference}" if reference else ""),
        meta=_meta(history, found, metric),
        pills=[*history_pills(found, metric), *selfchecks.pills(checks)],
        failing=failing,
        groups=step_groups(found, metric),
        shown_groups=max(1, 3 - len(failing)),
        turns=timeline(found),
        link=link,
        unit=said_above(units[0]) if len(units) == 1 else "",
        rows=rows(found, metric, named, [trend["records"] for trend in document["trends"]]),
        unseen=max(0, len(found) - MOST_ROWS),
        anchor_of=lambda trend: named.get(id(trend)),
        say=views,
        details=details(found, metric, named, link),
        faults=[str(fault) for fault in history.faults],
        copies=len(history.copies),
        metric=metric,
        checks=checks,
        check_lines=selfchecks.lines(checks),
        check_alarms=selfchecks.alarms(checks),
        check_verdict=selfchecks.verdict(checks),
        check_chart=selfchecks.chart(checks) if checks.checks else None,
    )


def _meta(history: History, found: Sequence[Trend], metric: Metric) -> list[str]:
    machines = sorted({trend.machine for trend in found})
    suites = sorted({run.suite for run in history.runs if run.suite})
    return [
        *amount(history, metric).split(", "),
        count(len(found), "case"),
        *filter(None, [not_shown(history, metric)]),
        *machines[:2],
        *([f"{len(machines) - 2} more machines"] if len(machines) > 2 else []),
        *([f"suite {', '.join(suites)}"] if 0 < len(suites) < 4 else []),
    ]
