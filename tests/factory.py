"""Runs as the worker and the store would leave them, made of real objects and written through the real store."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from llmbench.results.schema import (
    Energy,
    Error,
    Git,
    Loss,
    Memory,
    Noise,
    Parameters,
    Parity,
    Peak,
    Phases,
    PlannedCase,
    Record,
    Reference,
    Run,
    Series,
    StepSeconds,
    Throughput,
)
from llmbench.results.store import RunFolder

UNIT = {"regression-linear": "samples/s"}
SPEED = {"regression-linear": 412_000.0, "bert-tiny": 9_310.0, "gpt-tiny": 11_240.0, "lora-tiny": 13_800.0}
SPEEDUP = {"eager": 1.0, "compile": 1.42, "bf16": 0.71, "compile+bf16": 1.87}
ENVIRONMENT: dict[str, Any] = {
    "host": {
        "name": "node-17",
        "os": "Debian GNU/Linux 13 (trixie)",
        "kernel": "6.12.0",
        "cpu": "AMD EPYC 9654",
        "cores": 16,
        "cpus_usable": 16,
        "memory_bytes": 128 * 2**30,
    },
    "python": {"version": "3.12.8"},
    "torch": {"version": "2.13.0+cpu", "threads": 16, "compiler": "/usr/bin/g++"},
    "devices": [{"kind": "cpu", "name": "x86_64", "memory_bytes": 128 * 2**30}],
    "packages": {"torch": "2.13.0", "numpy": "2.3.1"},
    "variables": {"OMP_NUM_THREADS": "16"},
}


def make_run(cases: list[PlannedCase], **changes: Any) -> Run:
    values: dict[str, Any] = {
        "id": "20261122-081204-7f3a",
        "suite": "smoke",
        "suite_file": "suites/smoke.toml",
        "description": "Every workload of the mission at its smallest size, in every mode of one process.",
        "cases": cases,
        "command": ["llmbench", "run", "smoke", "--data", "../shared data/wikitext-2", "--out", "r1"],
        "working_folder": "/home/someone/work",
        "llmbench": "0.1.0",
        "python": "/usr/bin/python3.12",
        "device": "cpu",
        "data": {"name": "wikitext-2", "train_sha256": "a" * 64},
        "environment": ENVIRONMENT,
        "git": Git(commit="9c41e07b" * 5, dirty=False),
        "status": "done",
        "started_at": "2026-11-22T08:12:04+00:00",
        "finished_at": "2026-11-22T08:14:46+00:00",
    }
    return Run(**(values | changes))


def planned(workload: str, mode: str, world_size: int = 1) -> PlannedCase:
    return PlannedCase(
        case=f"{workload}/{mode}/ws{world_size}",
        workload=workload,
        mode=mode,
        world_size=world_size,
        config=config(workload),
    )


def config(workload: str) -> dict[str, Any]:
    settings = {
        "steps": 100,
        "micro_batch_size": 8,
        "sequence_length": 128,
        "learning_rate": 4e-3,
        "warmup_fraction": 0.1,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "seed": 1234,
        "threads": None,
        "deadline_seconds": 900.0,
        "eval_batches": 8,
        "compile_scope": "blocks",
    }
    if workload.startswith("regression"):
        del settings["sequence_length"]
    return {
        "family": workload.split("-")[0],
        "model": {"vocab_size": 1024, "n_layer": 2, "n_head": 4, "d_model": 128},
    } | settings


def references(workload: str) -> list[Reference]:
    unigram = Reference(name="unigram", value=6.02, kind="baseline")
    return {
        "regression": [Reference(name="least squares", value=0.0102, kind="floor")],
        "bert": [unigram],
        "gpt": [unigram, Reference(name="source entropy", value=3.05, kind="floor")],
        "lora": [unigram, Reference(name="base before adaptation", value=5.27, kind="baseline")],
    }[workload.split("-")[0]]


def losses(workload: str, mode: str, steps: int) -> list[float | None]:
    """A curve that falls with noise; nearly the same in all modes of a workload, as parity asks for."""
    noise, drift = random.Random(workload), random.Random(workload + mode)
    first, last = (8.9, 0.0104) if workload.startswith("regression") else (6.95, 4.1)
    rough = 0.25 if workload.startswith("regression") else 0.03
    return [
        (last + (first - last) * math.exp(-4.5 * step / steps)) * (1 + rough * noise.uniform(-1, 1))
        + 0.004 * last * drift.gauss(0, 1)
        for step in range(steps)
    ]


def ok_record(case: PlannedCase, *, steps: int = 100, noisy: bool = False) -> tuple[Record, Series]:
    rng = random.Random(case.case)
    curve = losses(case.workload, case.mode, steps)
    speed = SPEED.get(case.workload, 5_000.0) * SPEEDUP.get(case.mode, 1.2) * rng.uniform(0.96, 1.05)
    unit = UNIT.get(case.workload, "tokens/s")
    mean = 1024 / speed
    spread = 0.12 if noisy else 0.015
    times = [mean * (1 + abs(rng.gauss(0, spread)) + (rng.random() < 0.03) * 0.2) for _ in range(steps - 1)]
    half = 0.083 if noisy else rng.uniform(0.004, 0.014)
    text = unit == "tokens/s"
    last = sum(value for value in curve[-10:] if value is not None) / 10
    held_out = last * 1.02
    metrics: dict[str, float | None] = {"perplexity": math.exp(held_out)} if text else {"mse": held_out, "r2": 0.9967}
    if case.workload.startswith("bert"):
        metrics = {"masked_accuracy": 0.2714} | metrics
    rss = int(rng.uniform(0.62, 0.9) * 2**30)
    record = Record(
        case=case.case,
        workload=case.workload,
        mode=case.mode,
        world_size=case.world_size,
        device="cpu",
        status="ok",
        started_at="2026-11-22T08:12:05+00:00",
        wall_seconds=12.4,
        config=case.config,
        parameters=Parameters(total=574_208, trainable=16_384 if case.workload.startswith("lora") else 574_208),
        throughput=Throughput(value=speed, unit=unit, ci95=(speed * (1 - half), speed * (1 + half)), n=steps - 20),
        step_seconds=StepSeconds(median=mean, mean=mean * 1.01, p95=mean * 1.06, ci95=(mean * 0.99, mean * 1.02)),
        phases=Phases(
            **{"import": 1.9, "build": 0.12, "compile": 21.0 if "compile" in case.mode else 0.3},
            warmup=0.9,
            timed=8.8,
            evaluate=0.4,
        ),
        input_wait_seconds=0.011,
        flops_per_step=3.6e9,
        tflops=0.041,
        mfu_of_measured_peak=0.31,
        measured_peak=Peak(tflops=0.132, source="matmul 2048, fp32"),
        memory=Memory(
            peak_rss_bytes=rss,
            start_rss_bytes=int(0.41 * 2**30),
            capacity_bytes=128 * 2**30,
            estimate_bytes=int(0.11 * 2**30),
        ),
        energy_reason="no NVML device; RAPL needs root to read /sys/class/powercap",
        loss=Loss(
            first=curve[0],
            final=last,
            eval=held_out,
            finite=True,
            learned=True,
            references=references(case.workload),
        ),
        metrics=metrics,
        facts={"frozen_unchanged": True, "merge_difference": 2.1e-7} if case.workload.startswith("lora") else {},
        parity=None
        if case.mode == "eager"
        else Parity(
            reference=f"{case.workload}/eager/ws1",
            metric="largest relative difference of the smoothed loss",
            limit=1e-3,
            value=3.1e-5,
            verdict="pass",
        ),
        noise=Noise(
            cv=spread,
            verdict="noisy" if noisy else "quiet",
            cause="another process used 38 % of the CPUs; stop it, or measure longer with `--set steps=400`"
            if noisy
            else None,
        ),
    )
    return record, Series(loss=curve, step_seconds=times, first_timed_step=20)


def broken_record(case: PlannedCase, status: str, error: Error | None) -> Record:
    return Record(
        case=case.case,
        workload=case.workload,
        mode=case.mode,
        world_size=case.world_size,
        device="cpu",
        status=status,
        error=error,
        started_at="2026-11-22T08:12:05+00:00",
        wall_seconds=3.2,
        config=case.config,
    )


def add(folder: RunFolder, record: Record, series: Series | None = None, log: str | None = None) -> None:
    """Appends a record as the runner does: series and log first."""
    if series is not None:
        record.series = folder.write_series(record.case, series)
    if log is not None:
        record.log = folder.log_path(record.case)
        (folder.path / record.log).write_text(log, encoding="utf-8")
    folder.append(record)


OUT_OF_MEMORY = Error(
    type="OutOfMemoryError",
    message="killed by the kernel at step 0: the memory limit of the cgroup (2.00 GiB) was reached",
    hint="a smaller batch: `--set micro_batch_size=4`",
)
TRACEBACK = (
    "llmbench: import\nllmbench: build\nllmbench: compile\n\x1b[31mTraceback (most recent call last):\x1b[0m\n"
    + '  File "case.py", line 88, in run_case\n    loss.backward()\n'
    + "RuntimeError: DefaultCPUAllocator: can't allocate memory\n"
)


def plain_run(path: Path, workloads: list[str], modes: list[str], *, steps: int = 100, **changes: Any) -> RunFolder:
    """Every case passed."""
    cases = [planned(workload, mode) for workload in workloads for mode in modes]
    folder = RunFolder.create(path, make_run(cases, **changes))
    for case in cases:
        add(folder, *ok_record(case, steps=steps))
    return folder


WORKLOADS = ["regression-linear", "bert-tiny", "gpt-tiny", "lora-tiny"]
MODES = ["eager", "compile", "bf16", "compile+bf16"]


def smoke_run(path: Path, *, steps: int = 100) -> RunFolder:
    """A run as one sees it: most passed, one out of memory, one invalid, one noisy, one not better than eager."""
    cases = [planned(workload, mode) for workload in WORKLOADS for mode in MODES]
    folder = RunFolder.create(path, make_run(cases))
    for case in cases:
        record, series = ok_record(case, steps=steps, noisy=case.case == "bert-tiny/bf16/ws1")
        if case.case == "lora-tiny/compile+bf16/ws1":
            add(folder, broken_record(case, "oom", OUT_OF_MEMORY), log=TRACEBACK)
            continue
        if case.case == "gpt-tiny/bf16/ws1":
            record.status = "invalid"
            record.parity.verdict, record.parity.value = "fail", 0.083
            series.loss = [value * (1 + 0.1 * step / steps) for step, value in enumerate(series.loss)]
        if case.case == "regression-linear/compile/ws1":
            base = SPEED["regression-linear"]
            record.throughput = Throughput(value=base, unit="samples/s", ci95=(base * 0.97, base * 1.03), n=80)
        if case.mode == "eager":
            record.energy, record.energy_reason = Energy(joules=842.0, source="RAPL package"), None
        add(folder, record, series)
    return folder
