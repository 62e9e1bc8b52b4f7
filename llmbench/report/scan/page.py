"""The page of a scan: the verdict and the hosts to leave out first, every node and every test behind them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.columns import compact, pack
from llmbench.report.format import NOTHING, count, duration, number, percent, timestamp
from llmbench.report.page import render
from llmbench.report.scan.distribution import distribution
from llmbench.report.scan.grid import MATRIX, kinds, pair_grid
from llmbench.report.scan.headline import NODE_VERDICTS, TEST_VERDICTS, headline, sharing, slurm_option
from llmbench.report.scan.sizes import by_size
from llmbench.report.scan.tables import node_rows, records, speed, test_rows
from llmbench.report.verdict import Pill, Verdict, pills
from llmbench.results.scan import BUS_BANDWIDTH, Gate, Scan
from llmbench.stats.scan.verdicts import metric_title

SHOWN_TESTS = 200
"""Rows of the table of pair tests; the data has all."""
CARRIED_TESTS = 10_000
"""Pair tests in the data of a page, failed and low ones first: all pairs of a large cluster are too many for one."""
_OPEN_TESTS = 20
"""Of these, rows that are not folded."""
_COLUMNS = ("nodes", "pairs", "records")
"""Lists of the data that are told column by column."""
_SHOWN_FOUND = 8
"""Nodes and links that are not folded."""


@dataclass(frozen=True)
class Found:
    """A node or link with something against it. ``link`` is the id of the node's row."""

    verdict: Verdict
    name: str
    evidence: str
    row: str | None


@dataclass(frozen=True)
class Figure:
    value: str
    label: str
    note: str


def scan_page(scan: Scan) -> str:
    """The HTML of a scan."""
    gates = {gate.metric: gate for gate in scan.gates}
    found = _found(scan)
    tests = test_rows(scan)
    return render(
        "scan.html.j2",
        _data(scan),
        columns=_COLUMNS,
        styles=["scan"],
        title=headline(scan),
        simulated=scan.simulated,
        meta=[
            timestamp(scan.started_at),
            duration(scan.seconds),
            f"llmbench {scan.llmbench}",
            *filter(None, [sharing(scan)]),
        ],
        pills=_pills(scan),
        found=found[:_SHOWN_FOUND],
        more_found=found[_SHOWN_FOUND:],
        slurm=slurm_option(scan),
        hosts="\n".join(scan.exclude),
        hosts_count=count(len(scan.exclude), "host"),
        command=shlex.join(scan.command),
        planted=_planted(scan),
        figures=_figures(scan, gates.get(BUS_BANDWIDTH)),
        distributions=_distributions(scan),
        grid=pair_grid(scan, gates.get(BUS_BANDWIDTH)),
        small=len(scan.nodes) <= MATRIX,
        legend=kinds(scan, gates.get(BUS_BANDWIDTH)),
        titles=[(gate.metric, metric_title(gate.metric)) for gate in scan.gates],
        sizes=by_size(scan),
        nodes=node_rows(scan),
        told=any(node.verdict != "ok" for node in scan.nodes),
        tests=tests[:_OPEN_TESTS],
        folded_tests=tests[_OPEN_TESTS:SHOWN_TESTS],
        reasons=any(row.reason for row in tests[:SHOWN_TESTS]),
        more_tests=max(0, len(tests) - SHOWN_TESTS),
        gates=[_gate_row(gate) for gate in scan.gates],
        carried_tests=min(len(scan.pairs), CARRIED_TESTS),
        untested=_untested(scan),
    )


def _data(scan: Scan) -> str:
    """The document, and a flat record for each node, which becomes CSV."""
    if len(scan.pairs) > CARRIED_TESTS:
        order = list(TEST_VERDICTS)
        urgent = sorted(scan.pairs, key=lambda test: (order.index(test.verdict), test.bus_bandwidth_bytes_per_s or 0))
        scan = scan.model_copy(update={"pairs": urgent[:CARRIED_TESTS]})
    document = json.loads(scan.model_dump_json()) | {"records": records(scan)}
    return compact(document | {name: pack(document[name]) for name in _COLUMNS})


