"""Provokes each fault on two hosts of two ranks each, and prints who is named for it, and how soon.

``python -m tests.cluster.fault_table [FAULT…]``; it needs what tests marked ``hosts`` need.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmbench.results.schema import Record
from tests.conftest import records_of, wait_for

from .faulty import FAULT, FAULT_AT, FAULTS
from .hosts import Hosts, hosts
from .nodes import Nodes, started_nodes

FROM_OUTSIDE = ("node killed", "cable pulled")
DEADLINE = 20.0  # seconds; of the faults that only time tells
LONG = 200.0
SUITE = """
workloads = ["tests.cluster.faulty:Faulty", "regression-linear"]
modes = ["ddp"]
settings = { steps = 20, threads = 1, budget_seconds = 0, deadline_seconds = DEADLINE }

[[override]]
workload = "tests.cluster.faulty:Faulty"
settings = { steps = 200_000, micro_batch_size = 4 }
"""
CASE, NEXT = "tests.cluster.faulty:Faulty/ddp/ws4", "regression-linear/ddp/ws4"


@dataclass
class Told:
    """What became of a fault.

    Attributes:
        record: of the case in which it happened.
        next: of the case after it.
        seconds: from the fault to the record on disk.
    """

    record: Record
    next: Record
    seconds: float


def provoke(fault: str, folder: Path, made: Hosts, environment: Mapping[str, str], deadline: float) -> Told:
    """Runs the suite on two hosts, with this fault."""
    folder.mkdir(parents=True, exist_ok=True)
    suite, happened = folder / "suite.toml", folder / "happened"
    suite.write_text(SUITE.replace("DEADLINE", str(deadline)), encoding="utf-8")
    variables = dict(environment) | {FAULT: fault, FAULT_AT: str(happened)}
    records = folder / "run" / "records.jsonl"
    arguments = ["run", suite, "--nproc-per-node", 2, "--out", folder / "run"]
    with started_nodes(2, arguments, folder, made, variables) as nodes:
        try:
            wait_for(lambda: happened.exists() and happened.read_text(), 200)
            if fault in FROM_OUTSIDE:
                happened.write_text(str(_from_outside(fault, made, nodes)))
            wait_for(lambda: records.exists() and records.stat().st_size, 250)
            told = records.stat().st_mtime  # of the first line; the next case takes longer than our look
            nodes.wait()
        except TimeoutError as late:
            raise TimeoutError(nodes.printed()) from late
        finally:
            made.heal(1)
    found = records_of(folder / "run")
    return Told(found[CASE], found[NEXT], told - float(happened.read_text()))


def _from_outside(fault: str, made: Hosts, nodes: Nodes) -> float:
    at = time.time()
    if fault == "node killed":
        nodes[1].process.kill()
    else:
        made.cut(1)
    return at


def main() -> None:
    faults = sys.argv[1:] or [*FAULTS, *FROM_OUTSIDE]
    print(
        "| fault of rank 3 of 4, on h1 | status | what the record says | seconds | next case |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="llmbench-faults-") as folder, hosts(2) as made:
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "LLMBENCH_CACHE": f"{folder}/cache"}
        for fault in faults:
            deadline = DEADLINE if fault in ("stop", "sleep") else LONG
            told = provoke(fault, Path(folder, fault.replace(" ", "-")), made, environment, deadline)
            assert told.record.error is not None
            message = told.record.error.message
            print(
                f"| {fault} | `{told.record.status}` | {message} | {told.seconds:.1f} | {told.next.status} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
