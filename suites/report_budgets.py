"""Weight, build time and main-thread CPU of the report's pages, held against their budgets.

    python suites/report_budgets.py [--rounds 5] [--by cpu|wall] [--only 24x500 …] [--keep FOLDER]

Makes runs of realistic size through the real store, builds each page in fresh processes as `llmbench report` does
(medians of the rounds, imports included), and opens it in Chromium. Prints a table and, as the last line, the same as
JSON. Exits with 1 when a budget is exceeded. On a busy machine wall time says more about the others than about the
page, so that CPU time is judged unless `--by wall` asks for both; both are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llmbench.results.schema import (
    Compile,
    Git,
    Hardware,
    Loss,
    Memory,
    MemorySplit,
    Noise,
    Parameters,
    Parity,
    ParityCheck,
    Peak,
    Phases,
    PlannedCase,
    Range,
    Record,
    Reference,
    Run,
    Sampling,
    Series,
    StepSeconds,
    Throughput,
)
from llmbench.results.store import RunFolder

WORKLOADS = (
    "regression-linear",
    "bert-tiny",
    "gpt-tiny",
    "lora-tiny",
    "bert-small",
    "gpt-small",
    "lora-small",
    "gpt-nano",
)
PRECISIONS = ("", "bf16", "fp16", "bf16-params", "tf32")
TECHNIQUES = ("", "compile", "ac", "fused", "chunked-ce")


@dataclass(frozen=True)
class Budget:
    """A page and its limits; ``show_ms`` is main-thread CPU in Chromium."""

    name: str
    workloads: int
    modes: int
    steps: int
    bytes: int
    seconds: float
    show_ms: float | None


BUDGETS = (
    Budget("24x500", 6, 4, 500, 400_000, 1.0, 150.0),
    Budget("200x2000", 8, 25, 2000, 1_500_000, 3.0, None),
)


@dataclass(frozen=True)
class Measured:
    """Medians; ``show_ms`` is None where there is no Chromium, and ``why`` says so."""

    name: str
    bytes: int
    wall_seconds: float
    cpu_seconds: float
    show_ms: float | None
    why: str | None
    exceeded: list[str]


# Runs as the store leaves them


def modes(amount: int) -> list[str]:
    """So many modes, eager first, in the order of a suite."""
    both = ("+".join(filter(None, (technique, precision))) for precision, technique in product(PRECISIONS, TECHNIQUES))
    return [mode or "eager" for mode in both][:amount]


def make_run(folder: Path, budget: Budget) -> RunFolder:
    """A finished run in which every case trained right."""
    cases = [_planned(workload, mode) for workload in WORKLOADS[: budget.workloads] for mode in modes(budget.modes)]
    store = RunFolder.create(folder, _run(cases))
    for case in cases:
        record, series = _trained(case, budget.steps)
        store.append(record.model_copy(update={"series": store.write_series(case.case, series)}))
    return store


def _run(cases: list[PlannedCase]) -> Run:
    cpu = {"name": "node-17", "os": "Debian GNU/Linux 13", "kernel": "6.12.0", "cpu": "AMD EPYC 9654", "cores": 16}
    return Run(
        id="20261122-081204-7f3a",
        suite="reference",
        suite_file="suites/reference.toml",
        description="Every workload in every mode.",
        cases=cases,
        command=["llmbench", "run", "reference", "--data", "wikitext-2", "--out", "r1"],
        working_folder="/home/someone/work",
        llmbench="0.1.0",
        python="/usr/bin/python3",
        device="cpu",
        data={"name": "wikitext-2", "train_sha256": "a" * 64},
        environment={
            "host": cpu | {"cpus_usable": 16, "memory_bytes": 128 * 2**30},
            "python": {"version": "3.12.8"},
            "torch": {"version": "2.13.0+cpu", "threads": 16},
            "devices": [{"kind": "cpu", "name": "x86_64", "memory_bytes": 128 * 2**30}],
            "packages": {f"package-{number}": f"{number}.0" for number in range(40)},
            "variables": {"OMP_NUM_THREADS": "16"},
        },
        git=Git(commit="9c41e07b" * 5, dirty=False),
        status="done",
        started_at="2026-11-22T08:12:04+00:00",
        finished_at="2026-11-22T09:14:46+00:00",
    )


def _planned(workload: str, mode: str) -> PlannedCase:
    settings = {"steps": 500, "micro_batch_size": 8, "sequence_length": 128, "learning_rate": 4e-3, "seed": 1234}
    settings |= {"warmup_fraction": 0.1, "weight_decay": 0.1, "clip_norm": 1.0, "eval_batches": 8, "grad_accum": 1}
    model = {"vocab_size": 1024, "n_positions": 128, "n_layer": 2, "n_head": 4, "d_model": 128}
    config = {"family": workload.split("-")[0], "model": model, "budget_seconds": 30.0, "global_batch_size": 8}
    return PlannedCase(
        case=f"{workload}/{mode}/ws1", workload=workload, mode=mode, world_size=1, config=config | settings
    )


def _trained(case: PlannedCase, steps: int) -> tuple[Record, Series]:
    """With numbers that differ from case to case in all their digits, as measured ones do."""
    rng = random.Random(case.case)
    speed = rng.uniform(4_000, 15_000)
    mean, half = 1024 / speed, rng.uniform(0.004, 0.014)
    curve = [(4.1 + 2.9 * math.exp(-4.5 * step / steps)) * (1 + 0.03 * rng.uniform(-1, 1)) for step in range(steps)]
    times = [mean * (1 + abs(rng.gauss(0, 0.015))) for _ in range(steps - 1)]
    timed = sum(times[19:])
    check = ParityCheck(
        reference="eager fp64",
        metric="RMS error / RMS of the gradient of the first step",
        limit=1.8e-5,
        value=6.7e-7 * rng.uniform(0.9, 1.1),
        verdict="pass",
        tensor="blocks.1.mlp_norm.weight",
    )
    split = MemorySplit(
        parameters=2_296_832,
        gradients=2_296_832,
        optimizer=4_593_664,
        activations=int(22_110_208 * rng.uniform(0.3, 1)),
    )
    compiled = Compile(
        cold_seconds=rng.uniform(19, 23), warm_seconds=rng.uniform(2, 3), graphs=1, graph_breaks=0, recompiles=0
    )
    record = Record(
        case=case.case,
        workload=case.workload,
        mode=case.mode,
        device="cpu",
        status="ok",
        started_at="2026-11-22T08:12:05+00:00",
        wall_seconds=rng.uniform(10, 20),
        config=case.config,
        parameters=Parameters(total=574_208, trainable=574_208),
        throughput=Throughput(
            value=speed, unit="tokens/s", ci95=(speed * (1 - half), speed * (1 + half)), n=steps - 20
        ),
        step_seconds=StepSeconds(median=mean, mean=mean * 1.01, p95=mean * 1.06, ci95=(mean * 0.99, mean * 1.02)),
        phases=Phases.model_validate(
            {
                "import": rng.uniform(0.1, 0.2),
                "build": rng.uniform(0.02, 0.12),
                "compile": rng.uniform(0.2, 23),
                "warmup": rng.uniform(0.7, 1.1),
                "timed": timed,
                "evaluate": rng.uniform(0.3, 0.5),
            }
        ),
        input_wait_seconds=rng.uniform(0.001, 0.02),
        flops_per_step=3.6e9,
        flops_source="analytic",
        tflops=3.6e9 / mean / 1e12,
        mfu_of_measured_peak=3.6e9 / mean / 1e12 / 0.132,
        measured_peak=Peak(tflops=0.132, source="largest of several fp32 matmuls on this machine"),
        memory=Memory(
            peak_rss_bytes=int(rng.uniform(0.5, 0.6) * 2**30),
            start_rss_bytes=int(0.41 * 2**30),
            capacity_bytes=128 * 2**30,
            estimate_bytes=31_000_000,
            split=split,
            estimate=split,
        ),
        energy_reason="no RAPL counter in /sys/class/powercap (a virtual machine has none)",
        loss=Loss(
            first=curve[0],
            final=curve[-1],
            eval=curve[-1] * 1.02,
            finite=True,
            learned=True,
            references=[Reference(name="unigram", value=6.02, kind="baseline")],
        ),
        metrics={"perplexity": math.exp(curve[-1] * 1.02)},
        facts={"batches_sha256": f"{rng.getrandbits(256):064x}", "threads": 16},
        parity=Parity(**check.model_dump(), checks=[check, check], deterministic=True),
        noise=Noise(cv=0.015 * rng.uniform(0.9, 1.1), verdict="quiet"),
        sampling=Sampling(
            target=0.02,
            half_width=half,
            reached=True,
            steps=steps - 20,
            steps_to_target=rng.randrange(21, steps),
            seconds=timed,
            budget_seconds=30.0,
        ),
        compile=compiled if "compile" in case.mode else None,
        hardware=Hardware(
            samples=44,
            source="Linux sysfs and procfs",
            utilization=Range(mean=rng.uniform(0.95, 1), low=rng.uniform(0.8, 0.9), high=1.0),
            reason="power and memory clock are not sampled on a CPU; no clock (a virtual machine is not told)",
        ),
    )
    return record, Series(loss=[*curve], step_seconds=times, first_timed_step=20)


# Measuring


def build(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds (user and system) of one fresh ``llmbench``."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "llmbench", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"llmbench {' '.join(arguments)} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def show(page: Path, rounds: int) -> tuple[float | None, str | None]:
    """Median milliseconds of main-thread CPU until a page is shown and at rest; or None, and why."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None, "the Python package playwright is not installed"
    named = os.environ.get("LLMBENCH_CHROMIUM")
    chromium = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        return None, "no Chromium on PATH, and LLMBENCH_CHROMIUM names none"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        found = []
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            tab = context.new_page()
            session = context.new_cdp_session(tab)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = _task_seconds(session)
            tab.goto(page.as_uri(), wait_until="load")
            tab.wait_for_timeout(300)  # whatever the script left for later
            found.append(1000 * (_task_seconds(session) - before))
            context.close()
        browser.close()
    return statistics.median(found), None


