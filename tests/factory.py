"""Runs as the worker and the store would leave them, made of real objects and written through the real store."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmbench.errors import UserError
from llmbench.results.ab import SIDES, Ab, AbCase, AbGate, AbSession, AbSide, Round, Trained, Turn
from llmbench.results.ab_folder import AbFolder
from llmbench.results.schema import (
    Bandwidth,
    Communication,
    Compile,
    Energy,
    Error,
    Git,
    Hardware,
    Loss,
    Memory,
    MemorySplit,
    MemoryTimeline,
    Node,
    Noise,
    Parameters,
    Parity,
    ParityCheck,
    Peak,
    Phases,
    PlannedCase,
    Range,
    Rank,
    Record,
    Reference,
    Run,
    Sampling,
    Scaling,
    Series,
    StepSeconds,
    Throughput,
)
from llmbench.results.store import RunFolder
from llmbench.suite.modes import canonical, compiles, rungs

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
        config=config(workload, mode, world_size),
    )


def config(workload: str, mode: str = "eager", world_size: int = 1) -> dict[str, Any]:
    parts = mode.split("+")
    tensor = world_size if "tp" in parts else 1
    stages = world_size if "pp" in parts else 1
    accumulated = 4 if "accum4" in parts else 1
    replicas = world_size // tensor // stages
    settings = {
        "steps": 100,
        "micro_batch_size": max(1, 8 // replicas // accumulated),
        "sequence_length": 128,
        "learning_rate": 4e-3,
        "warmup_fraction": 0.1,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "seed": 1234,
        "threads": None,
        "deadline_seconds": 900.0,
        "eval_batches": 8,
        "interval_target": 0.02,
        "budget_seconds": 30.0,
        "scaling": "strong",
        "tensor_parallel_size": None,
        "pipeline_micro_batches": 4,
        "data_parallel": replicas,
        "tensor_parallel": tensor,
        "pipeline_stages": stages,
        "global_batch_size": 8,
        "grad_accum": accumulated,
    }
    if workload.startswith("regression"):
        del settings["sequence_length"]
    return {
        "family": workload.split("-")[0],
        "model": {"vocab_size": 1024, "n_positions": 128, "n_layer": 2, "n_head": 4, "d_model": 128},
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


FASTER = {"compile": 1.42, "bf16": 1.31, "fused": 1.06, "ac": 0.82, "accum4": 0.97, "chunked-ce": 1.04, "pp": 0.8}


def speedup(mode: str) -> float:
    """Over eager, as far as a factory knows: each ingredient does its own."""
    return SPEEDUP.get(mode) or math.prod(FASTER.get(part, 1.02) for part in mode.split("+"))


def ok_record(case: PlannedCase, *, steps: int = 100, noisy: bool = False) -> tuple[Record, Series]:
    """A case that trained right, with all that a CPU can tell of it."""
    rng = random.Random(case.case)
    curve = losses(case.workload, case.mode, steps)
    speed = SPEED.get(case.workload, 5_000.0) * speedup(case.mode) * rng.uniform(0.96, 1.05)
    speed *= case.world_size**0.85
    unit = UNIT.get(case.workload, "tokens/s")
    mean = 1024 / speed
    flops = 4.1e7 if case.workload.startswith("regression") else 3.6e9
    spread = 0.12 if noisy else 0.015
    times = [mean * (1 + abs(rng.gauss(0, spread)) + (rng.random() < 0.03) * 0.2) for _ in range(steps - 1)]
    half = 0.083 if noisy else rng.uniform(0.004, 0.014)
    text = unit == "tokens/s"
    last = sum(value for value in curve[-10:] if value is not None) / 10
    held_out = last * 1.02
    metrics: dict[str, float | None] = {"perplexity": math.exp(held_out)} if text else {"mse": held_out, "r2": 0.9967}
    if case.workload.startswith("bert"):
        metrics = {"masked_accuracy": 0.2714} | metrics
    facts: dict[str, Any] = {
        "batches_sha256": f"{random.Random(case.workload).getrandbits(256):064x}",
        "weights_sha256": f"{random.Random(case.workload + 'w').getrandbits(256):064x}",
        "threads": 16,
    }
    if case.workload.startswith("lora"):
        facts |= {"frozen_unchanged": True, "merge_difference": 2.1e-7}
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
            **{"import": rng.uniform(0.1, 0.2), "build": rng.uniform(0.02, 0.12)},
            compile=rng.uniform(19, 23) if compiled(case.mode) else rng.uniform(0.2, 0.4),
            warmup=rng.uniform(0.7, 1.1),
            timed=sum(times[19:]),
            evaluate=rng.uniform(0.3, 0.5),
        ),
        input_wait_seconds=rng.uniform(0.001, 0.02),
        flops_per_step=flops,
        flops_source="analytic",
        tflops=flops / mean / 1e12,
        mfu_of_measured_peak=flops / mean / 1e12 / case.world_size / peak_of(case.mode),
        measured_peak=Peak(tflops=peak_of(case.mode), source="largest of several matmuls on this machine"),
        measured_bandwidth=Bandwidth(bytes_per_second=21.4e9, source="fastest copy of a large tensor on this machine"),
        memory=memory(case, rng),
        energy_reason="no RAPL counter in /sys/class/powercap (a virtual machine has none)",
        loss=Loss(
            first=curve[0],
            final=last,
            eval=held_out,
            finite=True,
            learned=True,
            references=references(case.workload),
        ),
        metrics=metrics,
        facts=facts,
        parity=parity(case, rng),
        noise=Noise(
            cv=spread * rng.uniform(0.9, 1.1),
            verdict="noisy" if noisy else "quiet",
            cause="other processes used 6.1 CPUs; stop them; time more steps: --set steps=400" if noisy else None,
        ),
        sampling=Sampling(
            target=0.02,
            half_width=half,
            reached=half <= 0.02,
            steps=steps - 20,
            steps_to_target=None if noisy else rng.randrange(21, max(22, steps - 20)),
            extra_steps=rng.randrange(0, 12),
            seconds=sum(times[19:]),
            budget_seconds=30.0,
        ),
        compile=Compile(
            cold_seconds=rng.uniform(19, 23),
            cold_at="2026-11-20T17:02:11+00:00",
            warm_seconds=rng.uniform(2, 3),
            graphs=1,
            graph_breaks=0,
            recompiles=0,
        )
        if compiled(case.mode)
        else None,
        hardware=Hardware(
            samples=44,
            source="Linux sysfs and procfs",
            utilization=Range(mean=rng.uniform(0.95, 1), low=rng.uniform(0.8, 0.9), high=1.0),
            reason="power and memory clock are not sampled on a CPU; no clock (a virtual machine is not told); "
            "no temperature sensor (a virtual machine has none); no throttle counters",
        ),
    )
    if case.world_size > 1:
        record = record.model_copy(update=several(case, mean, sum(times[19:]), rng))
    return record, Series(
        loss=curve, step_seconds=times, first_timed_step=20, memory=memory_timeline(record, random.Random(case.case))
    )


def memory_timeline(record: Record, rng: random.Random) -> MemoryTimeline:
    """As the control side samples it: every 0.1 s, thinned; full from the first step on, and a little less between."""
    assert record.memory is not None
    assert record.memory.peak_rss_bytes is not None
    assert record.memory.start_rss_bytes is not None
    phases, begin = {}, 0.0
    for name in ("import_", "build", "compile", "warmup", "timed", "evaluate"):
        phases[name.rstrip("_")] = round(begin, 3)
        begin += getattr(record.phases, name)
    amount = min(120, max(12, round(begin * 10)))
    seconds = [round(begin * index / (amount - 1), 3) for index in range(amount)]
    low, high = record.memory.start_rss_bytes, record.memory.peak_rss_bytes
    used = [low if at < phases["compile"] else high - int(rng.random() * (high - low) / 4) for at in seconds]
    return MemoryTimeline(seconds=seconds, bytes=used, source="resident memory of the process", phases=phases)


def compiled(mode: str) -> bool:
    try:
        return compiles(canonical(mode))
    except UserError:  # a mode of the test's own
        return False


def peak_of(mode: str) -> float:
    """TFLOP/s of the mode's arithmetic."""
    return 0.287 if any(part in mode for part in ("bf16", "fp16", "fp8")) else 0.132


