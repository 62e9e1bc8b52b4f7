"""What the page shows of a comparison: figures, rows of the table, the forest plot, the curves."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from llmbench.report.charts.forest import Effect
from llmbench.report.charts.lines import Curve, lines
from llmbench.report.compare import verdicts
from llmbench.report.compare.document import throughput, unit
from llmbench.report.format import NOTHING, count, si, signed_percent, size
from llmbench.report.palette import Ink
from llmbench.report.verdict import Verdict
from llmbench.stats.comparison import Comparison, Row, geometric_mean

MOST_EFFECTS = 40
MOST_CURVES = 24
_BASE, _CAND = Ink(4, None), Ink(0, "5 3")


@dataclass(frozen=True)
class Figure:
    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """Text, and the number to sort by."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        number: position among the records.
        tone: of the row: what "hide unchanged" hides has none of those that warn.
    """

    row: Row
    number: int
    verdict: Verdict
    tone: str
    urgency: int
    cells: list[Cell]


def figures(comparison: Comparison) -> list[Figure]:
    """Throughput, memory and energy over all compared cases, the losses, the gate."""
    rows = comparison.rows
    speeds = [row.change.ratio for row in rows if row.change]
    peaks = [row.memory.ratio for row in rows if row.memory]
    energies = [row.energy for row in rows if row.energy]
    losses = [row.loss for row in rows if row.loss]
    right = sum(loss.verdict != "changed" for loss in losses)
    bitwise = sum(loss.verdict == "bitwise" for loss in losses)
    return [
        Figure(_mean(speeds), "throughput", _speed_note(rows)),
        Figure(_mean(peaks), "peak memory", _over(peaks)),
        Figure(_mean(energies), "energy per token or sample", _over(energies) if energies else "not measured"),
        Figure(
            f"{right} / {len(losses)}" if losses else NOTHING,
            "losses within tolerance",
            f"{bitwise} bitwise the same" if losses else "no curve on both sides",
        ),
        Figure(f"exit {comparison.exit_code}", f"gate {re.split('[:;]', verdicts.gate(comparison))[0]}"),
    ]


def _mean(ratios: Sequence[float]) -> str:
    mean = geometric_mean(ratios)
    return NOTHING if mean is None else signed_percent(mean - 1)


def _speed_note(rows: Sequence[Row]) -> str:
    """The interval of the geometric mean; what disturbs a run disturbs all its cases, so they do not average it out."""
    changes = [row.change for row in rows if row.change]
    if not changes:
        return "no case on both sides"
    halves = [math.log(change.high / change.low) / 2 for change in changes if change.low > 0 and change.high < math.inf]
    mean = geometric_mean([change.ratio for change in changes])
    if len(halves) < len(changes) or mean is None:
        return _over(changes)
    half = sum(halves) / len(halves)
    low, high = (signed_percent(mean * math.exp(sign * half) - 1).removesuffix(" %") for sign in (-1, 1))
    return f"[{low}, {high}] {_over(changes)}"


def _over(what: Sequence[object]) -> str:
    return f"geometric mean of {count(len(what), 'case')}"


def effects(comparison: Comparison) -> list[Effect]:
    """Rows of the forest plot: the worst first; of many, the changed ones and then the widest intervals."""
    told = [row for row in comparison.rows if row.change]
    if len(told) > MOST_EFFECTS:
        told = sorted(told, key=lambda row: (row.outcome not in ("slower", "faster"), -_width(row)))[:MOST_EFFECTS]
    order = sorted(told, key=lambda row: (verdicts.URGENCY.index(row.outcome), row.change.ratio if row.change else 0))
    return [_effect(row) for row in order]


def left_out(comparison: Comparison, drawn: Sequence[Effect]) -> int:
    """How many cases have a change that is not drawn."""
    return sum(row.change is not None for row in comparison.rows) - len(drawn)


def _width(row: Row) -> float:
    return row.change.high / max(row.change.low, 1e-300) if row.change else 0.0


def _effect(row: Row) -> Effect:
    assert row.change is not None
    verdict = verdicts.OUTCOMES[row.outcome]
    text = f"{signed_percent(row.change.ratio - 1)} ({verdict.symbol} {verdict.word})"
    return Effect(row.case, row.outcome, row.change.ratio, row.change.low, row.change.high, text)


def cases(comparison: Comparison) -> list[Case]:
    """Every case, the most urgent first."""
    found = [_case(row, number) for number, row in enumerate(comparison.rows)]
    return sorted(found, key=lambda case: (not case.row.failures, case.urgency, _ratio(case.row)))


def _ratio(row: Row) -> float:
    return row.change.ratio if row.change else math.inf


def _case(row: Row, number: int) -> Case:
    verdict = verdicts.OUTCOMES[row.outcome]
    return Case(
        row, number, verdict, "warn" if row.changed else "good", verdicts.URGENCY.index(row.outcome), _cells(row)
    )


def _cells(row: Row) -> list[Cell]:
    base, cand = throughput(row.base), throughput(row.cand)
    of = unit(row) or ""
    change = row.change
    return [
        Cell(si(base, of) if base is not None else NOTHING, base),
        Cell(si(cand, of) if cand is not None else NOTHING, cand),
        Cell(signed_percent(change.ratio - 1) if change else NOTHING, change.ratio if change else None),
        Cell(verdicts.interval(row) or NOTHING, change.high - change.low if change else None),
        Cell(verdicts.could_see(row) or NOTHING, change.smallest_slowdown if change else None),
        Cell(_memory(row), row.memory.ratio if row.memory else None),
        Cell(verdicts.loss(row) or NOTHING, _difference(row)),
        Cell(signed_percent(row.energy - 1) if row.energy else NOTHING, row.energy),
        Cell(f"{len(row.base)} / {len(row.cand)}", len(row.base) + len(row.cand)),
    ]


HEADS = ("BASE", "CAND", "Change", "95 % interval", "Could have seen", "Peak memory", "Loss", "Energy", "Runs")


def table(found: Sequence[Case]) -> tuple[list[str], list[Case]]:
    """Heads and rows without the columns that tell nothing: energy that nobody measured, one run each."""
    tells = {
        "Energy": any(case.row.energy for case in found),
        "Runs": any(max(len(case.row.base), len(case.row.cand)) > 1 for case in found),
    }
    kept = [i for i, head in enumerate(HEADS) if tells.get(head, True)]
    return [HEADS[i] for i in kept], [replace(case, cells=[case.cells[i] for i in kept]) for case in found]


def _memory(row: Row) -> str:
    if row.memory is None:
        return NOTHING
    return f"{verdicts.memory(row)} of {size(row.memory.base)}"


def _difference(row: Row) -> float | None:
    if row.loss is None:
        return None
    return 1e300 if row.loss.value is None else row.loss.value


@dataclass(frozen=True)
class Overlay:
    """Both loss curves of a case."""

    case: str
    verdict: str
    changed: bool
    chart: Markup


def curves(comparison: Comparison) -> list[Overlay]:
    """Of at most 24 cases with a curve on both sides, those that changed first."""
    rows = [row for row in comparison.rows if row.base and row.cand and row.base[0].series and row.cand[0].series]
    rows.sort(key=lambda row: (not (row.loss and row.loss.verdict == "changed"), not row.failures, not row.changed))
    return [_overlay(row) for row in rows[:MOST_CURVES]]


def _overlay(row: Row) -> Overlay:
    drawn = [
        Curve(name, ink, side[0].series.loss if side[0].series else [])
        for name, ink, side in (("BASE", _BASE, row.base), ("CAND", _CAND, row.cand))
    ]
    verdict = verdicts.loss(row) or "not compared"
    changed = row.loss is not None and row.loss.verdict == "changed"
    return Overlay(row.case, verdict, changed, lines(f"Loss of {row.case}", drawn, width=330, tall=150))
