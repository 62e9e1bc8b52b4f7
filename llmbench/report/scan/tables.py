"""The rows of the tables, and the records that become CSV."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llmbench.report.format import NOTHING, is_finite, number, percent, shorten
from llmbench.report.scan.headline import NODE_VERDICTS, TEST_VERDICTS
from llmbench.report.verdict import Verdict
from llmbench.results.scan import BUS_BANDWIDTH, UNITS, Scan, ScanNode, quantity


@dataclass(frozen=True)
class Cell:
    """``value`` is what a column sorts by, in the metric's own unit; None sorts last."""

    text: str
    value: str | None


@dataclass(frozen=True)
class NodeRow:
    index: int
    verdict: Verdict
    urgency: int
    name: str
    host: str | None
    evidence: str
    below: Cell
    partners: int
    cells: list[Cell]


@dataclass(frozen=True)
class TestRow:
    verdict: Verdict
    a: str
    b: str
    round: int
    speed: str
    below: str
    reason: str | None


def speed(value: float | None, unit: str) -> str:
    """A measurement with its unit; without one, ``–``."""
    if value is None or not math.isfinite(value):
        return number(value)
    return quantity(value, shorten(unit, 10))


def node_rows(scan: Scan) -> list[NodeRow]:
    """Of each node, the most urgent first, else as in the scan."""
    order = list(NODE_VERDICTS)
    partners = _partners(scan)
    rows = [
        NodeRow(
            index=index,
            verdict=NODE_VERDICTS[node.verdict],
            urgency=order.index(node.verdict),
            name=node.name,
            host=node.host if node.host != node.name else None,
            evidence="" if node.verdict == "ok" else node.evidence,
            below=Cell(against_median(node.below), _key(node.below)),
            partners=partners.get(node.name, 0),
            cells=[
                Cell(speed(node.estimates.get(gate.metric), gate.unit), _key(node.estimates.get(gate.metric)))
                for gate in scan.gates
            ],
        )
        for index, node in enumerate(scan.nodes)
    ]
    return sorted(rows, key=lambda row: row.urgency)


def test_rows(scan: Scan) -> list[TestRow]:
    """Of each pair test: failed and low first, then the slowest."""
    order = list(TEST_VERDICTS)
    median = next((gate.median for gate in scan.gates if gate.metric == BUS_BANDWIDTH), None)
    rows = []
    for test in scan.pairs:
        value = test.bus_bandwidth_bytes_per_s
        share = 1 - value / median if median and is_finite(median) and value is not None and is_finite(value) else None
        rows.append(
            (
                order.index(test.verdict),
                value if value is not None and math.isfinite(value) else 0.0,
                TestRow(
                    verdict=TEST_VERDICTS[test.verdict],
                    a=test.a,
                    b=test.b,
                    round=test.round,
                    speed=speed(value, UNITS[BUS_BANDWIDTH]),
                    below=against_median(share),
                    reason=test.reason,
                ),
            )
        )
    return [row for *_, row in sorted(rows, key=lambda item: item[:2])]


def records(scan: Scan) -> list[dict[str, Any]]:
    """A flat record for each node, in the order of the scan: what a row of the CSV says."""
    partners = _partners(scan)
    return [_record(node, scan, partners.get(node.name, 0)) for node in scan.nodes]


def _record(node: ScanNode, scan: Scan, partners: int) -> dict[str, Any]:
    values = {_column(gate.metric, gate.unit): _finite(node.estimates.get(gate.metric)) for gate in scan.gates}
    return {
        "node": node.name,
        "host": node.host,
        "verdict": node.verdict,
        "below_median": _finite(node.below),
        **values,
        "pair_tests": partners,
        "evidence": node.evidence,
    }


def _column(metric: str, unit: str) -> str:
    return f"{metric}_{unit.replace('/', '_per_').lower()}".rstrip("_").replace("b_per_s", "bytes_per_s")


def _partners(scan: Scan) -> dict[str, int]:
    """How many pair tests each node was in."""
    amounts: dict[str, int] = {}
    for test in scan.pairs:
        for node in (test.a, test.b):
            amounts[node] = amounts.get(node, 0) + 1
    return amounts


def against_median(share: float | None) -> str:
    """How far from the median: ``−21.3 %``, ``+1.0 %``, ``±0 %``."""
    if share is None or not math.isfinite(share):
        return NOTHING
    if abs(share) < 0.0005:
        return "±0 %"
    return f"{'−' if share >= 0 else '+'}{abs(100 * share):.1f} %" if abs(share) < 1e4 else percent(-share)


def _key(value: float | None) -> str | None:
    return f"{value:.6g}" if value is not None and math.isfinite(value) else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
