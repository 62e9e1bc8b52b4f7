"""Nodes that trained together: how they differ, what each is, and who lags among their ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from llmbench.report.charts.ranks import RankRow, ranks
from llmbench.report.format import NOTHING, count, duration, percent, size
from llmbench.report.run.cases import CaseView
from llmbench.results.nodes import difference_lines, name_list, node_differences, node_names
from llmbench.results.schema import Node, Rank, Record, Run

MOST_NODES = 24
"""Rows of nodes: of more, those that are alike share one."""
MOST_RANKS = 24
"""Rows of ranks in a chart: of more a row tells a host, and of more hosts the slowest have one of their own."""


@dataclass(frozen=True)
class NodeRow:
    """One node, or several that are alike: their hosts, their node ranks, and what is not as on most nodes."""

    hosts: str
    ranks: str
    cells: list[str]
    differs: list[str]
    amount: int = 1


@dataclass(frozen=True)
class NodesView:
    """What a page tells of several nodes.

    Attributes:
        notices: differences between the nodes, one a line.
        more: differences beyond these.
        heads: of the cells of a row.
    """

    notices: list[str]
    more: int
    heads: list[str]
    rows: list[NodeRow]
    total: int

    @property
    def folded(self) -> bool:
        return len(self.rows) < self.total


_FACTS = (("torch", "torch.version"), ("driver", "driver"), ("kernel", "host.kernel"), ("Python", "python.version"))


def nodes_view(run: Run) -> NodesView | None:
    """None for a run on one machine."""
    if len(run.nodes) < 2:
        return None
    nodes = sorted(run.nodes, key=lambda node: node.node_rank)
    names = node_names(nodes)
    found = node_differences(nodes)
    own: dict[int, list[str]] = {}
    for difference in found:
        for node in difference.nodes:
            own.setdefault(node.node_rank, []).append(f"{difference.name} {difference.value}, not {difference.usual}")
    columns = {head: key for head, key in _FACTS if any(node.facts.get(key) for node in nodes)}
    rows = [
        NodeRow(
            hosts=name_list([names[node.node_rank] for node in group]),
            ranks=name_list([str(node.node_rank) for node in group]),
            cells=[
                str(group[0].processes),
                _devices(group[0]),
                *(group[0].facts.get(key, NOTHING) for key in columns.values()),
            ],
            differs=own.get(group[0].node_rank, []),
            amount=len(group),
        )
        for group in (_alike(nodes, own) if len(nodes) > MOST_NODES else [[node] for node in nodes])
    ]
    notices, more = difference_lines(nodes)
    heads = ["Processes", "Devices", *columns]
    return NodesView(notices, more, heads, rows, len(nodes))


def _alike(nodes: Sequence[Node], own: dict[int, list[str]]) -> list[list[Node]]:
    """Nodes with the same facts and devices together; those that differ from most first."""
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(repr((node.facts, node.devices, node.processes)), []).append(node)
    return sorted(groups.values(), key=lambda group: (not own.get(group[0].node_rank), group[0].node_rank))


def _devices(node: Node) -> str:
    counted = {name: node.devices.count(name) for name in node.devices}
    return ", ".join(f"{amount}× {name}" if amount > 1 else name for name, amount in counted.items()) or NOTHING


def rank_chart(case: CaseView) -> Markup | None:
    """Step times of the ranks by host; None where the record does not tell them."""
    record = case.record
    known = [rank for rank in record.ranks if _median(rank) is not None] if record else []
    if len(known) < 2:
        return None
    return ranks(f"Step times of the ranks of {case.id}", _rows(known), case.column.ink)


def lagging(record: Record) -> str | None:
    """The slowest rank and its host, how far it is behind, and what the memory of the ranks is."""
    known = [(median, rank) for rank in record.ranks if (median := _median(rank)) is not None]
    if len(known) < 2:
        return None
    times = [median for median, _ in known]
    worst, slowest = max(known, key=lambda pair: pair[0])
    least = min(times)
    host = f" on {slowest.host}" if slowest.host else ""
    said = f"rank {slowest.rank}{host}: median {duration(worst)}, the fastest {duration(least)}"
    if least > 0:
        said += f", {percent((worst - least) / least)} apart"
    memory = [amount for rank in record.ranks if (amount := _memory(rank)) is not None]
    if memory:
        low, high = size(min(memory)), size(max(memory))
        said += f"; memory of a rank {low}" + (f" to {high}" if high != low else "")
    return said


def _rows(known: Sequence[Rank]) -> list[RankRow]:
    """A row for each rank; where these are too many for each host; of too many hosts, the slowest have their own."""
    worst = max(known, key=_high)
    hosts = [list(group) for _, group in groupby(sorted(known, key=_place), key=lambda rank: (rank.node, rank.host))]
    if len(known) <= MOST_RANKS:
        several = len(hosts) > 1
        return [
            _row([rank], _rank_name(rank, several), begins=several and rank is ranks_[0], slowest=rank is worst)
            for ranks_ in hosts
            for rank in ranks_
        ]
    if len(hosts) == 1:
        hosts = [[rank] for rank in hosts[0]]
    slow = sorted(hosts, key=lambda group: -max(map(_high, group)))[: MOST_RANKS - 1]
    chosen = sorted(slow if len(hosts) > MOST_RANKS else hosts, key=lambda group: _place(group[0]))
    alone = len({rank.host for rank in known}) == 1
    rows = [_row(group, _host_name(group, alone), slowest=worst in group) for group in chosen]
    others = [rank for group in hosts if group not in chosen for rank in group]
    if others:
        what = count(len(hosts) - len(chosen), "rank" if alone else "host")
        rows.append(_row(others, f"{what} more", begins=True))
    return rows


def _row(group: Sequence[Rank], name: str, *, begins: bool = False, slowest: bool = False) -> RankRow:
    medians = [_high(rank) for rank in group]
    p95 = max(_finite(rank.step_p95_seconds) or _high(rank) for rank in group)
    return RankRow(name, min(medians), max(medians), p95, begins=begins, slowest=slowest)


def _rank_name(rank: Rank, several: bool) -> str:
    return f"{rank.host} · rank {rank.rank}" if several else f"rank {rank.rank}"


def _host_name(group: Sequence[Rank], alone: bool) -> str:
    if alone and len(group) == 1:
        return f"rank {group[0].rank}"
    span = f"rank {group[0].rank}" if len(group) == 1 else f"ranks {group[0].rank}–{group[-1].rank}"
    return f"{group[0].host} · {span}"


def _place(rank: Rank) -> tuple[int, str, int]:
    return rank.node, rank.host, rank.rank


def _median(rank: Rank) -> float | None:
    return _finite(rank.step_median_seconds)


def _high(rank: Rank) -> float:
    return _median(rank) or 0.0


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value > 0 else None


def _memory(rank: Rank) -> int | None:
    return rank.peak_rss_bytes if rank.peak_allocated_bytes is None else rank.peak_allocated_bytes
