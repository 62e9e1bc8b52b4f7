"""How nodes are named, and who differs from most of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 8

Labels = Mapping[int, str]
"""What a node is called, by its rank."""


def labels(hosts: Mapping[int, str]) -> dict[int, str]:
    """Each node by its host name; where several have the same one, with the rank."""
    known = Counter(hosts.values())
    return {rank: host if known[host] == 1 else f"{host} (node {rank})" for rank, host in sorted(hosts.items())}


def named(nodes: Iterable[int], known: Labels) -> str:
    """``h0, h1 and 3 more``."""
    names = [known.get(node, f"node {node}") for node in sorted(nodes)]
    if len(names) <= _MOST:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST])} and {len(names) - _MOST} more"


@dataclass(frozen=True)
class Odd:
    """Who differs from the others.

    Attributes:
        nodes: those that differ from what most have; all, where no value is that of most.
        shown: each value and who has it, the rarest first.
    """

    nodes: tuple[int, ...]
    shown: str


def odd_ones(values: Mapping[int, Any], known: Labels) -> Odd | None:
    """Who differs from the value that most have; None where all are equal.

    The value of most is the one that more nodes have than any other: of two nodes that differ, neither is right.
    """
    groups: dict[Any, list[int]] = {}
    for node, value in sorted(values.items()):
        groups.setdefault(value, []).append(node)
    if len(groups) < 2:
        return None
    ordered = sorted(groups.items(), key=lambda group: len(group[1]))
    (_, second), (_, most) = ordered[-2], ordered[-1]
    told = [f"{value} on {named(nodes, known)}" for value, nodes in ordered[:-1]]
    if len(most) == len(second):
        return Odd(tuple(sorted(values)), "; ".join([*told, f"{ordered[-1][0]} on {named(most, known)}"]))
    odd = tuple(sorted(node for _, nodes in ordered[:-1] for node in nodes))
    return Odd(odd, "; ".join([*told, f"{ordered[-1][0]} on {len(most)} others"]))
