"""A scan in a few words: the verdict as a title, the hosts to leave out, and the text for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from llmbench.report.format import count, percent, printable
from llmbench.report.verdict import Verdict
from llmbench.results.scan import Gate, Scan, quantity

NODE_VERDICTS = {
    verdict.key: verdict
    for verdict in (
        Verdict("failed", "✖", "failed", "bad"),
        Verdict("slow", "✖", "slow", "bad"),
        Verdict("suspect", "!", "suspect", "warn"),
        Verdict("unknown", "?", "unknown", "muted"),
        Verdict("ok", "✓", "fast", "good"),
    )
}
"""Of nodes and links, the most urgent first."""

TEST_VERDICTS = {
    verdict.key: verdict
    for verdict in (
        Verdict("failed", "✖", "failed", "bad"),
        Verdict("low", "▼", "low", "bad"),
        Verdict("unknown", "?", "unknown", "muted"),
        Verdict("ok", "✓", "ok", "good"),
    )
}


def headline(scan: Scan) -> str:
    """``2 slow nodes, 1 slow link of 64 nodes``"""
    of = count(len(scan.nodes), "node")
    found = [
        count(amount, one)
        for amount, one in (
            (len(scan.failed_nodes), "failed node"),
            (len(scan.slow_nodes), "slow node"),
            (len(scan.slow_links), "slow link"),
        )
        if amount
    ]
    if found:
        return f"{', '.join(found)} of {of}"
    if len(scan.nodes) < 2:
        return "One node: nothing to compare it with" if scan.nodes else "No node was scanned"
    return f"No slow node or link found among {of}"


def sharing(scan: Scan) -> str | None:
    """That nodes share machines, which makes small differences invisible; None if they do not."""
    joined = sum(node.host is not None for node in scan.nodes)
    if scan.machines is None or scan.machines >= joined:
        return None
    return f"{count(joined, 'node')} on {count(scan.machines, 'machine')}: measured in turns, only large faults show"


def slurm_option(scan: Scan) -> str:
    """For ``sbatch`` and ``srun``; empty if there is nobody to exclude."""
    return f"--exclude={shlex.quote(','.join(scan.exclude))}" if scan.exclude else ""


def gate_line(gate: Gate) -> str:
    """``median 48 GB/s, spread 1.5 %, low below 45.8 GB/s``"""
    median, threshold = quantity(gate.median, gate.unit), quantity(gate.threshold, gate.unit)
    return f"median {median}, spread {percent(gate.spread)}, low below {threshold}"


def terminal_lines(scan: Scan) -> Iterator[str]:
    """What ``llmbench scan`` prints without ``--json``."""
    yield ("Simulated: " if scan.simulated else "") + headline(scan)
    told = [(node.verdict, node.name, node.evidence) for node in scan.nodes if node.verdict not in ("ok", "unknown")]
    told += [(link.verdict, f"{link.a} – {link.b}", link.evidence) for link in scan.links]
    order = list(NODE_VERDICTS)
    for verdict, name, evidence in sorted(told, key=lambda line: order.index(line[0])):
        shown = NODE_VERDICTS[verdict]
        yield f"{shown.symbol} {shown.word:8}{printable(name)}: {printable(evidence)}"
    yield f"{count(scan.rounds, 'round')}, {count(scan.pair_tests, 'pair test')}"
    if shared := sharing(scan):
        yield shared
    for gate in scan.gates:
        yield f"{gate.metric.replace('_', ' ')}: {gate_line(gate)}"
    if scan.exclude:
        yield printable(slurm_option(scan))
