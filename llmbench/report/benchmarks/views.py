"""A benchmark as its page shows it: a short label, how sure its median is, and its rates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.report.format import plain, shorten, si
from llmbench.report.palette import Ink, ink
from llmbench.report.verdict import Verdict
from llmbench.results.benchmarks import Benchmark, BenchmarkFile, Stats

NOISY = 0.05
"""Uncertainty of a median above which a small difference cannot be seen; the same limit as for cases."""

FEW = 5
"""Rounds below which quartiles say little; pytest-benchmark's own default of ``--benchmark-min-rounds``."""

VERDICTS = {
    verdict.key: verdict
    for verdict in (
        Verdict("few", "!", "few rounds", "warn"),
        Verdict("noisy", "~", "noisy", "warn"),
        Verdict("ok", "✓", "measured", "good"),
    )
}


@dataclass(frozen=True)
class Work:
    """A field of ``extra_info`` that tells the work of one iteration.

    Attributes:
        unit: of its rate.
        joined: whether the unit is written together with its decimal prefix.
        title: of its rate.
    """

    key: str
    unit: str
    joined: bool = False
    title: str = "throughput"

    def text(self, rate: float) -> str:
        """``110 GFLOP/s``; ``17.2 k tokens/s``."""
        value, _, prefix = si(rate).partition(" ")
        return f"{value} {prefix}{self.unit}" if self.joined else f"{si(rate)} {self.unit}"


WORKS = {
    work.key: work
    for work in (
        Work("flops", "FLOP/s", joined=True),
        Work("bytes", "B/s", joined=True),
        Work("tokens", "tokens/s"),
        Work("samples", "samples/s"),
        Work("bus_bytes", "B/s", joined=True, title="bus bandwidth"),
    )
}


@dataclass(frozen=True)
class Rate:
    """Work by the median time; ``interval`` is by the third and the first quartile."""

    work: Work
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class BenchmarkView:
    """One benchmark.

    Attributes:
        number: its place in the file.
        label: what tells it from the others of its group.
        rates: in the order in which the test named the work.
        facts: what ``extra_info`` says beside, and neither the name nor the panel of the group does.
    """

    number: int
    benchmark: Benchmark
    label: str
    ink: Ink
    rates: list[Rate]
    facts: dict[str, str]

    @property
    def stats(self) -> Stats:
        return self.benchmark.stats

    @property
    def quartiles(self) -> tuple[float, float] | None:
        q1, q3 = self.stats.q1, self.stats.q3
        return None if q1 is None or q3 is None else (min(q1, q3), max(q1, q3))

    @property
    def spread(self) -> float | None:
        """Interquartile range over the median."""
        if self.quartiles is None or not self.stats.median:
            return None
        return (self.quartiles[1] - self.quartiles[0]) / self.stats.median

    @property
    def uncertainty(self) -> float | None:
        """Half the 95 % interval of the median, over the median: 1.57 · IQR / √rounds.

        The notch of a box plot: McGill, Tukey and Larsen, *Variations of Box Plots*, 1978.
        """
        if self.spread is None or not self.stats.rounds:
            return None
        return 1.57 * self.spread / math.sqrt(self.stats.rounds)

    @property
    def verdict(self) -> Verdict:
        if self.stats.rounds is not None and self.stats.rounds < FEW:
            return VERDICTS["few"]
        noisy = self.uncertainty is not None and self.uncertainty > NOISY
        return VERDICTS["noisy" if noisy else "ok"]


@dataclass(frozen=True)
class Group:
    """Benchmarks that are shown together; ``facts`` are those that all of them share."""

    title: str
    seen: list[BenchmarkView]
    facts: dict[str, str]


def groups(file: BenchmarkFile) -> list[Group]:
    """In the order in which they first occur."""
    members: dict[str | None, list[tuple[int, Benchmark]]] = {}
    for number, benchmark in enumerate(file.benchmarks):
        members.setdefault(benchmark.group, []).append((number, benchmark))
    inks = inks_by_dtype(file)
    return [_group(name or "Without a group", found, inks) for name, found in members.items()]


def inks_by_dtype(file: BenchmarkFile) -> dict[str, Ink]:
    """A colour for each ``extra_info["dtype"]``, the same on the whole page; those that name none share one."""
    names = dict.fromkeys(map(_dtype, file.benchmarks))
    return {name: ink(index) for index, name in enumerate(names)}


def _group(title: str, members: Sequence[tuple[int, Benchmark]], inks: dict[str, Ink]) -> Group:
    benchmarks = [benchmark for _, benchmark in members]
    facts = [_facts(benchmark) for benchmark in benchmarks]
    shared = {key: text for key, text in facts[0].items() if all(other.get(key) == text for other in facts)}
    seen = []
    for (number, benchmark), label, told in zip(members, _labels(benchmarks), facts, strict=True):
        known = shared.keys() | (benchmark.params or {}).keys()
        own = {key: text for key, text in told.items() if key not in known}
        seen.append(BenchmarkView(number, benchmark, label, inks[_dtype(benchmark)], _rates(benchmark), own))
    return Group(title, seen, shared)


def _facts(benchmark: Benchmark) -> dict[str, str]:
    """``extra_info`` as text, without what is shown as a rate."""
    rates = {rate.work.key for rate in _rates(benchmark)}
    return {key: _fact(value) for key, value in benchmark.extra_info.items() if key not in rates}


def _fact(value: Any) -> str:
    """A list of numbers is a shape: ``8 × 128``."""
    if isinstance(value, list) and value and all(isinstance(size, int | float) for size in value):
        return shorten(" × ".join(map(plain, value)), 200)
    return shorten(plain(value), 200)


def _dtype(benchmark: Benchmark) -> str:
    return _fact(benchmark.extra_info.get("dtype", ""))


def _rates(benchmark: Benchmark) -> list[Rate]:
    stats = benchmark.stats
    found = []
    for key, amount in benchmark.extra_info.items():
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        # Beyond these bounds nothing was measured, and a quotient can be infinite.
        if key not in WORKS or not number or not 0 < amount < 1e200 or stats.median < 1e-15:
            continue
        interval = (amount / stats.q3, amount / stats.q1) if stats.q1 and stats.q3 else None
        found.append(Rate(WORKS[key], amount / stats.median, interval))
    return found


def _labels(benchmarks: Sequence[Benchmark]) -> list[str]:
    """Of each, the parameters in which they differ; the name where that tells it from no other."""
    given = [benchmark.params or {} for benchmark in benchmarks]
    keys = [key for key in given[0] if all(key in params for params in given)]
    differing = [key for key in keys if len({plain(params[key]) for params in given}) > 1]
    labels = [" ".join(plain(params[key]) for key in differing) for params in given]
    amounts = Counter(labels)
    return [
        label if label and amounts[label] == 1 else benchmark.name.removeprefix("test_")
        for label, benchmark in zip(labels, benchmarks, strict=True)
    ]
