"""The nodes of a run: how they differ, and how many of them are named in a few words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.results.environment import Difference
from llmbench.results.schema import Error, Node

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")
_ABSENT = "none"


@dataclass(frozen=True)
class NodeDifference:
    """A fact that is not the same on all nodes.

    Attributes:
        name: of the fact, e.g. ``torch``.
        value: on ``nodes``.
        usual: on most nodes, of which there are ``others``; where no value has most, that of the lowest node rank.
        rest: nodes that have a third value.
    """

    name: str
    value: str
    nodes: list[Node]
    usual: str
    others: list[Node]
    rest: int = 0

    def told(self, named: dict[int, str]) -> str:
        """In one line: ``torch 2.12.0 on h1; 2.13.0 on the other 3``.

        Args:
            named: what each node is called, by node rank (``node_names``).
        """
        here = name_list([named[node.node_rank] for node in self.nodes])
        if len(self.others) == 1:
            there = named[self.others[0].node_rank]
        else:
            there = f"{'the other ' if not self.rest else ''}{len(self.others)}{' nodes' if self.rest else ''}"
        return f"{self.name} {self.value} on {here}; {self.usual} on {there}"


def node_differences(nodes: Sequence[Node]) -> list[NodeDifference]:
    """What is not the same on all nodes, against what most have; in the order in which the nodes tell their facts."""
    found = []
    for key in dict.fromkeys(key for node in nodes for key in node.facts):
        by_value: dict[str, list[Node]] = {}
        for node in nodes:
            by_value.setdefault(node.facts.get(key, _ABSENT), []).append(node)
        if len(by_value) == 1:
            continue
        # Of equal counts the first stays first.
        usual = Counter({value: len(having) for value, having in by_value.items()}).most_common(1)[0][0]
        name = Difference(key, None, None).name
        found += [
            NodeDifference(name, value, having, usual, by_value[usual], len(nodes) - len(having) - len(by_value[usual]))
            for value, having in by_value.items()
            if value != usual
        ]
    return found


def node_names(nodes: Sequence[Node]) -> dict[int, str]:
    """What each node is called, by node rank: its host; where several nodes are of one host, with the node rank."""
    counted = Counter(node.host for node in nodes)
    return {
        node.node_rank: node.host if counted[node.host] == 1 else f"{node.host} (node {node.node_rank})"
        for node in nodes
    }


def place_of(error: Error | None) -> str | None:
    """Which of several processes was the cause, and on which host: what of this the message does not say itself."""
    if error is None or error.rank is None:
        return None
    rank = f"rank {error.rank}" if not re.search(rf"\brank {error.rank}\b", error.message) else ""
    host = f"on {error.host}" if error.host and error.host not in error.message else ""
    return f"{rank} {host}".strip() or None


def difference_lines(nodes: Sequence[Node], most: int = 8) -> tuple[list[str], int]:
    """What is not the same on all nodes, a line each, and how many more there are beyond ``most``."""
    names = node_names(nodes)
    told = [difference.told(names) for difference in node_differences(nodes)]
    return told[:most], max(0, len(told) - most)


def name_list(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, numbered ones that follow each other as ``h2–h9``; after ``most`` of these the rest count."""
    runs: list[list[str]] = []
    for name in names:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    parts: list[list[str]] = []
    for run in runs:
        parts += [run] if len(run) > 2 else [[name] for name in run]
    shown = [f"{part[0]}–{part[-1]}" if len(part) > 1 else part[0] for part in parts[:most]]
    left = sum(map(len, parts[most:]))
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _follows(before: str, name: str) -> bool:
    one, other = _NUMBERED.fullmatch(before), _NUMBERED.fullmatch(name)
    if one is None or other is None or (one[1], one[3]) != (other[1], other[3]):
        return False
    return int(other[2]) == int(one[2]) + 1
