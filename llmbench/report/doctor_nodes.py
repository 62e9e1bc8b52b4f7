"""The page of a diagnosis of several nodes: a row for each node, and the problems by the nodes that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.doctor.nodes.document import host_labels, sections
from llmbench.doctor.nodes.render import quiet
from llmbench.report.doctor import VERDICTS, FindingView, ProblemView, finding_view, problem_view
from llmbench.report.format import count, duration, plain, timestamp
from llmbench.report.page import plain_json, render
from llmbench.report.verdict import Verdict, pills


@dataclass(frozen=True)
class NodeView:
    """A row: the node, what became of it, its faults, where they stand, and whether its facts are shown."""

    rank: int
    name: str
    address: str
    state: str
    verdict: Verdict
    faults: list[str]
    anchor: str
    beside: bool


@dataclass(frozen=True)
class SectionView:
    """Problems that the same nodes have."""

    title: str
    anchor: str
    problems: list[ProblemView]


def doctor_nodes_page(document: Mapping[str, Any]) -> str:
    """The HTML of what ``llmbench doctor --nodes --json`` prints."""
    told = sections(document)
    shown = [SectionView(one.title, f"part-{at}", list(map(problem_view, one.problems))) for at, one in enumerate(told)]
    own = {one.nodes[0]: view.anchor for one, view in zip(told, shown, strict=True) if len(one.nodes) == 1}
    labels, beside = host_labels(document), _beside(document)
    nodes = [_node(node, labels, own, node in beside) for node in document["nodes"]]
    between = [finding_view(check, finding) for check in document["checks"] for finding in check["findings"]]
    checks = sum(node["asked"] for node in document["nodes"]) + len(document["checks"])
    took = f"{count(checks, 'check')} in {duration(document['seconds'])}"
    meta = [timestamp(document["started_at"]), count(document["nnodes"], "node"), took]
    return render(
        "doctor_nodes.html.j2",
        plain_json(document),
        styles=["doctor"],
        title=plain(document["headline"]),
        meta=[part for part in meta if part],
        pills=pills((VERDICTS[word] for word, number in document["counts"].items() for _ in range(number)), VERDICTS),
        sections=shown,
        quiet=quiet(document, told),
        nodes=nodes,
        findings=_worst_first(between),
        rates=_rates(document.get("allreduce")),
        facts=_facts(beside),
        all_beside=len(beside) == sum(bool(node["facts"]) for node in document["nodes"]),
    )


def _node(node: Mapping[str, Any], labels: Mapping[int, str], own: Mapping[int, str], beside: bool) -> NodeView:
    state = {"there": "checked", "lost": "lost", "missing": "never joined"}[node["state"]]
    return NodeView(
        rank=node["node"],
        name=plain(labels[node["node"]]),
        address=plain(node["address"] or ""),
        state=f"{state}: {plain(node['reason'])}" if node["reason"] else state,
        verdict=VERDICTS[node["verdict"]],
        faults=[plain(fault) for fault in node["faults"]],
        anchor=own.get(node["node"], ""),
        beside=beside,
    )


def _worst_first(findings: list[FindingView]) -> list[FindingView]:
    order = list(VERDICTS)
    return sorted(findings, key=lambda finding: order.index(finding.verdict.key))


def _rates(reduced: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The all-reduce in words, by size."""
    if not reduced:
        return []
    who = f"{plain(reduced['backend'])}, {count(reduced['ranks'], 'rank')}"
    return [
        (
            f"{rate['bytes'] // 2**20} MiB",
            f"{1000 * rate['seconds']:.3g} ms, bus bandwidth {rate['busbw'] / 1e9:.3g} GB/s ({who})",
        )
        for rate in reduced["rates"]
    ]


_BESIDE = 8
"""Nodes whose facts stand side by side."""


def _beside(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nodes whose facts are shown: all of a few; of many the first, and the first of those that differ from it."""
    told = [node for node in document["nodes"] if node["facts"]]
    if len(told) <= _BESIDE:
        return told
    return [told[0], *(node for node in told if node["facts"] != told[0]["facts"])][:_BESIDE]


def _facts(nodes: list[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """A row for each fact: what each node has, and whether it differs from the first one's."""
    told = [node["facts"] for node in nodes]
    names = [name for name in (told[0] if told else {}) if name != "variables"]
    return [(name, [(_fact(name, one[name]), one[name] != told[0][name]) for one in told]) for name in names]


def _fact(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.1f} GiB" if name == "memory" else plain(value)