LIGHTER = {"ac": 0.3, "sac": 0.7, "bf16": 0.75, "chunked-ce": 0.6, "accum4": 0.3}  # activations


def memory(case: PlannedCase, rng: random.Random) -> Memory:
    share = math.prod(LIGHTER.get(part, 1.0) for part in case.mode.split("+"))
    activations = int(22_110_208 * share) // case.world_size
    estimate = MemorySplit(parameters=2_296_832, gradients=2_296_832, optimizer=4_593_664, activations=activations)
    total, start = 4 * 2_296_832 + activations, int(0.41 * 2**30)
    return Memory(
        peak_rss_bytes=start + int(total * rng.uniform(3.0, 3.2)),
        start_rss_bytes=start,
        capacity_bytes=128 * 2**30,
        estimate_bytes=total,
        split=MemorySplit(
            parameters=2_296_832,
            gradients=2_296_832,
            optimizer=4_593_776,
            activations=int(activations * rng.uniform(0.98, 1.03)),
        ),
        estimate=estimate,
    )


def parity(case: PlannedCase, rng: random.Random) -> Parity:
    gradients = ParityCheck(
        reference="eager fp64",
        metric="RMS error / RMS of the gradient of the first step",
        limit=2.2e-2 if "bf16" in case.mode else 1.8e-5,
        value=4e-3 * rng.uniform(0.9, 1.1) if "bf16" in case.mode else 6.7e-7 * rng.uniform(0.9, 1.1),
        verdict="pass",
        tensor="blocks.1.mlp_norm.weight",
    )
    curve = ParityCheck(
        reference=f"{case.workload}/eager/ws1",
        metric="largest relative difference of the loss in 100 steps, smoothed over 10",
        limit=1e-2 if "bf16" in case.mode else 1e-3,
        value=3.1e-5 * rng.uniform(0.9, 1.1),
        verdict="pass",
    )
    checks = [gradients] if case.mode == "eager" and case.world_size == 1 else [gradients, curve]
    return Parity(**gradients.model_dump(), checks=checks, deterministic=True)


