"""How long ``llmbench history`` takes over 10,000 records, and how large its page is.

    python suites/history_budget.py [--limit 3]

Writes the runs to a temporary folder (records as the store writes them, some 3.7 kB each), starts the command as a
user does, and prints for each shape the wall time of the table alone and with the page, the CPU time (as long as the
wall time of an idle machine) and the page's size. Exits with 1 if one of them takes longer than the limit, or a page is
larger than 1.5 MB.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llmbench.results.schema import PlannedCase
from llmbench.results.store import RunFolder
from tests import factory

SHAPES = ((1000, 10), (100, 100), (10, 1000), (10_000, 1))
LARGEST = 1.5e6  # bytes of a page


def history_folder(path: Path, runs: int, cases: int) -> None:
    """Runs with cases of 1 % noise, every fifth of which changed by 8 %; each run's records are written at once."""
    planned = [factory.planned(f"gpt-{number:03}", "eager") for number in range(cases)]
    rng = random.Random(1)
    templates = [_halves(case) for case in planned]
    for number in range(runs):
        changes = {"environment": factory.torch_at("2.13.0" if number >= runs / 2 else "2.12.1")}
        run = factory.night(number, **changes).model_copy(update={"cases": planned})
        folder = RunFolder.create(path / run.started_at[:7] / run.id, run)
        lines = []
        for place, (before, after) in enumerate(templates):
            speed = 11_240 * math.exp(rng.gauss(0, 0.01)) * (0.92 if place % 5 == 0 and number >= runs / 2 else 1)
            text = f'{{"value":{speed},"unit":"tokens/s","ci95":[{0.99 * speed},{1.01 * speed}],"n":80}}'
            lines.append(before + text + after)
        (folder.path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _halves(case: PlannedCase) -> tuple[str, str]:
    """The text of a record, before and after its throughput."""
    text = factory.ok_record(case)[0].model_dump_json(by_alias=True)
    before, mark, rest = text.partition('"throughput":')
    return before + mark, rest[rest.index("}") + 1 :]


def seconds_of(*command: str) -> tuple[float, float]:
    """Wall time, and CPU time of the process."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many")
    parser.add_argument("--shape", type=int, nargs=2, action="append", metavar=("RUNS", "CASES"))
    options = parser.parse_args()
    failed = False
    print(f"{'runs':>7} {'cases':>6} {'table':>8} {'CPU':>8} {'page':>8} {'CPU':>8} {'size':>10}")
    for runs, cases in options.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            history_folder(Path(folder) / "runs", runs, cases)
            page = Path(folder) / "history.html"
            command = (sys.executable, "-m", "llmbench", "history", str(Path(folder) / "runs"))
            table = min(seconds_of(*command) for _ in range(options.repeat))
            whole = min(seconds_of(*command, "--html", str(page)) for _ in range(options.repeat))
            size = page.stat().st_size
        failed |= max(table[0], whole[0]) > options.limit or size > LARGEST
        times = " ".join(f"{seconds:6.2f} s" for seconds in (*table, *whole))
        print(f"{runs:7} {cases:6} {times} {size / 1000:7.0f} kB", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
