"""What runs on several nodes have in common, however their ranks are started: the first node, and what all are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmbench import __version__
from llmbench.errors import UserError
from llmbench.launch.target import Target
from llmbench.results.environment import differences, facts_of_node
from llmbench.results.schema import Node

# What another environment makes another training; the rest of a node's facts are said, and tolerated.
_DECISIVE = ("torch.version", "torch.threads", "torch.cuda", "python.version", "devices", "llmbench")


class FirstNode:
    """Where this process is: what is said of one interpreter is said of the one here.

    Args:
        local: the interpreter that trains here.
    """

    def __init__(self, local: Target) -> None:
        self._local = local

    @property
    def python(self) -> str:
        return self._local.python

    @property
    def environ(self) -> Mapping[str, str]:
        return self._local.environ

    @property
    def hello(self) -> Mapping[str, Any]:
        return self._local.hello

    def ready(self) -> Mapping[str, Any]:
        return self._local.ready()


def described(
    hosts: Sequence[str],
    addresses: Sequence[str | None],
    processes: Sequence[int],
    environments: Sequence[Mapping[str, Any]],
    before: Sequence[Node],
) -> list[Node]:
    """The nodes of a run, by node rank.

    Args:
        processes: ranks that each can take.
        environments: of each, as ``results/fingerprint.py`` tells it.
        before: as they were when the run began, of one that is resumed; else empty.

    Raises:
        UserError: a resumed run has other nodes than it began with; hosts may be others that are alike.
    """
    facts = [facts_of_node(environment, __version__) for environment in environments]
    nodes = [
        Node(
            node_rank=node,
            host=host,
            address=addresses[node],
            processes=processes[node],
            devices=[str(device.get("name")) for device in environments[node].get("devices", [])],
            facts=facts[node],
            differences=[str(each) for each in differences(facts[0], facts[node])],
        )
        for node, host in enumerate(hosts)
    ]
    if before:
        _same(before, nodes)
    return nodes


def _same(before: Sequence[Node], now: Sequence[Node]) -> None:
    if len(before) != len(now):
        raise UserError(f"the run began on {len(before)} nodes, now there are {len(now)}", f"--nnodes {len(before)}")
    for was, is_ in zip(before, now, strict=True):
        facts = [{key: node.facts[key] for key in _DECISIVE if key in node.facts} for node in (was, is_)]
        if changed := differences(*facts):
            raise UserError(
                f"node {is_.node_rank} ({is_.host}) changed since the run began: {', '.join(map(str, changed))}",
                "a run is of one environment; start a new one",
            )
