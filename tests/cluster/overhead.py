"""What the path of several nodes costs on one: the same suite with and without ``--nnodes 1``, in turns.

    python -m tests.cluster.overhead [--suite smoke-ddp] [--workload W] [--rounds 3] [--set steps=20 …]

The order changes from round to round. Prints the wall and CPU seconds of each run, the medians and their difference,
and as the last line the same as JSON. Exits with 1 if the difference is over 5 s a suite. On a busy machine wall time
says more about the others; CPU time does not see what waits.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .hosts import llmbench_command, with_checkout

BUDGET_SECONDS = 5.0
SIDES: dict[str, list[str]] = {"alone": ["--world-size", "2"], "nnodes": ["--nnodes", "1", "--nproc-per-node", "2"]}


def seconds_of(arguments: list[str], folder: Path, cache: Path) -> tuple[float, float]:
    """Wall and CPU of one run, which must succeed."""
    begin, before = time.monotonic(), cpu_seconds()
    subprocess.run(
        llmbench_command("run", *arguments, "--out", folder, "--progress", "none"),
        env=with_checkout(dict(os.environ) | {"LLMBENCH_CACHE": str(cache)}),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - begin, cpu_seconds() - before


def cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="smoke-ddp")
    parser.add_argument("--workload", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    asked = parser.parse_args()
    common = [asked.suite, "--device", "cpu", *(part for each in asked.set for part in ("--set", each))]
    common += [part for each in asked.workload for part in ("--workload", each)]
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="llmbench-overhead-") as folder:
        seconds_of([*common, *SIDES["alone"]], Path(folder, "first"), Path(folder, "cache"))  # fills the cache
        for number in range(asked.rounds):
            for side in list(SIDES)[:: 1 if number % 2 else -1]:
                out = Path(folder, f"{side}{number}")
                found[side].append(seconds_of([*common, *SIDES[side]], out, Path(folder, "cache")))
                wall, cpu = found[side][-1]
                print(f"round {number + 1}: {side:6} {wall:6.1f} s, of CPUs {cpu:6.1f} s", flush=True)
    medians = {side: [statistics.median(values) for values in zip(*runs, strict=True)] for side, runs in found.items()}
    overhead, of_cpus = (there - here for here, there in zip(medians["alone"], medians["nnodes"], strict=True))
    print(
        f"alone {medians['alone'][0]:.1f} s, --nnodes 1 {medians['nnodes'][0]:.1f} s: "
        f"overhead {overhead:+.1f} s a suite, of CPUs {of_cpus:+.1f} s"
    )
    print(json.dumps({"seconds": found, "overhead_seconds": overhead, "overhead_cpu_seconds": of_cpus}))
    sys.exit(overhead > BUDGET_SECONDS)


if __name__ == "__main__":
    main()
