"""What the page shows of an A/B comparison: figures, rows of the table, the forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.report.ab import verdicts
from llmbench.report.charts.forest import Effect
from llmbench.report.compare.views import Cell, Figure
from llmbench.report.format import NOTHING, count, duration, one_line, shorten, signed_percent
from llmbench.report.verdict import Verdict
from llmbench.stats.ab import OUTCOMES, UNTOLD, AbComparison, CaseVerdict, Metric, Row
from llmbench.stats.comparison import geometric_mean
from llmbench.stats.gates import LossChange

MOST_EFFECTS = 48
_LONGEST_NAME = 32
HEADS = ("Metric", "Change", "Interval", "Sessions", "Time", "Noise", "Could have seen")
_UNCHANGED = frozenset({"same", "declared"})


@dataclass(frozen=True)
class Line:
    """A row of the table: one metric of one case.

    Attributes:
        number: position among the records.
        tone: of the row: what "hide unchanged" hides has none of those that warn.
        note: what got worse, or why it is open; may hold `code`.
    """

    row: Row
    number: int
    verdict: Verdict
    tone: str
    urgency: int
    note: str
    cells: list[Cell]


def lines(comparison: AbComparison) -> list[Line]:
    """Every metric of every case: the most urgent case first, its metrics in their order."""
    pairs = [(case, row) for case in comparison.cases for row in case.rows]
    found = [(case, _line(case, row, number)) for number, (case, row) in enumerate(pairs)]
    place = {id(case): number for number, case in enumerate(urgent_first(comparison.cases))}
    return [line for _, line in sorted(found, key=lambda pair: place[id(pair[0])])]


def urgent_first(cases: Sequence[CaseVerdict]) -> list[CaseVerdict]:
    return sorted(cases, key=lambda case: (OUTCOMES.index(case.outcome), -_worst(case)))


def _worst(case: CaseVerdict) -> float:
    return max((row.time.ratio for row in case.rows if row.time), default=1.0)


def _line(case: CaseVerdict, row: Row, number: int) -> Line:
    note = row.reason or ""
    if row.outcome in UNTOLD:
        note = verdicts.question(case, row)
    tone = "good" if row.outcome in _UNCHANGED else "warn"
    return Line(row, number, verdicts.verdict_of(row), tone, OUTCOMES.index(row.outcome), note, _cells(row))


def _cells(row: Row) -> list[Cell]:
    time = row.time
    return [
        Cell(row.metric),
        Cell(verdicts.estimate(row) or NOTHING, _key(row)),
        Cell(verdicts.interval(row) or NOTHING, time.high - time.low if time else None),
        Cell(str(verdicts.sessions(row)), verdicts.sessions(row)),
        Cell(verdicts.seconds(row), row.seconds),
        Cell(verdicts.noise(row) or NOTHING, time.noise if time else None),
        Cell(verdicts.could_see(row) or NOTHING, time.smallest_slowdown if time else None),
    ]


def _key(row: Row) -> float | None:
    if row.time:
        return row.time.ratio
    if row.memory:
        return row.memory.ratio
    if isinstance(row.loss, LossChange):
        return row.loss.value
    return 1 + row.loss.value if row.loss else None


def figures(comparison: AbComparison) -> list[Figure]:
    """Time, memory and loss over all cases, and the gate."""
    rows = comparison.rows
    peaks = [row.memory.ratio for row in rows if row.memory]
    losses = [row for row in rows if row.metric == "loss"]
    kept = sum(not row.worse and row.outcome != "inconclusive" for row in losses)
    bitwise = sum(isinstance(row.loss, LossChange) and row.loss.verdict == "bitwise" for row in losses)
    sessions = sum(len(case.sessions) for case in comparison.cases)
    seconds = sum(case.seconds for case in comparison.cases)
    return [
        _time(rows, "step", "time of a typical step"),
        _time(rows, "total", "all time spent"),
        Figure(_mean(peaks), "peak memory", _over(peaks)),
        Figure(
            f"{kept} / {len(losses)}" if losses else NOTHING,
            "losses kept",
            f"{bitwise} bitwise the same" if losses else "no curve on both sides",
        ),
        Figure(
            f"exit {comparison.exit_code}",
            "gate",
            f"{count(sessions, 'session')} in {duration(seconds)}" if sessions else "no session",
        ),
    ]


def _time(rows: Sequence[Row], metric: Metric, name: str) -> Figure:
    ratios = [row.time.ratio for row in rows if row.metric == metric and row.time]
    return Figure(_mean(ratios), name, _over(ratios))


def _mean(ratios: Sequence[float]) -> str:
    mean = geometric_mean(ratios) if ratios else None
    return NOTHING if mean is None else signed_percent(mean - 1)


def _over(ratios: Sequence[float]) -> str:
    if len(ratios) == 1:
        return "of one case"
    return f"geometric mean of {len(ratios)} cases" if ratios else "of no case"


def effects(comparison: AbComparison) -> list[Effect]:
    """Rows of the forest plot, case by case; of many cases the most urgent."""
    found = []
    for case in urgent_first(comparison.cases):
        timed = [row for row in case.rows if row.time]
        found += [_effect(row, named=index == 0) for index, row in enumerate(timed)]
    return found[:MOST_EFFECTS]


def left_out(comparison: AbComparison, drawn: Sequence[Effect]) -> int:
    """How many times are not drawn."""
    return sum(row.time is not None for row in comparison.rows) - len(drawn)


def _effect(row: Row, *, named: bool) -> Effect:
    assert row.time is not None
    verdict = verdicts.verdict_of(row)
    text = f"{signed_percent(row.time.ratio - 1)} {verdicts.interval(row)} {verdict.symbol} {verdict.word}"
    name = f"{shorten(one_line(row.case), _LONGEST_NAME)} · {row.metric}" if named else row.metric
    return Effect(name, row.outcome, row.time.ratio, row.time.low, row.time.high, text)
