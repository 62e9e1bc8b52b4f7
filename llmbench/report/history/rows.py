"""Rows and details of the cases, with their charts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from llmbench.report.anchors import Anchors
from llmbench.report.charts.trend import Course, Dot, Mark, sparkline, trend_chart, values_to_tick
from llmbench.report.format import NOTHING, half_width, plain, plus_minus, shorten
from llmbench.report.history.views import change, clock, commit, day, shown, tick, urgency, verdict_of
from llmbench.report.verdict import Verdict
from llmbench.results.past import PastRun
from llmbench.stats.metrics import Metric
from llmbench.stats.trends import Point, Step, Trend

MOST_ROWS = 300
MOST_DETAILS = 120
"""Cases with details; the others are drawn in their row, and are whole in the data that the page carries."""
_POINTS = 6_000  # of all lines in the rows, and of all in the details
_TOLD = 1_200  # runs with a text of their own, in all charts together
_LAST = 6  # runs in the table of a case

Link = Callable[[PastRun], str | None]


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None


@dataclass(frozen=True)
class Row:
    """One case of the table.

    Attributes:
        anchor: of its details, None where it has none.
        step: the newest step, and for how many runs it has lasted.
        records: places of its rows in the data, with spaces between.
    """

    trend: Trend
    verdict: Verdict
    urgency: int
    anchor: str | None
    latest: Cell
    unit: str
    previous: Cell
    median: Cell
    step: Cell
    lasted: str
    chart: Markup
    records: str

    @property
    def stands_out(self) -> bool:
        """Whether it stays where only cases with steps are asked for."""
        return bool(self.trend.steps) or self.verdict.tone in ("bad", "warn")


@dataclass(frozen=True)
class LastRun:
    point: Point
    text: str
    spread: str
    against: str
    commit: str
    link: str | None
    step: Step | None


@dataclass(frozen=True)
class Detail:
    anchor: str
    trend: Trend
    verdict: Verdict
    latest: str
    chart: Markup
    last: list[LastRun]
    settings: list[tuple[str, str]]


def rows(
    found: Sequence[Trend], metric: Metric, anchors: Mapping[int, str], records: Sequence[Sequence[int]]
) -> list[Row]:
    """A row for each of the most urgent trends. Charts share the axis of runs.

    Args:
        anchors: see ``anchors``.
        records: of each trend, the places of its rows in the data of the page.
    """
    place, amount = _places(found)
    limit = max(20, min(120, _POINTS // max(1, len(found))))
    made = []
    for trend, places in zip(found[:MOST_ROWS], records, strict=False):
        newest = trend.steps[-1] if trend.steps else None
        amount_since = len(trend.points) - newest.index if newest else 0
        made.append(
            Row(
                trend=trend,
                verdict=verdict_of(trend, metric),
                urgency=urgency(trend),
                anchor=anchors.get(id(trend)),
                latest=Cell(shown(trend.latest, trend.unit), trend.latest),
                unit=said_above(trend.unit),
                previous=Cell(change(trend.to_previous), trend.to_previous),
                median=Cell(change(trend.to_median), trend.to_median),
                step=Cell(change(newest.size) if newest else "", newest.size if newest else None),
                lasted=f"for {amount_since} runs" if newest else "",
                chart=sparkline(trend.case, _course(trend, place), amount, limit=limit),
                records=" ".join(map(str, places)),
            )
        )
    return made


def _places(found: Sequence[Trend]) -> tuple[dict[int, int], int]:
    """The place of each run on the axis that all rows share."""
    runs = {id(point.run): point.run for trend in found for point in trend.points}
    ordered = sorted(runs.values(), key=lambda run: (run.started_at, run.id))
    return {id(run): index for index, run in enumerate(ordered)}, len(ordered)


def _course(trend: Trend, place: Mapping[int, int] | None = None, told: int = 0) -> Course:
    """What is drawn of a trend; by ``place`` of its runs, else by their order; with a text of the newest ``told``."""
    silent = len(trend.points) - told
    at = [place[id(point.run)] if place else index for index, point in enumerate(trend.points)]
    dots = [
        Dot(
            at[index],
            point.value.value if point.value else None,
            point.value.interval if point.value else None,
            point.broken,
            _hover(trend, point) if index >= silent else "",
        )
        for index, point in enumerate(trend.points)
    ]
    marks = [Mark(at[step.index], step.size > 0, step.worse) for step in trend.steps]
    return Course(dots, marks, [at[shift.index] for shift in trend.shifts])


def anchors(found: Sequence[Trend]) -> dict[int, str]:
    """Ids of the details: of the most urgent, as many as a page holds."""
    ids = Anchors()
    return {id(trend): ids.of(trend.case) for trend in found[:MOST_DETAILS]}


def details(found: Sequence[Trend], metric: Metric, named: Mapping[int, str], link: Link) -> list[Detail]:
    chosen = [trend for trend in found if id(trend) in named]
    told = min(120, _TOLD // max(1, len(chosen)))
    limit = max(40, min(160, _POINTS // max(1, len(chosen))))
    return [_detail(trend, metric, named[id(trend)], link, told, limit) for trend in chosen]


def _detail(trend: Trend, metric: Metric, anchor: str, link: Link, told: int, limit: int) -> Detail:
    course = _course(trend, told=told)
    ends = (day(trend.points[0].run.started_at), day(trend.points[-1].run.started_at))
    ticks = [(value, tick(value, trend.unit)) for value in values_to_tick(course)]
    return Detail(
        anchor=anchor,
        trend=trend,
        verdict=verdict_of(trend, metric),
        latest=f"{shown(trend.latest, trend.unit)} {said_above(trend.unit)}".strip(),
        chart=trend_chart(f"{metric.title} of {trend.case}", course, ticks, ends, limit=limit),
        last=_last(trend, link),
        settings=[("machine", trend.machine), *((key, plain(value)) for key, value in _settings(trend))],
    )


def said_above(unit: str) -> str:
    """A unit that ``shown`` does not say, such as that of a rate."""
    return "" if unit in ("s", "×") or unit.startswith(("J", "bytes")) else unit


def _settings(trend: Trend) -> list[tuple[str, object]]:
    named = ("micro_batch_size", "global_batch_size", "sequence_length", "steps", "threads")
    return [(key, trend.config[key]) for key in named if trend.config.get(key) is not None]


def _hover(trend: Trend, point: Point) -> str:
    if point.value is None:
        return f"{clock(point.run.started_at)}: {point.status}"
    return f"{clock(point.run.started_at)}: {shown(point.value.value, trend.unit)}"


def _last(trend: Trend, link: Link) -> list[LastRun]:
    """The newest runs, the newest first."""
    steps = {step.index: step for step in trend.steps}
    before: float | None = None
    made = []
    start = max(0, len(trend.points) - _LAST)
    for index, point in enumerate(trend.points):
        value = point.value.value if point.value else None
        if index >= start:
            spread = half_width(value, point.value.interval) if point.value else None
            made.append(
                LastRun(
                    point=point,
                    text=shown(value, trend.unit) if value is not None else point.status,
                    spread=plus_minus(spread) if spread is not None else "",
                    against=change(value / before - 1) if value and before else (shorten(point.reason, 120) or NOTHING),
                    commit=commit(point.run),
                    link=link(point.run),
                    step=steps.get(index),
                )
            )
        before = value if value is not None else before
    return made[::-1]


def links_from(page: Path | None) -> Link:
    """The address of a run's report, relative to the page; None where there is none."""
    folder = page.resolve().parent if page else None

    def link(run: PastRun) -> str | None:
        if folder is None or not run.has_report or isinstance(run.folder, str):
            return None
        return quote(os.path.relpath(run.folder.resolve() / "report.html", folder))

    return link
