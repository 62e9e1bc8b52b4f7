"""What ``llmbench compare`` says of runs of identical code: every run below a folder against every other.

    python -m tests.stats.all_pairs DIR

Prints verdicts of speed, memory and loss, and how far the runs lie apart.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from random import Random

from llmbench.results.sides import Side, load_side
from llmbench.stats.comparison import Rules
from llmbench.stats.judge import compare_sides

DRAWS = 200  # of several runs on each side, in random order


def sides_of(whole: Side, runs: int) -> Iterator[tuple[Side, Side]]:
    """One run on each side: every pair, both ways. Several: random draws."""
    if runs == 1:
        for one, other in permutations(whole.sessions, 2):
            yield Side(whole.path, [one]), Side(whole.path, [other])
        return
    rng = Random(runs)
    for _ in range(DRAWS):
        drawn = rng.sample(list(whole.sessions), 2 * runs)
        yield Side(whole.path, drawn[:runs]), Side(whole.path, drawn[runs:])


def verdicts(pairs: Iterator[tuple[Side, Side]]) -> dict[str, Counter[str]]:
    """How often which verdict of cases, and which exit code."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("speed", "memory", "loss", "exit")}
    for base, cand in pairs:
        comparison = compare_sides(base, cand, Rules())
        found["exit"][str(comparison.exit_code)] += 1
        found["speed"] += comparison.counts
        found["memory"].update(row.memory.verdict for row in comparison.rows if row.memory)
        found["loss"].update(row.loss.verdict for row in comparison.rows if row.loss)
    return found


def apart(values: Sequence[float]) -> str:
    return f"{max(values) / min(values):.3f}" if values else "–"


def main() -> None:
    whole = load_side(Path(sys.argv[1]))
    print(f"{len(whole.sessions)} runs; verdicts of cases:")
    for runs in (1, 2, 3, 5):
        if 2 * runs <= len(whole.sessions):
            told = {name: dict(counted) for name, counted in verdicts(sides_of(whole, runs)).items()}
            print(f"{runs} against {runs}: {told}")
    print("largest ratio of any two runs:")
    for case in whole.cases:
        records = [trained.record for trained in whole.of(case)]
        speeds = [record.throughput.value for record in records if record.throughput]
        peaks = [record.memory.peak_rss_bytes for record in records if record.memory and record.memory.peak_rss_bytes]
        print(f"{case}: throughput {apart(speeds)}, resident memory {apart(peaks)}")


if __name__ == "__main__":
    main()