def _task_seconds(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")


def measure(budget: Budget, folder: Path, rounds: int, by: str) -> Measured:
    run = folder / budget.name
    make_run(run, budget)
    page = run / "report.html"
    times = [build(["report", str(run)]) for _ in range(rounds)]
    wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
    size = page.stat().st_size
    shown, why = show(page, rounds)
    judged = {"cpu": cpu, "wall": max(cpu, wall)}[by]
    limits = [("bytes", size, budget.bytes), ("seconds", judged, budget.seconds), ("show_ms", shown, budget.show_ms)]
    over = [name for name, value, most in limits if value is not None and most is not None and value > most]
    return Measured(budget.name, size, wall, cpu, shown, why, over)


def table(found: Iterable[tuple[Budget, Measured]]) -> str:
    lines = [f"{'page':<10} {'kB (of)':>14} {'CPU s':>7} {'wall s':>7} {'(of)':>5} {'show, CPU ms (of)':>19}"]
    for budget, one in found:
        shown = "–" if one.show_ms is None else f"{one.show_ms:.0f}"
        most = "–" if budget.show_ms is None else f"{budget.show_ms:.0f}"
        weight = f"{one.bytes / 1000:.0f} ({budget.bytes / 1000:.0f})"
        line = f"{one.name:<10} {weight:>14} {one.cpu_seconds:>7.2f} {one.wall_seconds:>7.2f} "
        line += f"{f'({budget.seconds:g})':>5} {f'{shown} ({most})':>19}"
        lines.append(line + (f"  EXCEEDED: {', '.join(one.exceeded)}" if one.exceeded else ""))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement; medians are reported")
    parser.add_argument("--by", choices=("cpu", "wall"), default="cpu", help="which time a budget is held against")
    parser.add_argument("--only", nargs="+", choices=[budget.name for budget in BUDGETS], help="these pages alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave runs and pages there")
    options = parser.parse_args()
    chosen = [budget for budget in BUDGETS if not options.only or budget.name in options.only]
    with tempfile.TemporaryDirectory(prefix="llmbench-") as scratch:
        folder = options.keep or Path(scratch)
        folder = folder.resolve()
        found = [(budget, measure(budget, folder, options.rounds, options.by)) for budget in chosen]
    print(table(found))
    for why in {one.why for _, one in found if one.why}:
        print(f"not shown in a browser: {why}", file=sys.stderr)
    print(json.dumps({"rounds": options.rounds, "by": options.by, "pages": [asdict(one) for _, one in found]}))
    return 1 if any(one.exceeded for _, one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