def several(case: PlannedCase, step: float, window: float, rng: random.Random) -> dict[str, Any]:
    """What only several processes tell."""
    ranks = [
        Rank(
            rank=rank,
            host="node-17",
            device="cpu",
            window_seconds=window * (1 - 0.002 * rank),
            communication_seconds=step * rng.uniform(0.1, 0.2),
            peak_rss_bytes=int(rng.uniform(0.5, 0.6) * 2**30),
        )
        for rank in range(case.world_size)
    ]
    mean = sum(rank.communication_seconds or 0.0 for rank in ranks) / len(ranks)
    return {
        "ranks": ranks,
        "rank_spread": 0.002,
        "communication": Communication(seconds_per_step=mean, share=mean / step, source="torch.profiler, gloo"),
        "scaling": Scaling(
            reference=f"{case.workload}/{case.mode}/ws1", kind="strong", efficiency=case.world_size**-0.15
        ),
    }


NODE_FACTS = {
    "torch.version": "2.13.0+cu130",
    "driver": "580.65.06",
    "host.kernel": "6.12.0",
    "python.version": "3.12.8",
    "host.cpu": "AMD EPYC 9654",
    "devices": ", ".join(["NVIDIA H200"] * 2),
}


def nodes(amount: int, changed: Mapping[int, Mapping[str, str]] | None = None) -> list[Node]:
    """Nodes of two devices each, alike but for what is changed, by node rank."""
    return [
        Node(
            node_rank=rank,
            host=f"h{rank}",
            address=f"10.0.0.{rank}",
            processes=2,
            devices=["NVIDIA H200"] * 2,
            facts={**NODE_FACTS, **(changed or {}).get(rank, {})},
        )
        for rank in range(amount)
    ]


def nodes_run(
    path: Path,
    amount: int = 4,
    modes: Sequence[str] = ("ddp", "fsdp"),
    *,
    slow: int | None = None,
    changed: Mapping[int, Mapping[str, str]] | None = None,
) -> RunFolder:
    """A run of several nodes with two ranks each; the second rank of the node ``slow`` takes 8 % longer a step."""
    cases = [planned("gpt-tiny", "eager"), *(planned("gpt-tiny", mode, 2 * amount) for mode in modes)]
    folder = RunFolder.create(path, make_run(cases, nodes=nodes(amount, changed)))
    for case in cases:
        record, series = ok_record(case)
        record = record.model_copy(update={"ranks": [_on_node(rank, slow) for rank in record.ranks]})
        add(folder, record, series)
    return folder


