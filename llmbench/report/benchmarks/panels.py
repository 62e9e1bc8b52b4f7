"""A panel for each group: throughput where the work is known, time, and how sure both are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.benchmarks.views import BenchmarkView, Group, Work
from llmbench.report.charts.bars import Bar, bars
from llmbench.report.format import amount, duration, percent, plus_minus, si

MOST = 24
"""Benchmarks drawn in one panel; what is beyond stands in the table of all."""


@dataclass(frozen=True)
class Panel:
    """One group.

    Attributes:
        facts: what all its benchmarks share.
        rates: chart of the work that its tests name first, or None where none is known.
        rows: benchmarks with the cells of their row: uncertainty, interquartile range, rounds, rate.
        more: benchmarks that are not drawn.
    """

    title: str
    facts: str
    rates: Markup | None
    rates_title: str
    times: Markup
    rows: list[tuple[BenchmarkView, list[str]]]
    more: int


def panels(found: Sequence[Group]) -> list[Panel]:
    return [_panel(group) for group in found]


def _panel(group: Group) -> Panel:
    drawn = group.seen[:MOST]
    work = next((view.rates[0].work for view in drawn if view.rates), None)
    title = f"{work.title.capitalize()}, {work.unit}" if work else ""
    return Panel(
        title=group.title,
        facts=" · ".join(f"{key} {text}" for key, text in group.facts.items()),
        rates=bars(f"{title}: {group.title}", [_rate(view, work) for view in drawn]) if work else None,
        rates_title=title,
        times=bars(f"Median time: {group.title}", [_time(view) for view in drawn]),
        rows=[(view, _cells(view)) for view in drawn],
        more=len(group.seen) - len(drawn),
    )


def _rate(view: BenchmarkView, work: Work) -> Bar:
    rate = next((rate for rate in view.rates if rate.work == work), None)
    if rate is None:
        return Bar(view.label, view.ink, (), f"says no {work.key}")
    return Bar(view.label, view.ink, (rate.value,), f"{si(rate.value)}{_mark(view)}", rate.interval)


def _time(view: BenchmarkView) -> Bar:
    median = view.stats.median
    return Bar(view.label, view.ink, (median,), f"{duration(median)}{_mark(view)}", view.quartiles)


def _mark(view: BenchmarkView) -> str:
    return "" if view.verdict.key == "ok" else f" {view.verdict.symbol}"


def _cells(view: BenchmarkView) -> list[str]:
    return [plus_minus(view.uncertainty), percent(view.spread), amount(view.stats.rounds), si(view.stats.ops)]
