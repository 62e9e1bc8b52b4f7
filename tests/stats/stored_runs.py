"""How often the rule for stored runs errs: replays recorded processes of identical code through it.

    python -m tests.stats.stored_runs DIR

DIR holds ``runs.csv`` and ``steps.csv``: fresh processes that trained the same (arms A1 and A2) on a machine that other
jobs shared. Prints a table, and as its last line one JSON object. A slowdown is made by multiplying throughputs.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from statistics import fmean

from llmbench.stats.blocks import half_width
from llmbench.stats.compare import Sample, assumed_spread, change

EQUAL_WITHIN = 0.02
DROPPED = 10  # first steps of each process, which warm up
DISTILLED = Path(__file__).parent / "identical_processes.csv"


@dataclass(frozen=True)
class Process:
    """Mean and fastest step in seconds, half-width of the interval within the process."""

    start: float
    mean: float
    fastest: float
    half_width: float

    @property
    def sample(self) -> Sample:
        return Sample(1 / self.mean, self.half_width, assumed_spread([self.fastest, 2 * self.mean - self.fastest]))


def recorded(folder: Path) -> list[Process]:
    """Every process of identical code, in the order in which they started."""
    with open(folder / "runs.csv", newline="") as file:
        starts = {row["run_id"]: float(row["t_start"]) for row in csv.DictReader(file) if row["arm"] in ("A1", "A2")}
    steps: dict[str, list[float]] = {run: [] for run in starts}
    with open(folder / "steps.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["run_id"] in steps and int(row["step"]) >= DROPPED:
                steps[row["run_id"]].append(int(row["wall_ns"]) / 1e9)
    return sorted(
        (Process(starts[run], fmean(times), min(times), half_width(times)) for run, times in steps.items()),
        key=lambda process: process.start,
    )


def distilled() -> list[Process]:
    """The same without the folder: what the rule needs of each process."""
    with open(DISTILLED, newline="") as file:
        return [Process(*map(float, row)) for row in list(csv.reader(file))[1:]]


def write_distilled(processes: Sequence[Process]) -> None:
    with open(DISTILLED, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["start", "mean", "fastest", "half_width"])
        for one in processes:
            writer.writerow([f"{one.start:.0f}", f"{one.mean:.6g}", f"{one.fastest:.6g}", f"{one.half_width:.4g}"])


def any_two(processes: Sequence[Process]) -> Iterator[tuple[Sequence[Process], Sequence[Process]]]:
    """Every process against every other, hours apart or not."""
    for one, other in permutations(processes, 2):
        yield [one], [other]


def neighbours(processes: Sequence[Process], runs: int) -> Iterator[tuple[Sequence[Process], Sequence[Process]]]:
    """So many consecutive processes against the same number after them, and the other way round."""
    for begin in range(len(processes) - 2 * runs + 1):
        sides = processes[begin : begin + runs], processes[begin + runs : begin + 2 * runs]
        yield sides
        yield sides[::-1]


def shares(sides: Iterator[tuple[Sequence[Process], Sequence[Process]]], slowdown: float = 0.0) -> dict[str, float]:
    """How often which verdict, with candidates that lose this share of their throughput."""
    counted = Counter(
        change(
            [one.sample for one in base],
            [replace(one.sample, speed=one.sample.speed * (1 - slowdown)) for one in cand],
            EQUAL_WITHIN,
        ).verdict
        for base, cand in sides
    )
    return {verdict: counted[verdict] / counted.total() for verdict in ("slower", "faster", "same", "inconclusive")}


OTHER_RULES = {
    "mean more than 5 % longer": lambda base, cand: cand.mean > 1.05 * base.mean,
    "intervals within each run": lambda base, cand: (
        cand.mean * (1 - cand.half_width) > base.mean * (1 + base.half_width)
    ),
}


def main() -> None:
    processes = recorded(Path(sys.argv[1])) if len(sys.argv) > 1 else distilled()
    designs = {"any 1 against any 1": lambda: any_two(processes)}
    for runs in (1, 2, 3, 5, 10):
        designs[f"{runs} against the next {runs}"] = lambda runs=runs: neighbours(processes, runs)
    print(f"{len(processes)} processes of identical code; share called slower, by what CAND loses of its throughput")
    print(f"{'runs':26}" + "".join(f"{loss:>8.0%}" for loss in (0, 0.1, 0.3, 0.5)))
    for name, sides in designs.items():
        print(f"{name:26}" + "".join(f"{shares(sides(), loss)['slower']:8.3f}" for loss in (0, 0.1, 0.3, 0.5)))
    for name, rule in OTHER_RULES.items():
        told = [rule(base[0], cand[0]) for base, cand in any_two(processes)]
        print(f"{name:26}{sum(told) / len(told):8.3f}  (any 1 against any 1)")
    alarms = {name: shares(sides())["slower"] for name, sides in designs.items()}
    print(json.dumps({"false_alarm": {name: round(alarm, 4) for name, alarm in alarms.items()}}))


if __name__ == "__main__":
    main()
