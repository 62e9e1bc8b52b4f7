"""What the layout in memory does to the noise of `llmbench ab`.

    python -m tests.layout_study [--sessions 8] [--rounds 12] [--load 1]

Holds sessions of identical code (gpt-tiny, eager), in turns: both processes with the layout of the session, and each
with one that the kernel draws. Prints how far the sessions of either kind differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import stdev

from llmbench.cli.ab_progress import AbProgress
from llmbench.launch import sessions
from llmbench.launch.ab import AbRunner, resume
from llmbench.results.ab import AbSession
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.lockstep import METRICS, differences

AB = ("-m", "llmbench", "ab", "smoke", "-w", "gpt-tiny", "-m", "eager", "--self", "--budget", "1", "--progress", "none")
KINDS: dict[str, Callable[[int], dict[str, str]]] = {"of the session": sessions.layout, "drawn": lambda seed: {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--load", type=int, default=1, help="processes that each load a core meanwhile")
    chosen = parser.parse_args()
    for _ in range(chosen.load):
        multiprocessing.Process(target=_burn, daemon=True).start()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="llmbench-layout-") as folder:
        subprocess.run([sys.executable, *AB, "--rounds", str(chosen.rounds), "--out", folder], check=True, stdout=-3)
        runner = resume(AbFolder(Path(folder)), None, AbProgress(None, live=False), always_apart=False)
        for number in range(chosen.sessions):
            for kind, layout in KINDS.items():
                sessions.layout = layout
                found[kind].append(differences(_session(runner, number).rounds))
                told = (f"{metric} {100 * found[kind][-1][metric]:+.2f} %" for metric in METRICS)
                print(number, kind, *told, flush=True)
    for kind, values in found.items():
        spreads = (f"{metric} {100 * stdev(value[metric] for value in values):.2f} %" for metric in METRICS)
        print(f"layout {kind:14} noise from session to session: {', '.join(spreads)}")


def _session(runner: AbRunner, number: int) -> AbSession:
    held = runner.hold(runner.ab.cases[0], number + 1, "lockstep")
    assert held.whole, (held.base.error, held.cand.error)
    return held


def _burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
