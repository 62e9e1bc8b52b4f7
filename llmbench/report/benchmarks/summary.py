"""The first screen: what needs attention, where it was measured, and a few figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.report.benchmarks.views import FEW, NOISY, VERDICTS, WORKS, BenchmarkView
from llmbench.report.environment import first
from llmbench.report.format import count, duration, flatten, percent, plain, plus_minus
from llmbench.report.verdict import Verdict
from llmbench.results.benchmarks import BenchmarkFile

_MOST = 5  # figures on a line


@dataclass(frozen=True)
class Attention:
    """Benchmarks with the same fault."""

    verdict: Verdict
    seen: list[BenchmarkView]
    cause: str
    hint: str


@dataclass(frozen=True)
class Figure:
    value: str
    label: str
    note: str


def attention(seen: Sequence[BenchmarkView]) -> list[Attention]:
    reasons = {
        "few": (
            f"fewer than {FEW} rounds: the quartiles say little",
            "give them more time: `--benchmark-max-time=2`, or `--benchmark-min-rounds=20`",
        ),
        "noisy": (
            f"the median is known to no better than ±{percent(NOISY, 1)}: rounds differ much, or are few",
            "let nothing else run, and give them more time: `--benchmark-max-time=2`",
        ),
    }
    found = [(key, [view for view in seen if view.verdict.key == key]) for key in reasons]
    return [Attention(VERDICTS[key], members, *reasons[key]) for key, members in found if members]


def figures(seen: Sequence[BenchmarkView]) -> list[Figure]:
    """The greatest rate of each kind of work, and how sure the medians are."""
    return [*_greatest(seen)[: _MOST - 2], *_uncertainty(seen), *_time(seen)]


def _greatest(seen: Sequence[BenchmarkView]) -> list[Figure]:
    found = []
    for work in WORKS.values():
        rates = [(rate.value, view) for view in seen for rate in view.rates if rate.work == work]
        if rates:
            value, view = max(rates, key=lambda pair: pair[0])
            found.append(Figure(work.text(value), f"highest {work.title}", view.benchmark.name))
    return found


def _uncertainty(seen: Sequence[BenchmarkView]) -> list[Figure]:
    known = [(view.uncertainty, view.benchmark.name) for view in seen if view.uncertainty is not None]
    if not known:
        return []
    widest, name = max(known)
    note = f"{count(len(known), 'benchmark')}, the widest {plus_minus(widest)}: {name}"
    typical = statistics.median(width for width, _ in known)
    return [Figure(plus_minus(typical), "typical uncertainty of a median", note)]


def _time(seen: Sequence[BenchmarkView]) -> list[Figure]:
    """``total`` is that of the rounds, each divided by its iterations."""
    seconds = [stats.total * (stats.iterations or 1) for stats in (view.stats for view in seen) if stats.total]
    rounds = sum(view.stats.rounds or 0 for view in seen)
    return [Figure(duration(sum(seconds)), "timed", count(rounds, "round"))] if seconds else []


def host(file: BenchmarkFile) -> str | None:
    return first(_flat(file), "node")


def environment(file: BenchmarkFile) -> list[tuple[str, str]]:
    """Machine, CPU, devices, torch, Python and commit, each in one line, as far as the file tells."""
    flat = _flat(file)
    devices = file.machine_info.get("devices")
    lines: dict[str, Sequence[str | None]] = {
        "Machine": [first(flat, key) for key in ("node", "system", "release", "machine")],
        "CPU": [first(flat, "cpu.brand_raw", "processor"), _counted(flat, "cpu.count", "CPUs")],
        "Devices": list(map(plain, devices)) if isinstance(devices, list) else [],
        "torch": [first(flat, "torch.version"), _counted(flat, "torch.threads", "threads")],
        "Python": [first(flat, "python_implementation"), first(flat, "python_version")],
        "Commit": _commit(file),
    }
    joined = {name: " · ".join(part for part in parts if part) for name, parts in lines.items()}
    return [(name, text) for name, text in joined.items() if text]


def _counted(flat: dict[str, str], key: str, what: str) -> str | None:
    found = first(flat, key)
    return f"{found} {what}" if found else None


def _commit(file: BenchmarkFile) -> list[str]:
    commit = file.commit_info or {}
    if commit.get("id") in (None, "unversioned"):  # pytest-benchmark's word for outside of a checkout
        return []
    return [plain(commit["id"])[:12], "with local changes" if commit.get("dirty") else "clean"]


def every_key(file: BenchmarkFile) -> list[tuple[str, str]]:
    """All that was recorded of the machine and the checkout."""
    known = {"machine": file.machine_info, "commit": file.commit_info or {}}
    return [(key, plain(value)) for key, value in flatten(known) if value != {}]


def _flat(file: BenchmarkFile) -> dict[str, str]:
    return {key: plain(value) for key, value in flatten(file.machine_info) if value != ""}
