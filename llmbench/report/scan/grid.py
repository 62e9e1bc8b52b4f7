"""The pair tests as cells: node by node for a small cluster, else node by round."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from llmbench.report.format import NOTHING, count, number
from llmbench.report.scan.tables import speed
from llmbench.report.svg import chart, decimal, element, fit, label
from llmbench.results.scan import BUS_BANDWIDTH, UNITS, Gate, PairTest, Scan

MATRIX = 32
"""Nodes up to which each pair has a cell of its own."""
_NUMBERED = 16
"""Nodes up to which a cell says its value."""
_WIDTH = 1340
_FILLS = {
    "fast": ("#2869b0", "q-fast"),
    "ok": ("#97c1ea", "q-ok"),
    "low": ("#d08000", "q-low"),
    "failed": ("#a40e26", "q-failed"),
    "untested": ("#e7ebef", "q-untested"),
}
"""Kinds of cells: colour where no style sheet is applied, and class."""


def pair_grid(scan: Scan, gate: Gate | None) -> Markup | None:
    """The cells of all pair tests; None without any."""
    known = {node.name for node in scan.nodes}
    tests = [test for test in scan.pairs if test.a in known and test.b in known]
    if not tests:
        return None
    names = list(dict.fromkeys(node.name for node in scan.nodes))

    def kind(test: PairTest) -> str:
        return _kind(test, gate)

    return _matrix(names, tests, kind) if len(names) <= MATRIX else _strips(names, tests, kind)


def kinds(scan: Scan, gate: Gate | None) -> list[tuple[str, str, str]]:
    """Colour, class and name of the kinds of cells that there are, for the legend."""
    named = {
        "fast": "faster than the rest, by more than twice the gate",
        "ok": "within the gate",
        "low": "low",
        "failed": "failed",
    }
    present = {_kind(test, gate) for test in scan.pairs}
    return [(*_FILLS[key], text) for key, text in named.items() if key in present]


def _kind(test: PairTest, gate: Gate | None) -> str:
    value = test.bus_bandwidth_bytes_per_s
    if test.verdict in ("failed", "low"):
        return test.verdict
    above = gate is not None and value is not None and value > gate.median * (1 + 2 * gate.share)
    return "fast" if above else "ok"


def _text(names: Sequence[str], tests: Sequence[PairTest]) -> tuple[str, str]:
    """Name and description of the drawing."""
    low = [test for test in tests if test.verdict in ("low", "failed")]
    told = ", ".join(
        f"{test.a} with {test.b} {speed(test.bus_bandwidth_bytes_per_s, UNITS[BUS_BANDWIDTH])}" for test in low[:12]
    )
    more = f" and {len(low) - 12} more" if len(low) > 12 else ""
    title = f"{count(len(tests), 'pair test')} between {count(len(names), 'node')}"
    return title, f"Low or failed: {told or 'none'}{more}. The table of pair tests has the values."


def _matrix(names: Sequence[str], tests: Sequence[PairTest], kind: Callable[[PairTest], str]) -> Markup:
    """A cell for each pair, on both sides of the diagonal. A pair that was tested twice shows its last test."""
    numbered = len(names) <= _NUMBERED
    cell_width, cell_height = (54, 24) if numbered else (22, 18)
    left, top = 120, 20 if numbered else 6
    place = {name: index for index, name in enumerate(names)}
    cells: dict[str, list[tuple[float, float]]] = defaultdict(list)
    texts: list[Markup] = []
    last = {frozenset((test.a, test.b)): test for test in tests}
    for test in last.values():
        for a, b in ((test.a, test.b), (test.b, test.a)):
            x, y = left + cell_width * place[b], top + cell_height * place[a]
            what = kind(test)
            cells[what].append((x, y))
            sign = _sign(test, numbered)
            if sign:
                middle, foot = x + (cell_width - 1) / 2, y + (cell_height - 1) / 2 + 4
                texts.append(
                    element("text", sign, x=middle, y=foot, text_anchor="middle", fill=_ON[what], class_=f"on-{what}")
                )
    for a in names:
        for b in names:
            if a != b and frozenset((a, b)) not in last:
                cells["untested"].append((left + cell_width * place[b], top + cell_height * place[a]))
    rows = [
        label(left - 6, top + cell_height * (index + 0.5), fit(name, left - 8), anchor="end")
        for index, name in enumerate(names)
    ]
    heads = [
        label(left + cell_width * (index + 0.5), 8, _fit_end(name, cell_width), anchor="middle", muted=True)
        for index, name in enumerate(names)
        if numbered
    ]
    width, tall = left + cell_width * len(names) + 2, top + cell_height * len(names) + 2
    paths = _paths(cells, cell_width - 1, cell_height - 1)
    return chart(width, tall, *_text(names, tests), *paths, *texts, *rows, *heads)


_ON = {"fast": "#ffffff", "ok": "#1b1f24", "low": "#1b1f24", "failed": "#ffffff"}
"""Ink upon a cell."""


def _sign(test: PairTest, numbered: bool) -> str:
    """What stands in a cell: the bandwidth in GB/s where there is room, and a mark on what is low."""
    mark = {"low": "▼", "failed": "✖"}.get(test.verdict, "")
    value = test.bus_bandwidth_bytes_per_s
    if not numbered or value is None:
        return mark
    return f"{mark}{number(value / 1e9) if math.isfinite(value) else NOTHING}"


def _fit_end(name: str, width: float) -> str:
    """The end of a name is what tells nodes apart."""
    shown = max(2, int(width / 7.2))
    return name if len(name) <= shown else "…" + name[-(shown - 1) :]


def _strips(names: Sequence[str], tests: Sequence[PairTest], kind: Callable[[PairTest], str]) -> Markup:
    """A column for each node and a cell for each of its tests, from top to bottom in their order; columns wrap."""
    made: dict[str, list[PairTest]] = defaultdict(list)
    for test in tests:
        made[test.a].append(test)
        made[test.b].append(test)
    most = min(8, max(map(len, made.values())))
    size = 20 if len(names) <= 64 else 10
    left = 90
    across = (_WIDTH - left) // size // 16 * 16  # racks often hold 8, 16 or 32
    cell_height = 10 if size == 20 else 7
    block = cell_height * most + 12
    cells: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rows = []
    for start in range(0, len(names), across):
        y = 4 + block * (start // across)
        rows.append(label(left - 6, y + cell_height / 2, fit(names[start], left - 8), anchor="end", muted=True))
        for offset, name in enumerate(names[start : start + across]):
            # The low ones are what must be seen, should there be more than fit.
            shown = made[name] if len(made[name]) <= most else sorted(made[name], key=_urgency)[:most]
            for number_, test in enumerate(shown):
                cells[kind(test)].append((left + size * offset, y + cell_height * number_))
            if not shown:
                cells["untested"].append((left + size * offset, y))
    tall = 4 + block * math.ceil(len(names) / across)
    paths = _paths(cells, size - 1, cell_height - 1)
    return chart(min(_WIDTH, left + size * len(names)), tall, *_text(names, tests), *paths, *rows)


def _urgency(test: PairTest) -> int:
    return ("failed", "low", "unknown", "ok").index(test.verdict)


def _paths(cells: Mapping[str, Sequence[tuple[float, float]]], width: float, height: float) -> list[Markup]:
    """One path for all cells of a kind: a thousand rectangles would be a hundred kilobytes."""
    return [
        element(
            "path",
            d="".join(
                f"M{decimal(x)} {decimal(y)}h{decimal(width)}v{decimal(height)}h-{decimal(width)}z"
                for x, y in cells[key]
            ),
            fill=colour,
            class_=class_,
        )
        for key, (colour, class_) in _FILLS.items()
        if cells.get(key)
    ]
