"""What the layout in memory does to the noise of `llmbench ab`.

    python -m tests.layout_study [--sessions 12] [--load 1]

Holds sessions of identical code (gpt-tiny, eager), in turns: both processes with the layout of the session, and each
with one that the kernel draws. Prints how far the sessions of either kind differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import stdev

from llmbench.cli.ab_progress import AbProgress
from llmbench.launch import ab
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.lockstep import METRICS, differences

AB = ("-m", "llmbench", "ab", "smoke", "-w", "gpt-tiny", "-m", "eager", "--self", "--budget", "1", "--progress", "none")
KINDS: dict[str, Callable[[str], dict[str, str]]] = {"of the session": ab.layout, "drawn": lambda seed: {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--load", type=int, default=1, help="processes that each load a core meanwhile")
    chosen = parser.parse_args()
    for _ in range(chosen.load):
        multiprocessing.Process(target=_burn, daemon=True).start()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        runners = {kind: stack.enter_context(_runner(stack)) for kind in KINDS}
        for number in range(1, chosen.sessions + 1):
            for kind, layout in KINDS.items():
                ab.layout = layout
                held = runners[kind].hold(runners[kind].ab.cases[0], number, "lockstep")
                found[kind].append(differences(held.rounds))
                told = (f"{metric} {100 * found[kind][-1][metric]:+.2f} %" for metric in METRICS)
                print(number, kind, *told, flush=True)
    for kind, values in found.items():
        spreads = (f"{metric} {100 * stdev(value[metric] for value in values):.2f} %" for metric in METRICS)
        print(f"layout {kind:14} noise from session to session: {', '.join(spreads)}")


@contextmanager
def _runner(stack: ExitStack) -> Iterator[ab.AbRunner]:
    """A comparison of one environment with itself, that can hold sessions."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmbench-layout-")), "ab")
    subprocess.run([sys.executable, *AB, "--out", folder], check=True, stdout=subprocess.DEVNULL)
    runner = ab.resume(AbFolder(folder), None, AbProgress(None, live=False), always_apart=False)
    with runner.servers:
        yield runner


def _burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
