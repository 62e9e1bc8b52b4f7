"""A JSON file of pytest-benchmark as a run, so that two can be held against each other by the rules for stored runs.

A test is a case, and its rounds are the timed steps. There is neither memory nor loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from llmbench.results.benchmarks import Benchmark, BenchmarkFile, Stats, read_benchmarks
from llmbench.results.salvage import Recorded
from llmbench.results.schema import Git, Noise, Record, Run, Series, Throughput
from llmbench.results.store import RunFolder
from llmbench.stats.blocks import half_width
from llmbench.stats.student import quantile
from llmbench.stats.verdicts import NOISY

SUITE = "pytest-benchmark"
_TIMING = ("timer", "disable_gc")  # options that change what a second is; the others say for how long is timed
_UNVERSIONED = "unversioned"  # pytest-benchmark's word for outside of a checkout
_SMALLEST = 1e-300  # seconds: less was not measured, and has no reciprocal


class BenchmarkRun(RunFolder):
    """A file that ``pytest --benchmark-json`` or ``--benchmark-save`` wrote, read as a run. Nothing is ever written.

    Args:
        path: the file.
    """

    @cached_property
    def _file(self) -> BenchmarkFile:
        return read_benchmarks(self.path)

    def recorded_run(self) -> Run:
        """Raises: UserError: as ``read_benchmarks``."""
        return Run(
            id=self.path.stem,
            suite=SUITE,
            suite_file="",
            cases=[],
            command=[],
            working_folder="",
            llmbench="",
            python=str(self._file.machine_info.get("python_implementation", "")),
            device="cuda" if self._file.machine_info.get("devices") else "cpu",
            environment=environment(self._file),
            git=_commit(self._file.commit_info or {}),
            status="done",
            started_at=self._file.datetime or "",
        )

    def recorded(self) -> list[Recorded]:
        """A record for each test; of two with the same name the first, the other is added to ``damage``."""
        device, found = self.recorded_run().device, dict[str, Recorded]()
        for number, benchmark in enumerate(self._file.benchmarks):
            case = _case(benchmark)
            if case in found:
                self._damage[f"{self.path}: benchmarks.{number}: a second `{case}`, which is left out"] = None
            else:
                found[case] = Recorded(_record(benchmark, device), [], number + 1)
        return list(found.values())

    def recorded_series(self, record: Record) -> tuple[Series | None, str | None]:
        times = next(benchmark.stats.data for benchmark in self._file.benchmarks if _case(benchmark) == record.case)
        return (Series(loss=[], step_seconds=times, first_timed_step=0), None) if times else (None, None)


def environment(file: BenchmarkFile) -> dict[str, Any]:
    """``machine_info`` under the names that a run's fingerprint has; what it has beside is kept."""
    told = dict(file.machine_info)
    cpu = told.pop("cpu", None)
    cpu = cpu if isinstance(cpu, Mapping) else {}
    devices = told.pop("devices", None)
    # hz_actual and the like differ from minute to minute, and what else is known of the CPU follows from its name.
    host = {
        "name": told.pop("node", None),
        "os": told.pop("system", None),
        "kernel": told.pop("release", None),
        "machine": told.pop("machine", None),
        "cpu": cpu.get("brand_raw") or told.get("processor") or None,
        "cpus_usable": cpu.get("count"),
    }
    told.pop("processor", None)
    python = {key: told.pop(f"python_{key}", None) for key in ("version", "implementation", "compiler", "build")}
    told.pop("python_implementation_version", None)
    return told | {
        "host": {key: value for key, value in host.items() if value is not None},
        "python": {key: value for key, value in python.items() if value is not None},
        "devices": [{"kind": "cuda", "name": str(one)} for one in devices] if isinstance(devices, list) else [],
        "packages": {"pytest-benchmark": file.version} if file.version else {},
    }


def _commit(told: Mapping[str, Any]) -> Git | None:
    commit = told.get("id")
    if not isinstance(commit, str) or commit == _UNVERSIONED:
        return None
    return Git(commit=commit, dirty=bool(told.get("dirty")))


def _case(benchmark: Benchmark) -> str:
    return benchmark.fullname or benchmark.name


def _record(benchmark: Benchmark, device: str) -> Record:
    stats = benchmark.stats
    throughput, noise = _throughput(stats), None
    cv = stats.stddev / stats.mean if stats.stddev is not None and stats.mean else None
    if throughput and cv is not None:
        noisy = (throughput.ci95[1] - throughput.value) / throughput.value > NOISY
        cause = f"{throughput.n} rounds of uneven length; time longer: --benchmark-max-time=10"
        noise = Noise(cv=cv, verdict="noisy" if noisy else "quiet", cause=cause if noisy else None)
    return Record(
        case=_case(benchmark),
        workload=benchmark.group or benchmark.name,
        mode="",
        device=device,
        status="ok",
        config={key: benchmark.options[key] for key in _TIMING if key in benchmark.options},
        throughput=throughput,
        noise=noise,
    )


def _throughput(stats: Stats) -> Throughput | None:
    """Rounds by their time, with the interval of the run alone; None where the file does not tell it."""
    mean, half = stats.mean, _half_width(stats)
    if mean is None or mean < _SMALLEST or half is None or not math.isfinite(half):
        return None
    speed = 1 / mean
    return Throughput(
        value=speed,
        unit="ops/s",
        ci95=(speed * max(0.0, 1 - half), speed * (1 + half)),
        n=stats.rounds or len(stats.data),
    )


def _half_width(stats: Stats) -> float | None:
    """Of the 95 % interval of the mean, as a share of it.

    By blocks of neighbouring rounds; where the rounds were not kept, as if each were independent of its neighbours.
    """
    if len(stats.data) > 1:
        return half_width(stats.data)
    if stats.rounds is None or stats.rounds < 2 or stats.stddev is None or not stats.mean:
        return None
    return quantile(0.975, stats.rounds - 1) * stats.stddev / math.sqrt(stats.rounds) / stats.mean
