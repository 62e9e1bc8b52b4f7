"""Ours beside theirs: what a run tells of a workload and of the same one with the model of another library."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmbench.cli.tables import bytes_text, columns, si, status_word
from llmbench.results.schema import Interval, Memory, Record, Throughput
from llmbench.stats.verdicts import half_width
from llmbench.suite.workloads import peer_name


def pairs(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Records of the same training with our model and with a peer's, in the order of the peer's records."""
    ours = {(record.workload, record.mode, record.world_size): record for record in records}
    found = []
    for record in records:
        mine = ours.get((peer_name(record.workload) or "", record.mode, record.world_size))
        if mine is not None:
            found.append((mine, record))
    return found


def peers_table(records: Sequence[Record]) -> str:
    """The side-by-side table of a run; empty if it has no pair.

    Ratios are ours / theirs: of throughput higher is better for ours, of memory lower. The interval of a ratio is that
    of a quotient of two independent means, to first order.
    """
    lines = [["ours beside theirs", "throughput", "theirs", "ratio", "memory", "theirs", "ratio", "loss", "theirs"]]
    for ours, theirs in pairs(records):
        lines.append(
            [
                f"{ours.case} | {theirs.workload}",
                _rate(ours),
                _rate(theirs),
                _speed_ratio(ours.throughput, theirs.throughput),
                bytes_text(_bytes(ours)),
                bytes_text(_bytes(theirs)),
                _memory_ratio(ours, theirs),
                _loss(ours),
                _loss(theirs),
            ]
        )
    if len(lines) == 1:
        return ""
    return f"{columns(lines)}\nratios: ours / theirs, with the 95 % interval; memory: {_kind(records)}"


def quotient(one: Throughput, other: Throughput) -> tuple[float, Interval]:
    """The ratio of two throughputs and its 95 % interval: relative half-widths add as squares."""
    ratio = one.value / other.value
    half = math.hypot(half_width(one.value, one.ci95), half_width(other.value, other.ci95))
    return ratio, (ratio * max(0.0, 1 - half), ratio * (1 + half))


def _rate(record: Record) -> str:
    if record.throughput is None or record.status not in ("ok", "invalid"):
        return status_word(record.status)
    text = f"{si(record.throughput.value)} {record.throughput.unit}"
    return text if record.status == "ok" else f"{text} {status_word(record.status)}"


def _speed_ratio(one: Throughput | None, other: Throughput | None) -> str:
    if one is None or other is None:
        return "–"
    ratio, (low, high) = quotient(one, other)
    return f"{ratio:.2f}× [{low:.2f}, {high:.2f}]"


def _memory_ratio(one: Record, other: Record) -> str:
    mine, theirs = _bytes(one), _bytes(other)
    return f"{mine / theirs:.2f}×" if mine and theirs else "–"


def _bytes(record: Record) -> int | None:
    """The peak of the training: of the device's allocator, or resident beyond what Python and torch took before."""
    found = record.memory or Memory()
    if found.peak_allocated_bytes is not None or found.peak_rss_bytes is None:
        return found.peak_allocated_bytes
    return found.peak_rss_bytes - (found.start_rss_bytes or 0)


def _kind(records: Sequence[Record]) -> str:
    if any(record.memory and record.memory.peak_allocated_bytes is not None for record in records):
        return "peak of the device's allocator"
    return "peak resident beyond Python, torch and the libraries"


def _loss(record: Record) -> str:
    if record.loss is None or record.loss.final is None:
        return "–"
    return f"{record.loss.final:.4f}"
