"""How often a scan names somebody of four hosts where nothing is slow: ``python -m tests.cluster.quiet_scans 10``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from .hosts import Hosts, hosts
from .nodes import run_nodes

COUNT = 4


def scan(four: Hosts, folder: Path, environment: dict[str, str] | None = None, *options: object) -> dict[str, Any]:
    """The document of one scan of the hosts, in which every node did what it should."""
    first, *others = run_nodes(
        COUNT, ["scan", "--json", "--device", "cpu", *options], folder, four, environment, seconds=500
    )
    if any(other.returncode for other in others) or not first.stdout:
        raise AssertionError("\n".join(node.stderr for node in (first, *others)))
    found: dict[str, Any] = json.loads(first.stdout)
    assert first.returncode == (1 if named(found) else 0)
    return found


def named(document: dict[str, Any]) -> list[Any]:
    """Nodes and links that were named, the links as lists."""
    found: list[Any] = document["failed_nodes"] + document["slow_nodes"] + document["slow_links"]
    return found


def why(document: dict[str, Any]) -> str:
    """All that the verdicts were made of, for whoever reads why a test failed."""
    nodes = [f"{node['name']} {node['verdict']}: {node['evidence']}" for node in document["nodes"]]
    pairs = [
        f"{pair['a']}–{pair['b']} {pair['verdict']}: {pair['bus_bandwidth_bytes_per_s']}, "
        f"best {pair['best_bytes_per_s']} {pair['reason'] or ''}"
        for pair in document["pairs"]
    ]
    return "\n".join([*nodes, *pairs, *(str(gate) for gate in document["gates"])])


def main(times: int) -> int:
    wrong = 0
    with hosts(COUNT) as four:
        for number in range(1, times + 1):
            with tempfile.TemporaryDirectory() as folder:
                document = scan(four, Path(folder), os.environ | {"OMP_NUM_THREADS": "1"})
            found = named(document)
            wrong += bool(found)
            load = os.getloadavg()[0]
            print(f"{number}: {found or 'nobody'} in {document['seconds']:.0f} s, load {load:.1f}", flush=True)
            if found:
                print(why(document), flush=True)
    print(f"named nobody {times - wrong} of {times} times")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