def _pills(scan: Scan) -> list[Pill]:
    """Nodes by verdict, then links: how many were named, and how many suspected."""
    shown = [Pill("◇", "simulated", "warn")] if scan.simulated else []
    shown += [
        Pill(pill.symbol, f"{pill.text} node{'' if pill.text.startswith('1 ') else 's'}", pill.tone)
        for pill in pills((NODE_VERDICTS[node.verdict] for node in scan.nodes), NODE_VERDICTS)
    ]
    return shown + [
        Pill(pill.symbol, f"{pill.text} link{'' if pill.text.startswith('1 ') else 's'}", pill.tone)
        for pill in pills((NODE_VERDICTS[link.verdict] for link in scan.links), NODE_VERDICTS)
    ]


def _found(scan: Scan) -> list[Found]:
    """The most urgent first, then the slowest."""
    order = list(NODE_VERDICTS)
    found = [
        (
            order.index(node.verdict),
            -(node.below or 0),
            Found(NODE_VERDICTS[node.verdict], node.name, node.evidence, f"n{index}"),
        )
        for index, node in enumerate(scan.nodes)
        if node.verdict not in ("ok", "unknown")
    ]
    found += [
        (
            order.index(link.verdict),
            -(link.below or 0),
            Found(NODE_VERDICTS[link.verdict], f"{link.a} – {link.b}", link.evidence, None),
        )
        for link in scan.links
    ]
    return [entry for *_, entry in sorted(found, key=lambda item: (item[0], item[1] if math.isfinite(item[1]) else 0))]


def _figures(scan: Scan, gate: Gate | None) -> list[Figure]:
    answered = sum(any(test.values for test in node.solo) for node in scan.nodes)
    per_node = number(scan.pair_tests / len(scan.nodes), 2) if scan.nodes else NOTHING
    return [
        Figure(str(len(scan.nodes)), "nodes", f"{answered} answered"),
        Figure(str(scan.rounds), "rounds of pair tests", "those of a round run at once"),
        Figure(str(scan.pair_tests), "pair tests", f"{per_node} for each node"),
        Figure(
            speed(gate.median, gate.unit) if gate else NOTHING, "median bus bandwidth", "of pairs without a slow node"
        ),
        Figure(
            f"±{percent(gate.spread)}" if gate else NOTHING,
            "spread of a pair test",
            f"low is below {speed(gate.threshold, gate.unit)}, −{percent(gate.share)}"
            if gate
            else "no pair was tested",
        ),
    ]


def _distributions(scan: Scan) -> list[tuple[str, Markup]]:
    """Title and chart of each metric that two or more nodes have."""
    charts = [(metric_title(gate.metric), distribution(scan, gate)) for gate in scan.gates]
    return [(title, chart) for title, chart in charts if chart is not None]


def _untested(scan: Scan) -> bool:
    """Whether there are links that no test went over."""
    tested = {frozenset((test.a, test.b)) for test in scan.pairs}
    return len(tested) < len(scan.nodes) * (len(scan.nodes) - 1) // 2


def _gate_row(gate: Gate) -> tuple[str, Sequence[str]]:
    return metric_title(gate.metric), (
        speed(gate.median, gate.unit),
        percent(gate.spread),
        f"−{percent(gate.share)}",
        speed(gate.threshold, gate.unit),
        str(gate.values),
    )


def _planted(scan: Scan) -> list[tuple[str, str]]:
    """What a simulation planted, beside what was named."""
    if not scan.truth:
        return []
    truth = scan.truth
    rows = []
    for title, planted, named in (
        ("Slow nodes", set(truth.slow_nodes), set(scan.slow_nodes)),
        ("Slow links", {_link(pair) for pair in truth.slow_links}, {_link(pair) for pair in scan.slow_links}),
        ("Dead nodes", set(truth.failed_nodes), set(scan.failed_nodes)),
    ):
        if not planted and not named:
            continue
        missed, invented = sorted(planted - named), sorted(named - planted)
        told = f"{len(planted & named)} of {len(planted)} found"
        told += f"; missed {', '.join(missed)}" if missed else ""
        told += f"; named wrongly {', '.join(invented)}" if invented else ""
        rows.append((title, told))
    return rows


def _link(pair: tuple[str, str]) -> str:
    return " – ".join(sorted(pair))
