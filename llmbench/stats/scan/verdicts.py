"""What the measurements of a scan mean: a verdict with its evidence for each node, link and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.results.scan import (
    BUS_BANDWIDTH,
    UNITS,
    Gate,
    NodeVerdict,
    PairTest,
    ScanNode,
    SlowLink,
    TestVerdict,
    quantity,
)
from llmbench.stats.scan.gates import certain_below
from llmbench.stats.scan.measure import Pair
from llmbench.stats.scan.search import Measurements, Picture, Test, picture

_TITLES = {BUS_BANDWIDTH: "bus bandwidth", "matmul": "matmul", "memory_bandwidth": "memory bandwidth"}
_CONVICTS = 2
"""Low tests with different fast partners that make a node slow; the search wants three where it has the rounds."""
_MET_ALL = 4
"""Nodes that meet all others in three rounds, which leaves none to repeat a test: there one may convict a link."""
_NAMED = 4
"""Partners that evidence names; the rest are counted."""


@dataclass(frozen=True)
class Judgement:
    nodes: list[ScanNode]
    links: list[SlowLink]
    pairs: list[PairTest]
    gates: list[Gate]
    rounds: int


@dataclass(frozen=True)
class _Finding:
    """One thing against a node."""

    verdict: NodeVerdict
    metric: str
    below: float | None
    evidence: str


def metric_title(metric: str) -> str:
    return _TITLES.get(metric, metric.replace("_", " "))


def judge(seen: Measurements) -> Judgement:
    """The verdicts, each in the order of the nodes or of the tests."""
    now = picture(seen)
    return Judgement(
        nodes=[_node(node, seen, now) for node in seen.nodes],
        links=_links(now),
        pairs=[_pair(test, now) for test in seen.pairs],
        gates=[*([now.gate] if now.gate else []), *now.solo.values()],
        rounds=len({test.round for test in seen.pairs}),
    )


def _node(node: str, seen: Measurements, now: Picture) -> ScanNode:
    estimates = {metric: seen.estimate(node, metric) for metric in now.solo}
    worked = [test.value for test in now.tests.get(node, ()) if test.value > 0]
    if worked:
        estimates[BUS_BANDWIDTH] = max(worked)
    found = _of_pairs(node, seen, now) + [
        finding for metric in now.solo for finding in _of_metric(node, metric, seen, now)
    ]
    if node not in seen.alive:
        tests = seen.solo[node]
        found = [_Finding("failed", "", None, f"{tests[-1].reason} ({_in_all(len(tests))})")]
    order: tuple[NodeVerdict, ...] = ("failed", "slow", "suspect", "unknown")
    found = sorted(found, key=lambda finding: order.index(finding.verdict))
    verdict: NodeVerdict = found[0].verdict if found else "ok"
    told = [finding for finding in found if finding.verdict == verdict] or found
    shares = [finding.below for finding in told if finding.below is not None]
    return ScanNode(
        name=node,
        verdict=verdict,
        evidence="; ".join(finding.evidence for finding in told) or _fine(node, now),
        metrics=[finding.metric for finding in told if finding.metric],
        below=max(shares) if shares else _worst(estimates, now),
        estimates=estimates,
        solo=seen.solo[node],
    )


def _of_metric(node: str, metric: str, seen: Measurements, now: Picture) -> list[_Finding]:
    """What a solo metric says against a node."""
    tests, gate, value = seen.solo[node], now.solo[metric], seen.estimate(node, metric)
    title = metric_title(metric)
    repeated = tests[1:] or tests
    if value is None:
        reason = repeated[-1].reason or f"{title} was not measured"
        verdict: NodeVerdict = "failed" if len(tests) > 1 else "suspect"
        return [_Finding(verdict, metric, None, f"{reason} ({_in_all(len(repeated))})")]
    if (seen.at_best(node, metric) or value) >= gate.threshold or len(seen.alive) < 2:
        return []
    below = 1 - value / gate.median
    speeds = f"{quantity(value, gate.unit)} against {quantity(gate.median, gate.unit)}"
    notes = [test.notes[metric] for test in repeated if metric in test.notes]
    told = f"{title} {100 * below:.0f} % below the median: {speeds}{f' ({notes[-1]})' if notes else ''}"
    if len(tests) > 1:
        return [_Finding("slow", metric, below, f"{told}, best of {_times(len(repeated), 'repetition')}")]
    return [_Finding("suspect", metric, below, f"{told}, measured once")]


def _of_pairs(node: str, seen: Measurements, now: Picture) -> list[_Finding]:
    """What the pair tests say against a node."""
    tests = now.tests.get(node, ())
    if node in now.fast or node not in seen.alive:
        return []
    if not tests:
        return [_Finding("unknown", "", None, "no pair test")] if len(seen.alive) > 2 else []
    low = now.incriminating(node)
    failed = [test for test in low if test.value <= 0]
    if len(failed) == len(low) >= _CONVICTS:
        told = f"every pair test failed: {_with(node, failed)}; last reason: {failed[-1].reason}"
        return [_Finding("failed", BUS_BANDWIDTH, None, told)]
    best = max(test.value for test in tests)
    below = 1 - best / now.gate.median if now.gate else None
    if len(low) >= _CONVICTS:
        told = f"bus bandwidth low with each of {_times(len(low), 'fast partner')}: {_with(node, low)}"
        return [_Finding("slow", BUS_BANDWIDTH, below, told)]
    known = f"{_times(len(low), 'fast partner')} among them" if low else "none of them fast with others"
    told = f"low with each of {_times(len(tests), 'partner')}, {known}: {_with(node, tests)}"
    return [_Finding("suspect", BUS_BANDWIDTH, below, told)]


def _with(node: str, tests: Sequence[Test]) -> str:
    """``38.1 GB/s with node-07, …``"""
    told = [f"{_value(test)} with {test.partner(node)}" for test in tests[:_NAMED]]
    return ", ".join(told) + (f" and {len(tests) - _NAMED} more" if len(tests) > _NAMED else "")


def _value(test: Test) -> str:
    return quantity(test.value, UNITS[BUS_BANDWIDTH]) if test.value > 0 else "failed"


def _fine(node: str, now: Picture) -> str:
    tests = now.tests.get(node, ())
    if not tests:
        return "nothing to compare it with" if len(now.tests) < 2 else "fast on its own"
    best = max(tests, key=lambda test: test.value)
    low = sum(now.is_low(test) for test in tests)
    return f"{_value(best)} with {best.partner(node)}" + (f", low with {low} others" if low else "")


def _worst(estimates: dict[str, float | None], now: Picture) -> float | None:
    gates = dict(now.solo) | ({BUS_BANDWIDTH: now.gate} if now.gate else {})
    shares = [1 - value / gates[metric].median for metric, value in estimates.items() if value is not None]
    return max(shares, default=None)


def _links(now: Picture) -> list[SlowLink]:
    found = [_link(pair, tests, now) for pair, tests in now.low_links().items()]
    return sorted((link for link in found if link), key=lambda link: (-(link.below or 0), link.a, link.b))


def _link(pair: Pair, tests: Sequence[Test], now: Picture) -> SlowLink | None:
    """A pair that was low although both nodes are fast; None if it was not when it was asked again."""
    assert now.gate is not None
    again = tests[1:]
    if again and not all(map(now.is_low, again)):
        return None
    value = sum(test.value for test in again or tests) / len(again or tests)
    below = 1 - value / now.gate.median
    once = max(test.at_best for test in tests)
    repeated = sum(test.times for test in tests) > 1
    exact = not any(test.uncertainty for test in tests)
    far = once <= 0 or (exact and once < certain_below(now.gate))
    certain = repeated or (far and len(now.tests) <= _MET_ALL)
    elsewhere = ", ".join(_fastest(node, now) for node in pair)
    times = (
        f"{_times(sum(test.times for test in tests), 'test')} in round {', '.join(str(test.round) for test in tests)}"
    )
    told = f"{', '.join(map(_value, tests))} ({times}), {100 * below:.0f} % below the median; with others {elsewhere}"
    if value <= 0:
        told = f"failed ({times}): {tests[-1].reason}; with others {elsewhere}"
    verdict = "suspect" if not certain else "failed" if value <= 0 else "slow"
    return SlowLink(a=pair[0], b=pair[1], verdict=verdict, evidence=told, below=below)


def _fastest(node: str, now: Picture) -> str:
    best = max(now.tests[node], key=lambda test: test.value)
    return f"{node} reaches {_value(best)}"


def _pair(test: Test, now: Picture) -> PairTest:
    verdict: TestVerdict = "low" if now.is_low(test) else "ok"
    if test.value <= 0:
        verdict = "failed"
    elif len(now.tests) == 2:  # of two nodes: there is no other pair
        verdict = "unknown"
    return PairTest(
        a=test.a,
        b=test.b,
        round=test.round,
        bus_bandwidth_bytes_per_s=test.value if test.value > 0 else None,
        verdict=verdict,
        best_bytes_per_s=test.best,
        reason=test.reason,
        points=list(test.points),
    )


def _in_all(times: int) -> str:
    return f"{times} of {times} times"


def _times(amount: int, one: str) -> str:
    return f"{amount} {one}" + ("" if amount == 1 else "s")
