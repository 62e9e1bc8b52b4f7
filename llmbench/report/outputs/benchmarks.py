"""The JSON of pytest-benchmark, for what reads it: `pytest-benchmark compare`, github-action-benchmark, our own page.

https://pytest-benchmark.readthedocs.io. A case is a benchmark, and a timed step is a round of one iteration.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any

from llmbench.results.ab import Ab, AbSession, SideName
from llmbench.results.schema import Git, Record
from llmbench.results.sides import Trained
from llmbench.results.store import RunFolder

FORMAT = "5.0.0"
"""The version of pytest-benchmark whose form this is."""

_WORK = {"tokens/s": "tokens", "samples/s": "samples"}


@dataclass(frozen=True)
class Timed:
    """One benchmark.

    Attributes:
        seconds: of each round, above zero, in their order; at least one.
        params: what tells it from others of its group.
    """

    name: str
    group: str
    seconds: Sequence[float]
    params: Mapping[str, Any] = field(default_factory=dict)
    extra_info: Mapping[str, Any] = field(default_factory=dict)


def benchmark_json(timed: Sequence[Timed], environment: Mapping[str, Any], git: Git | None, when: str) -> str:
    """The document.

    Args:
        environment: a fingerprint of the machine.
        when: ISO 8601.
    """
    document = {
        "machine_info": _machine(environment),
        "commit_info": {
            "id": git.commit if git else "unversioned",
            "time": None,
            "author_time": None,
            "dirty": bool(git and git.dirty),
            "project": "llmbench",
            "branch": "(unknown)",
        },
        "benchmarks": [_benchmark(one) for one in timed],
        "datetime": when,
        "version": FORMAT,
    }
    return json.dumps(document, indent=4) + "\n"


def run_benchmarks(folder: RunFolder) -> str:
    """The cases of a run that trained right; the others are left out, as tests that failed are.

    Raises:
        UserError: there is no run, or it cannot be read.
    """
    run = folder.recorded_run()
    cases = [Trained(found.record, folder) for found in folder.recorded() if found.record.status == "ok"]
    timed = [
        Timed(
            name=case.record.case,
            group=case.record.workload,
            seconds=case.timed_seconds,
            params={"mode": case.record.mode, "world_size": case.record.world_size},
            extra_info=_extra(case.record),
        )
        for case in cases
        if case.timed_seconds
    ]
    return benchmark_json(timed, run.environment, run.git, run.started_at)


def ab_benchmarks(ab: Ab, sessions: Sequence[AbSession], side: SideName) -> str:
    """One side of a comparison; the steps of all its whole sessions are the rounds of a case.

    Two such documents lack what a comparison knows, that the steps were taken in turns: let no rule judge by them.
    """
    steps: dict[str, list[float]] = {case.id: [] for case in ab.cases}
    for session in sessions:
        if session.whole and session.case in steps:
            turns = (one.base if side == "base" else one.cand for one in session.rounds)
            steps[session.case] += [seconds for turn in turns for seconds in turn.steps if 0 < seconds < math.inf]
    asked = ab.of(side)
    planned = {case.id: case.base if side == "base" else case.cand for case in ab.cases}
    timed = [
        Timed(
            name=case,
            group=planned[case].workload,
            seconds=seconds,
            params={"mode": planned[case].mode, "world_size": planned[case].world_size},
            extra_info={"side": side, "of": asked.label},
        )
        for case, seconds in steps.items()
        if seconds
    ]
    return benchmark_json(timed, asked.environment, asked.git, ab.started_at)


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    host, python = (_part(environment, name) for name in ("host", "python"))
    devices = environment.get("devices")
    return {
        "node": host.get("name", ""),
        "processor": "",
        "machine": host.get("machine", ""),
        "python_compiler": "",
        "python_implementation": python.get("implementation", "CPython"),
        "python_implementation_version": python.get("version", ""),
        "python_version": python.get("version", ""),
        "python_build": [],
        "release": host.get("kernel", ""),
        "system": host.get("os", ""),
        "cpu": {"brand_raw": host.get("cpu", ""), "count": host.get("cpus_usable")},
        "torch": dict(_part(environment, "torch")),
        "devices": [
            str(one.get("name"))
            for one in (devices if isinstance(devices, list) else [])
            if isinstance(one, Mapping) and one.get("kind") != "cpu"
        ],
    }


def _part(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = environment.get(name)
    return found if isinstance(found, Mapping) else {}


def _extra(record: Record) -> dict[str, Any]:
    """What the case did beside taking time: work of a step, FLOPs, peak memory, loss."""
    memory, loss = record.memory, record.loss
    found: dict[str, Any] = {
        "device": record.device,
        "flops": record.flops_per_step,
        "peak_allocated_bytes": memory and memory.peak_allocated_bytes,
        "peak_rss_bytes": memory and memory.peak_rss_bytes,
        "loss": loss and loss.final,
    }
    if record.throughput and (work := _work(record.config, record.throughput.unit)):
        found[_WORK[record.throughput.unit]] = work
    return {key: value for key, value in found.items() if value is not None}


def _work(config: Mapping[str, Any], unit: str) -> int | None:
    """Tokens or samples of a step."""
    batch, length = config.get("global_batch_size"), config.get("sequence_length") if unit == "tokens/s" else 1
    return batch * length if isinstance(batch, int) and isinstance(length, int) else None


def _benchmark(one: Timed) -> dict[str, Any]:
    return {
        "group": one.group,
        "name": one.name,
        "fullname": one.name,
        "params": dict(one.params) or None,
        "param": "-".join(map(str, one.params.values())) or None,
        "extra_info": dict(one.extra_info),
        "options": {
            "disable_gc": True,
            "timer": "perf_counter",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": True,
        },
        "stats": statistics_of(one.seconds),
    }


def statistics_of(seconds: Sequence[float]) -> dict[str, Any]:
    """The statistics of one benchmark as pytest-benchmark defines them; ``outliers`` is by deviation; by quartiles.

    Args:
        seconds: of each round, at least one.
    """
    data = sorted(seconds)
    mean, spread = fmean(data), stdev(data) if len(data) > 1 else 0.0
    q1, q3 = _quartiles(data)
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    by_deviation = sum(not mean - spread <= value <= mean + spread for value in data)
    by_quartiles = sum(not low <= value <= high for value in data)
    return {
        "min": data[0],
        "max": data[-1],
        "mean": mean,
        "stddev": spread,
        "rounds": len(data),
        "median": median(data),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": by_quartiles,
        "stddev_outliers": by_deviation,
        "outliers": f"{by_deviation};{by_quartiles}",
        "ld15iqr": data[bisect_left(data, low)],
        "hd15iqr": data[bisect_right(data, high) - 1],
        "ops": len(data) / math.fsum(data),
        "total": math.fsum(data),
        "data": list(seconds),
        "iterations": 1,
    }


def _quartiles(data: Sequence[float]) -> tuple[float, float]:
    """Of sorted data, as the mean of methods 1 and 2 of https://en.wikipedia.org/wiki/Quartile where there is a middle
    value, else as the medians of the halves.
    """
    part, rest = divmod(len(data), 4)
    if len(data) == 1:
        return data[0], data[0]
    if rest in (0, 2):
        half = len(data) // 2
        return median(data[:half]), median(data[half:])
    if rest == 1:
        return (
            0.25 * data[part - 1] + 0.75 * data[part],
            0.75 * data[3 * part] + 0.25 * data[3 * part + 1],
        )
    return (
        0.75 * data[part] + 0.25 * data[part + 1],
        0.25 * data[3 * part + 1] + 0.75 * data[3 * part + 2],
    )