def _on_node(rank: Rank, slow: int | None) -> Rank:
    node, rng = rank.rank // 2, random.Random(rank.rank)
    step = rng.uniform(0.0905, 0.0912) * (1.08 if rank.rank == 2 * (slow or 0) + 1 and slow is not None else 1.0)
    return rank.model_copy(
        update={
            "host": f"h{node}",
            "node": node,
            "device": "NVIDIA H200",
            "window_seconds": step * 80,
            "step_median_seconds": step,
            "step_p95_seconds": step * rng.uniform(1.02, 1.05),
        }
    )


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


def stray(record: Record, step: int, value: float = 0.083) -> None:
    """Makes it a case whose loss curve left the limit."""
    curve = record.parity.checks[-1].model_copy(update={"verdict": "fail", "value": value, "step": step})
    checks = [*record.parity.checks[:-1], curve]
    record.parity = Parity(**curve.model_dump(), checks=checks, deterministic=True)
    record.status = "invalid"
    record.error = Error(
        type="Invalid",
        message=f"it strays from {curve.reference} at step {step}: {curve.metric} is {value:.2g}, "
        f"allowed is {curve.limit:.2g}",
        hint="the speed of a training that goes elsewhere is no speed-up; is it the mode, or a broken torch: "
        "`llmbench doctor`",
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
            stray(record, step=31)
            series.loss = [value * (1 + 0.1 * step / steps) for step, value in enumerate(series.loss)]
        if case.case == "regression-linear/compile/ws1":
            base = SPEED["regression-linear"]
            record.throughput = Throughput(value=base, unit="samples/s", ci95=(base * 0.97, base * 1.03), n=80)
        if case.mode == "eager":
            record.energy, record.energy_reason = Energy(joules=842.0, source="RAPL package"), None
        add(folder, record, series)
    return folder


def unavailable(case: PlannedCase, message: str, hint: str | None = None) -> Record:
    return broken_record(case, "skipped", Error(type="Unavailable", message=message, hint=hint))


LADDER = ["bf16", "fused", "compile", "chunked-ce", "ac"]


def ladder_run(path: Path, *, steps: int = 100) -> RunFolder:
    """Two ladders: all rungs of gpt passed; of bert one is out of memory, one skipped, one invalid."""
    cases = [planned(workload, mode) for workload in ("gpt-tiny", "bert-tiny") for mode in rungs(LADDER)]
    folder = RunFolder.create(path, make_run(cases, suite="ladder", ladder=LADDER))
    for case in cases:
        if case.case == "bert-tiny/bf16+fused/ws1":
            add(folder, broken_record(case, "oom", OUT_OF_MEMORY), log=TRACEBACK)
        elif case.case == "bert-tiny/compile+bf16+fused/ws1":
            add(folder, unavailable(case, "torch.compile needs a C++ compiler", "apt install g++"))
        else:
            record, series = ok_record(case, steps=steps)
            if case.case == "bert-tiny/compile+bf16+fused+chunked-ce/ws1":
                stray(record, step=12)
            add(folder, record, series)
    return folder


SINGLE = [
    *("eager", "tf32", "bf16", "fp16", "bf16-params", "fp8"),
    *("compile", "compile-blocks", "reduce-overhead", "max-autotune"),
    *("fused", "ac", "sac", "accum4", "chunked-ce", "cpu-offload"),
    *("sdpa-math", "sdpa-flash", "sdpa-cudnn", "flex"),
    *("bf16+sdpa-flash", "bf16+sdpa-cudnn", "bf16+flex", "compile-blocks+bf16+fused", "compile-blocks+fp8"),
    *("bf16+ac", "bf16+fused+ac+chunked-ce"),
]
PARALLEL = [
    *("ddp", "fsdp", "hsdp", "tp", "pp", "fsdp+tp", "accum4+ddp", "bf16+ddp", "bf16+fsdp", "bf16-params+fsdp"),
    *("accum4+fsdp", "ac+fsdp", "sac+fsdp", "chunked-ce+fsdp", "cpu-offload+fsdp", "compile-blocks+fsdp"),
    *("bf16+hsdp", "bf16+tp", "ac+tp", "bf16+pp", "ac+pp", "bf16+fsdp+tp"),
]
LACKING = {
    "tf32": ("tf32 needs a CUDA device", "--device cuda"),
    "fp8": ("fp8 needs a CUDA device of compute capability 8.9", None),
    "reduce-overhead": ("CUDA graphs need a CUDA device", None),
    "cpu-offload": ("cpu-offload needs a CUDA device", None),
    "sdpa-flash": ("sdpa-flash needs bf16 or fp16 on a CUDA device", None),
    "sdpa-cudnn": ("cuDNN's attention needs a CUDA device", None),
    "flex": ("FlexAttention needs a CUDA device and triton", "pip install triton"),
}


def modes_run(
    path: Path, *, single: Sequence[str] = SINGLE, parallel: Sequence[str] = PARALLEL, steps: int = 30
) -> RunFolder:
    """Every mode of two workloads on a CPU, the parallel ones on 1 and 2 ranks: 142 cases.

    What cannot run here is skipped, fp16 is invalid, a rank of hsdp died, one case is noisy.
    """
    cases = [
        planned(workload, mode, size)
        for workload in ("gpt-tiny", "bert-tiny")
        for mode in (*single, *parallel)
        for size in ((1, 2) if mode in parallel else (1,))
    ]
    folder = RunFolder.create(path, make_run(cases, suite="modes", suite_file="suites/modes.toml"))
    for case in cases:
        lacking = next((LACKING[part] for part in case.mode.split("+") if part in LACKING), None)
        if lacking:
            add(folder, unavailable(case, *lacking))
        elif case.case == "bert-tiny/hsdp/ws2":
            message = "rank 1 of 2 on node-17: killed by SIGKILL in phase timed, not by llmbench; it left no stack"
            error = Error(type="SIGKILL", message=message, hint="see dmesg", rank=1, host="node-17")
            add(folder, broken_record(case, "failed", error), log=TRACEBACK)
        else:
            record, series = ok_record(case, steps=steps, noisy=case.case == "bert-tiny/ac/ws1")
            if case.mode == "fp16":
                stray(record, step=17)
            add(folder, record, series)
    return folder


def steadied(record: Record, series: Series, factor: float = 1.0, *, spread: float = 5e-4) -> tuple[Record, Series]:
    """The same, trained ``factor`` times as fast, on a machine that disturbs it by ``spread`` of a step."""
    rng = random.Random(f"{record.case} {factor}")
    speed = record.throughput.value * factor
    series.step_seconds = [1024 / speed * (1 + spread * rng.uniform(0, 2)) for _ in series.step_seconds]
    record.throughput = Throughput(
        value=speed,
        unit=record.throughput.unit,
        ci95=(speed * (1 - spread), speed * (1 + spread)),
        n=record.throughput.n,
    )
    record.noise = Noise(cv=0.6 * spread, verdict="quiet")
    return record, series


def steady_run(
    path: Path, cases: Sequence[tuple[str, str]], factors: dict[str, float] | None = None, **changes: Any
) -> RunFolder:
    """Every case passed, on a quiet machine; those in ``factors`` at so many times their speed."""
    plans = [planned(workload, mode) for workload, mode in cases]
    folder = RunFolder.create(path, make_run(plans, **changes))
    for case in plans:
        add(folder, *steadied(*ok_record(case), (factors or {}).get(case.case, 1.0)))
    return folder


ELSEWHERE = ENVIRONMENT | {
    "torch": {"version": "2.14.0+cpu", "threads": 16, "compiler": "/usr/bin/g++"},
    "packages": {"torch": "2.14.0", "numpy": "2.3.1"},
}


def compared_runs(folder: Path) -> tuple[RunFolder, RunFolder]:
    """BASE and CAND, between which every verdict of a comparison occurs, under another torch."""
    everything = [planned(workload, mode) for workload in WORKLOADS for mode in MODES]
    base = RunFolder.create(folder / "base", make_run(everything, id="20261115-070011-11b2"))
    cand = RunFolder.create(folder / "cand", make_run(everything, environment=ELSEWHERE))
    for case in everything:
        before = steadied(*ok_record(case))
        after = _candidate(case)
        if case.case not in _BROKEN_BEFORE | {"lora-tiny/compile/ws1"}:
            add(base, *before)
        elif case.case in _BROKEN_BEFORE:
            add(base, broken_record(case, "oom", OUT_OF_MEMORY), log=TRACEBACK)
        if case.case != "lora-tiny/bf16/ws1":
            add(cand, *after)
    return base, cand


_BROKEN_BEFORE = {"bert-tiny/compile+bf16/ws1", "regression-linear/eager/ws1"}
_FACTORS = {"gpt-tiny/eager/ws1": 0.92, "gpt-tiny/compile/ws1": 1.09, "gpt-tiny/bf16/ws1": 1.002}


def _candidate(case: PlannedCase) -> tuple[Record, Series | None]:
    if case.case in ("bert-tiny/bf16/ws1", "regression-linear/eager/ws1"):
        return broken_record(case, "oom", OUT_OF_MEMORY), None
    if case.case == "regression-linear/compile/ws1":
        return unavailable(case, "torch.compile needs a C++ compiler", "apt install g++"), None
    record, series = steadied(*ok_record(case), _FACTORS.get(case.case, 1.0))
    if case.case == "gpt-tiny/compile+bf16/ws1":
        record, series = steadied(record, series, 0.97, spread=0.05)
        record.noise = Noise(cv=0.06, verdict="noisy", cause="other processes used 6.1 CPUs; stop them")
    if case.case == "bert-tiny/eager/ws1":
        record.memory.peak_rss_bytes = int(1.08 * record.memory.peak_rss_bytes)
    if case.case == "bert-tiny/compile/ws1":
        series.loss = [value * (1 + 0.002 * step) for step, value in enumerate(series.loss)]
    if case.case == "regression-linear/bf16/ws1":
        series.loss = [value * (1 + 1e-7) for value in series.loss]
    if case.case == "lora-tiny/eager/ws1":
        record.config = record.config | {"micro_batch_size": 16}
    if case.case == "lora-tiny/compile+bf16/ws1":
        record.throughput = None
    return record, series


def night(number: int, **changes: Any) -> Run:
    """The run of one night, without its cases: an id, a time and a commit of its own."""
    started_at = datetime(2026, 8, 1, 2, 0, tzinfo=UTC) + timedelta(days=number)
    values: dict[str, Any] = {
        "id": f"{started_at:%Y%m%d-%H%M%S}-{number:04x}",
        "started_at": started_at.isoformat(),
        "finished_at": (started_at + timedelta(minutes=3)).isoformat(),
        "git": Git(commit=f"{random.Random(number).getrandbits(160):040x}", dirty=False),
    }
    return make_run([], **(values | changes))


def measured(case: PlannedCase, factor: float, *, half_width: float = 0.01) -> Record:
    """A case that trained right, ``factor`` times as fast as ``ok_record`` has it."""
    record, _ = ok_record(case)
    assert record.throughput is not None
    assert record.step_seconds is not None
    value = record.throughput.value * factor
    interval = (value * (1 - half_width), value * (1 + half_width))
    median = record.step_seconds.median / factor
    return record.model_copy(
        update={
            "throughput": record.throughput.model_copy(update={"value": value, "ci95": interval}),
            "step_seconds": record.step_seconds.model_copy(update={"median": median}),
        }
    )


def nights(
    path: Path,
    amount: int,
    cases: Sequence[PlannedCase],
    factor: Callable[[int, PlannedCase], float | None],
    **changes: Callable[[int], Any],
) -> list[RunFolder]:
    """A run for each night, in ``path/YYYY-MM/ID``.

    Args:
        factor: how fast a case is in a night, over ``ok_record``; None: it ran out of memory.
        changes: fields of ``run.json`` by night, e.g. ``environment``.
    """
    folders = []
    for number in range(amount):
        run = night(number, **{name: value(number) for name, value in changes.items()})
        folder = RunFolder.create(path / run.started_at[:7] / run.id, run.model_copy(update={"cases": list(cases)}))
        for case in cases:
            speed = factor(number, case)
            folder.append(broken_record(case, "oom", OUT_OF_MEMORY) if speed is None else measured(case, speed))
        folders.append(folder)
    return folders


def torch_at(version: str, **host: Any) -> dict[str, Any]:
    """The environment with another torch, or another host."""
    torch = ENVIRONMENT["torch"] | {"version": version}
    return ENVIRONMENT | {"torch": torch, "host": ENVIRONMENT["host"] | host}


def eventful_history(path: Path, amount: int = 40) -> list[RunFolder]:
    """16 cases: two step down, one up, one has a strange night, one fails by now, one did for some nights."""
    cases = [planned(workload, mode) for workload in WORKLOADS for mode in MODES]
    rng = random.Random(7)

    def factor(number: int, case: PlannedCase) -> float | None:
        share = number / amount
        speed = math.exp(rng.gauss(0, 0.012))
        match case.case:
            case "gpt-tiny/compile+bf16/ws1" if share >= 0.6:
                speed *= 0.92
            case "bert-tiny/eager/ws1" if share >= 0.9:
                speed *= 0.87
            case "lora-tiny/compile/ws1" if share >= 0.45:
                speed *= 1.18
            case "bert-tiny/bf16/ws1" if number == amount // 2:
                speed *= 0.6
            case "regression-linear/bf16/ws1" if number == amount - 1:
                return None
            case "gpt-tiny/bf16/ws1" if 0.3 <= share < 0.4:
                return None
        return speed

    def environment(number: int) -> dict[str, Any]:
        return torch_at("2.13.0+cpu" if number >= 0.6 * amount else "2.12.1+cpu", kernel=f"6.12.{number // 15}")

    return nights(path, amount, cases, factor, environment=environment, suite=lambda _: "nightly")


def ab_comparison(
    path: Path,
    number: int,
    cases: Sequence[PlannedCase],
    ratio: Callable[[PlannedCase, int], float | None],
    *,
    sessions: int = 5,
    noise: float = 0.01,
    **changes: Any,
) -> AbFolder:
    """A comparison of one night, in ``path/ID``: a base that is pinned, and the candidate of that night.

    Args:
        ratio: time of the candidate over that of the base, by case and session; None: the candidate failed.
        noise: standard deviation of its logarithm, from session to session.
        changes: of ``ab.json``.
    """
    run = night(number)
    rng = random.Random(number)
    pinned_commit, started = "ba5e" + "0" * 36, datetime.fromisoformat(run.started_at)
    side = {"asked": "git:HEAD", "label": "HEAD", "kind": "revision", "python": "/venv/bin/python"}
    values: dict[str, Any] = {
        "id": run.id,
        "suite": "smoke",
        "cases": [AbCase(id=case.case, base=case, cand=case) for case in cases],
        "base": AbSide(**side, git=Git(commit=pinned_commit, dirty=False), environment=ENVIRONMENT),
        "cand": AbSide(**side, git=run.git, environment=ENVIRONMENT),
        "gate": AbGate(tolerance=0.01, limit=0.05, alpha=0.01, beta=0.05, looks=[3, 5, 8, 12, 20]),
        "seed": number,
        "rounds": 4,
        "budget_seconds": 120.0,
        "command": ["llmbench", "ab"],
        "working_folder": "/home/someone/work",
        "llmbench": "0.1.0",
        "device": "cpu",
        "status": "done",
        "started_at": run.started_at,
    }
    folder = AbFolder.create(path / str(values["id"]), Ab(**(values | changes)))
    for case in cases:
        for session in range(sessions):
            factor = ratio(case, session)
            time = (started + timedelta(seconds=session)).isoformat()
            times = math.exp(rng.gauss(0, noise))
            folder.append(
                AbSession(
                    case=case.case,
                    session=session,
                    seed=session,
                    first=rng.choice(SIDES),
                    rounds=[] if factor is None else [_ab_round(0.05, 0.05 * factor * times, rng) for _ in range(4)],
                    base=Trained(loss=[2.0, 1.9]),
                    cand=Trained(loss=[2.0, 1.9]) if factor is not None else Trained(status="oom", error=OUT_OF_MEMORY),
                    started_at=time,
                    seconds=12.0,
                )
            )
    return folder


def _ab_round(base: float, cand: float, rng: random.Random) -> Round:
    sides = {name: Turn(steps=[step] * 3, wall=3 * step) for name, step in (("base", base), ("cand", cand))}
    return Round(first=rng.choice(SIDES), **sides)
