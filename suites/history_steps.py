"""How often ``llmbench history`` sees a step where there is none, and how often it finds one that is there.

    python suites/history_steps.py [--series 1000] [--recorded DIR]

Simulates series of identical code, of several kinds of noise and lengths, and prints the share of them with a step;
then series with one step in 2 % normal noise, and prints the share in which exactly that step was found, at its run or
the one beside it. ``--recorded`` reads real runs of identical code from DIR/steps.csv (``run_id, arm, step, wall_ns,
thread_cpu_ns``; arms A1 and A2), takes the minimum and the median step of each, and prints the steps of each series,
and of the ratio of both arms.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llmbench.stats.changes import changes

LENGTHS = (6, 8, 10, 15, 20, 30, 60, 120)
STEPS = ((12, 6), (15, 10), (20, 17), (30, 27), (30, 20), (40, 24), (100, 90))
SIZES = (-0.03, -0.05, -0.08, -0.15)


def like_the_one_before(share: float) -> Callable[[random.Random, int], list[float]]:
    def noise(rng: random.Random, count: int) -> list[float]:
        values = [rng.gauss(0, 1)]
        while len(values) < count:
            values.append(share * values[-1] + math.sqrt(1 - share**2) * rng.gauss(0, 1))
        return values

    return noise


NOISE: dict[str, Callable[[random.Random, int], list[float]]] = {
    "normal": lambda rng, count: [rng.gauss(0, 1) for _ in range(count)],
    "exponential": lambda rng, count: [-rng.expovariate(1) for _ in range(count)],
    "Student's t, 3": lambda rng, count: [
        rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1.5, 1 / 1.5)) for _ in range(count)
    ],
    "correlated 0.3": like_the_one_before(0.3),
    "correlated 0.6": like_the_one_before(0.6),
}


def false_steps(series: int) -> None:
    print(f"share of {series} series without a step in which one was seen, %")
    print(f"{'runs':16}", *(f"{count:6}" for count in LENGTHS))
    for name, noise in NOISE.items():
        shares = []
        for count in LENGTHS:
            seen = sum(bool(changes(noise(random.Random(f"{name} {count} {seed}"), count))) for seed in range(series))
            shares.append(f"{100 * seen / series:6.1f}")
        print(f"{name:16}", *shares, flush=True)


def found_steps(series: int) -> None:
    print(f"\nshare of {series} series with a step, in 2 % noise, in which it was found, %")
    print(f"{'runs (after)':16}", *(f"{f'{count} ({count - at})':>9}" for count, at in STEPS))
    for size in SIZES:
        shares = []
        for count, at in STEPS:
            found = 0
            for seed in range(series):
                rng = random.Random(f"{size} {count} {at} {seed}")
                values = [rng.gauss(0, 0.02) + (math.log1p(size) if index >= at else 0) for index in range(count)]
                seen = changes(values, smallest=0.01)
                found += len(seen) == 1 and abs(seen[0].index - at) <= 1
            shares.append(f"{100 * found / series:9.0f}")
        print(f"{f'{100 * size:.0f} %':16}", *shares, flush=True)


def recorded(folder: Path) -> None:
    """Blocks of identical code on a machine whose load changed."""
    steps: dict[tuple[str, str], list[int]] = {}
    with open(folder / "steps.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["arm"] in ("A1", "A2") and int(row["step"]) >= 10:
                steps.setdefault((row["arm"], row["run_id"]), []).append(int(row["wall_ns"]))
    for name, statistic in (("minimum", min), ("median", median)):
        series = {
            arm: [math.log(statistic(times)) for (one, _), times in steps.items() if one == arm] for arm in ("A1", "A2")
        }
        series["A2 / A1"] = [b - a for a, b in zip(series["A1"], series["A2"], strict=True)]
        for arm, values in series.items():
            told = [f"{100 * math.expm1(one.size):+.1f} % at run {one.index}" for one in changes(values, smallest=0.01)]
            print(f"{name} step of {len(values)} runs, {arm}: {', '.join(told) or 'no step'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=1000, metavar="N")
    parser.add_argument("--recorded", type=Path, metavar="DIR")
    options = parser.parse_args()
    if options.recorded:
        recorded(options.recorded)
        return
    false_steps(options.series)
    found_steps(options.series)


if __name__ == "__main__":
    main()
