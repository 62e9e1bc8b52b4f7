"""Bus bandwidth of collectives by message size: the median of the fast pairs, and below it each pair that is low."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from llmbench.report.format import count, is_finite, shorten, size
from llmbench.report.scan.headline import TEST_VERDICTS
from llmbench.report.scan.tables import against_median, speed
from llmbench.report.verdict import Verdict
from llmbench.results.scan import BUS_BANDWIDTH, UNITS, PairTest, Scan

MOST_PAIRS = 8
"""Low pairs that are shown, the slowest."""
MOST_SIZES, MOST_COLLECTIVES = 12, 12
_Points = dict[tuple[str, int], float]


@dataclass(frozen=True)
class SizeRow:
    """``verdict`` is None of the median."""

    verdict: Verdict | None
    collective: str
    pairs: str
    cells: list[str]


@dataclass(frozen=True)
class Sizes:
    heads: list[str]
    rows: list[SizeRow]


def by_size(scan: Scan) -> Sizes | None:
    """None where no pair was measured at more than what decides, as in a simulation."""
    fast = [test for test in scan.pairs if test.verdict == "ok"] or scan.pairs
    curves = [_points(test) for test in fast]
    places = sorted({place for test in scan.pairs for place in _points(test)})
    if not places:
        return None
    sizes = sorted({message for _, message in places})[-MOST_SIZES:]
    collectives = list(dict.fromkeys(collective for collective, _ in places))[:MOST_COLLECTIVES]
    values = {place: [curve[place] for curve in curves if place in curve] for place in places}
    medians = {place: median(found) for place, found in values.items() if found}
    low = sorted((test for test in scan.pairs if test.verdict == "low" and _points(test)), key=_speed)
    rows = []
    for collective in collectives:
        name = shorten(collective, 30)
        told = [_speed_text(medians.get((collective, message))) for message in sizes]
        pairs = sum(any(place[0] == collective for place in curve) for curve in curves)
        rows.append(SizeRow(None, name, f"median of {count(pairs, 'fast pair')}", told))
        rows += [_row(test, collective, name, sizes, medians) for test in low[:MOST_PAIRS]]
    return Sizes([size(message) for message in sizes], rows)


def _row(test: PairTest, collective: str, name: str, sizes: list[int], medians: _Points) -> SizeRow:
    curve = _points(test)
    cells = []
    for message in sizes:
        value, usual = curve.get((collective, message)), medians.get((collective, message))
        share = 1 - value / usual if value is not None and usual else None
        cells.append(_speed_text(value) + (f" ({against_median(share)})" if share is not None else ""))
    return SizeRow(TEST_VERDICTS[test.verdict], name, f"{test.a} – {test.b}", cells)


def _points(test: PairTest) -> _Points:
    return {
        (point.collective, point.message_bytes): point.bus_bandwidth_bytes_per_s
        for point in test.points
        if point.bus_bandwidth_bytes_per_s is not None and is_finite(point.bus_bandwidth_bytes_per_s)
    }


def _speed(test: PairTest) -> float:
    value = test.bus_bandwidth_bytes_per_s
    return value if value is not None and is_finite(value) else 0.0


def _speed_text(value: float | None) -> str:
    return speed(value, UNITS[BUS_BANDWIDTH])
