"""What was found on several nodes as one document, and its problems by the nodes that have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmbench import __version__
from llmbench.doctor.model import SCHEMA_VERSION, VERDICTS, answer_json, clean
from llmbench.doctor.nodes.ask import Gathered
from llmbench.doctor.nodes.words import labels, named
from llmbench.doctor.outline import PROBLEMS, Problem, outline

_BAD = ("fail", "incomplete")


def document(
    found: Gathered,
    hosts: Mapping[int, str],
    addresses: Mapping[int, str],
    lost: Mapping[int, str],
    *,
    nnodes: int,
    deep: bool,
    started_at: str,
    seconds: float,
) -> dict[str, Any]:
    """The document that ``doctor --nodes --json`` prints; every text in it is redacted and printable."""
    checks = [answer_json(answer) for answer in found.answers]
    made: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "llmbench": __version__,
        "nnodes": nnodes,
        "started_at": started_at,
        "seconds": round(seconds, 2),
        "deep": deep,
        "nodes": [_node(rank, found, hosts, addresses, lost, checks) for rank in range(nnodes)],
        "checks": checks,
        "allreduce": vars(found.reduction) if found.reduction and found.reduction.rates else None,
    }
    made["counts"] = _counts(made)
    counts = made["counts"]
    made["verdict"] = "fail" if any(counts[word] for word in _BAD) else "warn" if counts["warn"] else "pass"
    made["headline"] = headline(made)
    return made


def _node(
    rank: int,
    found: Gathered,
    hosts: Mapping[int, str],
    addresses: Mapping[int, str],
    lost: Mapping[int, str],
    checks: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    own = found.documents.get(rank, {})
    state = "missing" if rank not in hosts else "lost" if rank in lost else "there"
    problems = [
        (finding["verdict"], finding["fault"] or check["id"])
        for among in (checks, own.get("checks", ()))
        for check in among
        for finding in check["findings"]
        if finding["verdict"] in PROBLEMS and (among is not checks or rank in finding.get("nodes", ()))
    ]
    verdicts = {verdict for verdict, _ in problems}
    told = {
        "node": rank,
        "host": hosts.get(rank),
        "address": addresses.get(rank),
        "state": state,
        "reason": lost.get(rank),
        "verdict": next((word for word in VERDICTS if word in verdicts), "pass" if state == "there" else "fail"),
        "faults": list(dict.fromkeys(fault for _, fault in problems)),
        "asked": own.get("asked", 0),
        **{key: own.get(key) for key in ("headline", "python", "seconds", "counts")},
        "facts": (found.facts.get(rank) or {}).get("same"),
    }
    # What a node told is redacted there.
    shown: dict[str, Any] = clean(told)
    return shown | {"checks": own.get("checks", [])}


def _counts(made: Mapping[str, Any]) -> dict[str, int]:
    """How many findings there are of each verdict, of all nodes and between them."""
    between = [finding["verdict"] for check in made["checks"] for finding in check["findings"]]
    own = [node["counts"] or {} for node in made["nodes"]]
    return {word: between.count(word) + sum(counts.get(word, 0) for counts in own) for word in VERDICTS}


def host_labels(document: Mapping[str, Any]) -> dict[int, str]:
    """What each node is called; one that never joined by its rank."""
    nodes = list(document.get("nodes") or ())
    known = labels({node["node"]: node["host"] for node in nodes if node.get("host")})
    return {node["node"]: known.get(node["node"], f"node {node['node']}") for node in nodes}


@dataclass(frozen=True)
class Section:
    """Problems that the same nodes have.

    Attributes:
        title: who they are.
        nodes: their ranks.
        problems: worst first.
    """

    title: str
    nodes: tuple[int, ...]
    problems: list[Problem]


def sections(document: Mapping[str, Any]) -> list[Section]:
    """All problems, each told once: between nodes, of all of them, of some, and then node by node."""
    known = host_labels(document)
    between: list[Problem] = []
    by_nodes: dict[tuple[int, ...], list[Problem]] = {}
    for problem in outline(document).problems:
        nodes = tuple(problem.finding.get("nodes") or ())
        if len(nodes) == 1:
            by_nodes.setdefault(nodes, []).append(problem)
        else:
            between.append(problem)
    told = [node["node"] for node in document.get("nodes") or () if node.get("asked")]
    for nodes, problems in _own(document):
        by_nodes.setdefault(nodes, []).extend(problems)
    made = [Section("Between nodes", (), between)] if between else []
    for nodes in sorted(by_nodes, key=lambda nodes: (-len(nodes), nodes)):
        problems = sorted(by_nodes[nodes], key=lambda problem: PROBLEMS.index(problem.finding["verdict"]))
        everywhere = len(nodes) > 1 and len(nodes) == len(told)
        made.append(Section(f"On all {len(nodes)} nodes" if everywhere else _title(nodes, known), nodes, problems))
    return made


def _title(nodes: Sequence[int], known: Mapping[int, str]) -> str:
    if len(nodes) > 1:
        return f"On {named(nodes, known)} ({len(nodes)} nodes)"
    name = known[nodes[0]]
    return name if "node" in name else f"{name} (node {nodes[0]})"


def _own(document: Mapping[str, Any]) -> Iterator[tuple[tuple[int, ...], list[Problem]]]:
    """What the nodes found by themselves: the problems of one fault, as the first node tells it, and who has it."""
    have: dict[str, dict[int, list[Problem]]] = {}
    for node in document.get("nodes") or ():
        for problem in outline(node).problems:
            have.setdefault(problem.id, {}).setdefault(node["node"], []).append(problem)
    known = host_labels(document)
    for nodes in have.values():
        first = min(nodes)
        alike = all(_evidence(problems) == _evidence(nodes[first]) for problems in nodes.values())
        yield tuple(nodes), nodes[first] if alike else [_as_told_by(known[first], one) for one in nodes[first]]


def _evidence(problems: Sequence[Problem]) -> list[Any]:
    return [problem.finding.get("evidence") for problem in problems]


def _as_told_by(name: str, problem: Problem) -> Problem:
    """One of several nodes whose evidence is not the same."""
    evidence = f"{problem.finding.get('evidence') or ''} (on {name}; the others tell of their own)"
    return replace(problem, finding=dict(problem.finding) | {"evidence": evidence})


def headline(document: Mapping[str, Any]) -> str:
    """One sentence: who is at fault, or that nobody is."""
    nodes, verdict = document["nodes"], document["verdict"]
    known = host_labels(document)
    there = [node for node in nodes if node["state"] == "there"]
    if verdict != "fail":
        return _fine(document, there)
    bad = [node["node"] for node in nodes if node["verdict"] in _BAD]
    common = [
        section for section in sections(document) if len(section.nodes) > 1 and section.title.startswith("On all")
    ]
    titles = [p.finding.get("title") for section in common for p in section.problems if p.finding["verdict"] in _BAD]
    if titles and len(bad) == len(there):
        return f"All {len(bad)} nodes have a fault: {titles[0]}"
    if not bad:
        return "The nodes do not work together, and none can be told to be the cause"
    return f"{len(bad)} of {len(nodes)} nodes {'have faults' if len(bad) > 1 else 'has a fault'}: {named(bad, known)}"


def _fine(document: Mapping[str, Any], there: Sequence[Mapping[str, Any]]) -> str:
    warnings = document["counts"]["warn"]
    told = f"; {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    if len(there) == 1:
        return f"The only node has no fault{told}"
    reduced = document.get("allreduce")
    if not reduced:
        return f"No fault found on {len(there)} nodes, and none between them{told}"
    rate = reduced["rates"][-1]
    size, speed = rate["bytes"] // 2**20, rate["busbw"] / 1e9
    return (
        f"{len(there)} nodes work together: all-reduce of {size} MiB at {speed:.3g} GB/s ({reduced['backend']}){told}"
    )
