"""Seconds to merge what very many ranks measured into one record, held against its budget.

    python suites/merge_budget.py [--ranks 1024] [--steps 500] [--nodes 128] [--rounds 5]

Makes the messages that nodes send of a job, as JSON, and does with them what node 0 does: reads them, writes the logs,
puts them together, and makes fields of a record of them. Prints a line, and as the last line the same as JSON. Exits
with 1 if the median is over 5 s.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llmbench.launch.merge import of_ranks
from llmbench.launch.share import packed, unpacked
from llmbench.launch.target import Outcome, RankState
from llmbench.launch.together import Part, together

BUDGET_SECONDS = 5.0


def message(node: int, ranks: range, steps: int) -> str:
    """What one node sends of its share."""
    chance = random.Random(node)
    told = [
        {
            "rank": rank,
            "host": f"h{node}",
            "device": "NVIDIA H200",
            "window_seconds": 50.0 + chance.random(),
            "step_seconds": [0.1 + 0.01 * chance.random() for _ in range(steps)],
            "communication": {"seconds_per_step": 0.02, "step_seconds": 0.1, "source": "profiler"},
            "peak_allocated_bytes": 10**10 + rank,
            "peak_rss_bytes": 10**9 + rank,
            "memory": {"peak_rss_bytes": 10**9 + rank},
            "load": {},
            "energy": {"joules": 1000.0, "source": "NVML"},
        }
        for rank in ranks
    ]
    losses = [3.0 / (step + 1) for step in range(steps)]
    states = {rank: RankState(pid=rank, host=f"h{node}", phase="evaluate", steps=steps) for rank in ranks}
    outcome = Outcome(result={"losses": losses, "ranks": told}, code=0, ranks=states, steps=steps)
    return json.dumps(packed(outcome))


def merged(messages: list[str], folder: Path) -> dict[str, Any]:
    """What node 0 does with them."""
    log, parts, first = folder / "case.log", [], 0
    for node, text in enumerate(messages):
        outcome = unpacked(json.loads(text), log, node)
        parts.append(Part(node, f"h{node}", first, outcome))
        first += len(outcome.ranks)
    whole = together(parts, log)
    assert whole.result is not None
    return of_ranks(whole.result["ranks"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    each = asked.ranks // asked.nodes
    messages = [message(node, range(each * node, each * (node + 1)), asked.steps) for node in range(asked.nodes)]
    seconds = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            found = merged(messages, Path(folder))
            seconds.append(time.perf_counter() - begin)
        assert len(found["ranks"]) == each * asked.nodes
        assert found["over_ranks"]["step_median_seconds"].max < 0.11
    median = statistics.median(seconds)
    size = sum(map(len, messages))
    print(
        f"{asked.ranks} ranks x {asked.steps} steps of {asked.nodes} nodes, {size / 2**20:.1f} MiB: "
        f"{median:.2f} s (median of {asked.rounds}; budget {BUDGET_SECONDS:g} s)"
    )
    print(json.dumps({"ranks": asked.ranks, "steps": asked.steps, "seconds": seconds, "median": median}))
    sys.exit(median > BUDGET_SECONDS)


if __name__ == "__main__":
    main()
