"""The document of a scan, of measurements that somebody else made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from llmbench import __version__
from llmbench.results.scan import Scan
from llmbench.stats.scan.search import Measurements, scan
from llmbench.stats.scan.simulate import SimulatedCluster, Spec
from llmbench.stats.scan.verdicts import judge


def simulated_scan(spec: Spec, *, command: Sequence[str], every_link: bool = False, rounds: int = 3) -> Scan:
    """Scans a cluster that is not there, and tells what was planted."""
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    cluster = SimulatedCluster(spec, every_link=every_link)
    seen = scan(cluster.nodes, cluster, seed=spec.seed, rounds=rounds, every_link=every_link)
    document = scan_document(seen, command=command, started_at=started_at, every_link=every_link)
    return document.model_copy(
        update={
            "seconds": time.perf_counter() - start,
            "simulated": True,
            "simulation": spec.to_json(),
            "truth": cluster.truth,
        }
    )


def scan_document(
    seen: Measurements,
    *,
    command: Sequence[str],
    started_at: str,
    seconds: float = 0.0,
    every_link: bool = False,
    hosts: Mapping[str, str] | None = None,
    machines: int | None = None,
) -> Scan:
    """The verdicts on what was measured, as ``llmbench scan --json`` prints them.

    Args:
        hosts: host names by node, of those that are known; by default nodes have the names of their hosts.
        machines: that the nodes run on, if known.
    """
    found = judge(seen)
    slow = [node.name for node in found.nodes if node.verdict == "slow"]
    failed = [node.name for node in found.nodes if node.verdict == "failed"]
    named = [node.name for node in found.nodes if node.verdict in ("slow", "failed")]
    return Scan(
        llmbench=__version__,
        started_at=started_at,
        seconds=seconds,
        command=list(command),
        simulated=False,
        slow_nodes=slow,
        slow_links=[(link.a, link.b) for link in found.links if link.verdict != "suspect"],
        failed_nodes=failed,
        exclude=list(dict.fromkeys(named if hosts is None else filter(None, map(hosts.get, named)))),
        rounds=found.rounds,
        pair_tests=len(found.pairs),
        every_link=every_link,
        gates=found.gates,
        nodes=[node.model_copy(update={"host": (hosts or {}).get(node.name)}) for node in found.nodes],
        links=found.links,
        pairs=found.pairs,
        machines=machines,
    )
