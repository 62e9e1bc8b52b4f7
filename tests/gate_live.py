"""How often `llmbench ab` is right on this machine, while another process loads a core.

    python -m tests.gate_live [--same 20] [--slower 10] [--slowdown 5] [--load 1] [--out FOLDER]

Runs comparisons of gpt-tiny one after the other, in a random order: of identical code (A/A), and of two environments of
which one makes every step slower (``tests/planted.py``). Prints a line each, a table, and last one JSON line. The
comparisons are kept in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tests.planted import Planted, environment

AB = ("-m", "llmbench", "ab", "smoke", "-w", "gpt-tiny", "-m", "eager", "--json", "--progress", "none")


def main() -> None:
    chosen = _arguments()
    chosen.out.mkdir(parents=True)
    pythons = {
        "same": environment(chosen.out / "clean", "1.0"),
        "slower": environment(chosen.out / "slow", "1.1", Planted(slowdown=chosen.slowdown / 100)),
    }
    order = ["same"] * chosen.same + ["slower"] * chosen.slower
    random.Random(chosen.seed).shuffle(order)
    busy = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(chosen.load)]
    for process in busy:
        process.start()
    found: dict[str, list[dict[str, Any]]] = {"same": [], "slower": []}
    for number, kind in enumerate(order):
        found[kind].append(_compare(chosen, pythons["same"], pythons[kind], chosen.out / f"{number:02}-{kind}"))
        print(f"{number + 1:2}/{len(order)} {kind:6} {_line(found[kind][-1])}", flush=True)
    for process in busy:
        process.kill()
    _tell(found, chosen.slowdown)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", type=int, default=20, help="comparisons of identical code")
    parser.add_argument("--slower", type=int, default=10, help="comparisons with the planted slowdown")
    parser.add_argument("--slowdown", type=float, default=5.0, metavar="PERCENT")
    parser.add_argument("--load", type=int, default=1, help="processes that each load a core meanwhile")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    default = Path("reports", "runs", f"gate-live-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--ab", nargs=argparse.REMAINDER, default=[], help="further options of llmbench ab; last")
    return parser.parse_args()


def _burn() -> None:
    while True:
        pass


def _compare(chosen: argparse.Namespace, base: Path, cand: Path, out: Path) -> dict[str, Any]:
    """One comparison; what it said, and how long the whole command took."""
    begin = time.monotonic()
    command = [sys.executable, *AB, "--base", str(base), "--cand", str(cand), "--out", str(out), *chosen.ab]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr}")
    told = json.loads(done.stdout)
    return {"seconds": seconds, "exit_code": done.returncode, "records": told["records"]}


def _line(found: dict[str, Any]) -> str:
    rows = {row["metric"]: row for row in found["records"]}
    times = [_time(rows[name]) for name in ("step", "total") if name in rows and rows[name]["estimate"]]
    return f"{'  '.join(times)}  {rows['step']['sessions']} sessions, {found['seconds']:.0f} s"


def _time(row: dict[str, Any]) -> str:
    change, noise = 100 * (row["estimate"] - 1), 100 * row["noise"]
    return f"{row['metric']} {row['verdict']:12} {change:+5.1f} % (noise {noise:.1f} %)"


def _verdict(found: dict[str, Any]) -> str:
    verdicts = [row["verdict"] for row in found["records"]]
    return next((one for one in ("slower", "faster", "inconclusive") if one in verdicts), verdicts[0])


def _tell(found: dict[str, list[dict[str, Any]]], slowdown: float) -> None:
    heads = ("runs", "slower", "same", "faster", "inconclusive")
    print(f"\n{'code':12} {'  '.join(heads)}  seconds, median and longest")
    last: dict[str, Any] = {}
    for kind, runs in found.items():
        if not runs:
            continue
        counts = Counter(map(_verdict, runs))
        seconds = [run["seconds"] for run in runs]
        name = "identical" if kind == "same" else f"{slowdown:g} % slower"
        cells = (len(runs), *(counts[head] for head in heads[1:]))
        told = "  ".join(f"{cell:{len(head)}}" for head, cell in zip(heads, cells, strict=True))
        print(f"{name:12} {told}  {median(seconds):.0f}, {max(seconds):.0f}")
        sessions = fmean(run["records"][0]["sessions"] for run in runs)
        effort = {"longest_seconds": round(max(seconds), 1), "mean_sessions": round(sessions, 2)}
        last[kind] = {"runs": len(runs), **counts, **effort}
    print(json.dumps(last))


if __name__ == "__main__":
    main()
