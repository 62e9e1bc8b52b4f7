"""Which node of a cluster is slow, and which link: at most three rounds of pair tests for any number of nodes.

Round 1 pairs the nodes at random. A pair that is low has a slow node or a slow link, so its nodes are asked again, each
with another partner that is known to be fast (as in Google's cluster health scanner, there with one repetition and a
fixed limit). A node that is low with every partner is slow. A node that is fast with anybody is fast, and if both nodes
of a low pair are, the pair is asked once more: low again, it is the link. So nothing is named on one measurement where
another could be made. Tests of one round run at the same time.

Up to 32 nodes are all paired anew in every round: it takes no longer, and tells more. So are those of a larger
cluster whose pairs are so uneven that many nodes may be slow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from llmbench.results.scan import BUS_BANDWIDTH, UNITS, Gate, Point, SoloTest
from llmbench.stats.scan.gates import gate
from llmbench.stats.scan.measure import Answer, Measure, Pair, Reading

ROUNDS = 3
SMALL = 32
"""Clusters of up to so many nodes are measured as a whole in every round."""
_UNEVEN_SPREAD, _UNEVEN_SHARE = 0.05, 0.1
"""With this spread, or with this share of the nodes far above the median, many nodes of a cluster may be slow."""
_SLOWEST, _FASTEST = 1e-30, 1e30
"""Beyond these a number is no measurement, in whatever unit."""
_ENOUGH = 3
"""Low tests with fast partners after which a node need not be asked again."""


@dataclass(frozen=True)
class Test:
    """One pair test. A failed one has value 0, and the reason. ``best`` is what it reached once, if it tells."""

    a: str
    b: str
    round: int
    value: float
    reason: str | None = None
    best: float | None = None
    uncertainty: float = 0.0
    times: int = 1
    points: tuple[Point, ...] = ()

    @property
    def at_best(self) -> float:
        return self.value if self.best is None else self.best

    def partner(self, node: str) -> str:
        return self.b if node == self.a else self.a


@dataclass
class Measurements:
    """All that was measured so far.

    Attributes:
        solo: tests of each node, in the order they were made.
        pairs: all pair tests, in the order they were made.
        alive: nodes that have answered on their own.
        uncertainty: of solo metrics, the largest of their readings.
    """

    nodes: Sequence[str]
    solo: dict[str, list[SoloTest]] = field(default_factory=lambda: defaultdict(list))
    pairs: list[Test] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    uncertainty: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def metrics(self) -> list[str]:
        names = {name: None for tests in self.solo.values() for test in tests for name in test.values}
        return list(names)

    def estimate(self, node: str, metric: str) -> float | None:
        """The best of the repetitions, or without any the first value: that one was picked for being low."""
        return self._most([test.values.get(metric) for test in self._deciding(node)])

    def at_best(self, node: str, metric: str) -> float | None:
        """The same of what was reached once: who is below the gate even so is slow."""
        return self._most([test.best.get(metric, test.values.get(metric)) for test in self._deciding(node)])

    def _deciding(self, node: str) -> Sequence[SoloTest]:
        return self.solo[node][1:] or self.solo[node]

    @staticmethod
    def _most(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)


@dataclass(frozen=True)
class Picture:
    """What the measurements so far tell.

    Attributes:
        gate: of the pair tests; None before there is one that worked.
        tests: of each node.
        fast: nodes that were fast with somebody.
        solo: gates of the solo metrics.
    """

    gate: Gate | None
    tests: Mapping[str, Sequence[Test]]
    fast: frozenset[str]
    solo: Mapping[str, Gate]

    def is_low(self, test: Test) -> bool:
        return test.value <= 0 or (self.gate is not None and test.at_best < self.gate.threshold)

    def incriminating(self, node: str) -> list[Test]:
        """Low tests that the partner cannot be blamed for."""
        return [test for test in self.tests[node] if self.is_low(test) and test.partner(node) in self.fast]

    def low_links(self) -> dict[Pair, list[Test]]:
        """Pairs that were low although both nodes are fast, with all their tests."""
        found: dict[Pair, list[Test]] = {}
        for node in self.fast:
            for test in self.incriminating(node):
                pair = (test.a, test.b)
                found[pair] = [other for other in self.tests[node] if {other.a, other.b} == set(pair)]
        return found


def scan(
    nodes: Sequence[str], measure: Measure, *, seed: int = 0, rounds: int = ROUNDS, every_link: bool = False
) -> Measurements:
    """Measures what has to be measured, and no more; ``judge`` says what it means.

    Args:
        nodes: distinct names, one or more.
        seed: of the choice of partners.
        rounds: at most so many rounds of pair tests; more help where many nodes are slow.
        every_link: tests each pair first, in n - 1 rounds (the circle method), instead of one random matching.
    """
    random = Random(seed)
    seen = Measurements(nodes)
    _ask_nodes(seen, measure, nodes, 1)
    schedule = _circle(seen.alive, random) if every_link else [_matching(seen.alive, random)]
    for number, pairs in enumerate(schedule, 1):
        _ask_pairs(seen, measure, pairs, number)
    for number in range(len(schedule) + 1, len(schedule) + rounds):
        again = _nodes_to_repeat(seen)
        _ask_nodes(seen, measure, again, number)
        pairs = _next_pairs(seen, random)
        _ask_pairs(seen, measure, pairs, number)
        if not again and not pairs:
            break
    return seen


def picture(seen: Measurements) -> Picture:
    """What the measurements so far tell."""
    tests: dict[str, list[Test]] = defaultdict(list)
    for test in seen.pairs:
        tests[test.a].append(test)
        tests[test.b].append(test)
    pair_gate = _pair_gate(seen.pairs, tests)
    limit = pair_gate.threshold if pair_gate else math.inf
    fast = frozenset(node for node, made in tests.items() if any(test.at_best >= limit for test in made))
    solo = {}
    for metric in seen.metrics():
        values = [
            value for made in seen.solo.values() for test in made if (value := test.values.get(metric)) is not None
        ]
        if values:
            solo[metric] = gate(metric, UNITS.get(metric, ""), values, seen.uncertainty[metric])
    return Picture(pair_gate, tests, fast, solo)


def _pair_gate(pairs: Sequence[Test], tests: Mapping[str, Sequence[Test]]) -> Gate | None:
    """From the tests between nodes that are not slow.

    A slow node spoils all its pairs, so of 8 nodes with 2 slow ones half of the pairs are low: the median of the nodes,
    each by its best partner, bears that.
    """
    best = {node: value for node, made in tests.items() if (value := max(test.at_best for test in made)) > 0}
    if not best:
        return None
    unsure = max(test.uncertainty for test in pairs)
    rough = gate(BUS_BANDWIDTH, UNITS[BUS_BANDWIDTH], list(best.values()), unsure).threshold
    clean = [t.value for t in pairs if t.value > 0 and min(best.get(t.a, 0), best.get(t.b, 0)) >= rough]
    return gate(BUS_BANDWIDTH, UNITS[BUS_BANDWIDTH], clean or list(best.values()), unsure)


def _ask_nodes(seen: Measurements, measure: Measure, nodes: Sequence[str], number: int) -> None:
    if not nodes:
        return
    answers = measure.solo(nodes)
    for node in nodes:
        answer = answers.get(node, "no answer")
        if isinstance(answer, str):
            seen.solo[node].append(SoloTest(round=number, reason=answer))
            continue
        readings = {name: _reading(value) for name, value in answer.items()}
        strange = [f"{name} was {_said(answer[name])}" for name, reading in readings.items() if reading is None]
        known = {name: reading for name, reading in readings.items() if reading is not None}
        for name, reading in known.items():
            seen.uncertainty[name] = max(seen.uncertainty[name], reading.uncertainty)
        test = SoloTest(
            round=number,
            values={name: reading.value if reading else None for name, reading in readings.items()},
            best={name: reading.at_best for name, reading in known.items() if reading.best is not None},
            notes={name: reading.note for name, reading in known.items() if reading.note},
            reason="; ".join(strange) or None,
        )
        seen.solo[node].append(test)
        if node not in seen.alive:
            seen.alive.append(node)


def _ask_pairs(seen: Measurements, measure: Measure, pairs: Sequence[Pair], number: int) -> None:
    if not pairs:
        return
    pairs = sorted((min(pair), max(pair)) for pair in pairs)
    answers = measure.pair(pairs)
    for a, b in pairs:
        answer = answers.get((a, b), "no answer")
        reading = None if isinstance(answer, str) else _reading(answer)
        if reading is None:
            reason = answer if isinstance(answer, str) else f"bus bandwidth was {_said(answer)}"
            seen.pairs.append(Test(a, b, number, 0.0, reason))
        else:
            best = None if reading.best is None else reading.at_best
            seen.pairs.append(
                Test(a, b, number, reading.value, None, best, reading.uncertainty, reading.times, reading.points)
            )


def _reading(answer: Answer) -> Reading | None:
    """None if it is no measurement."""
    reading = answer if isinstance(answer, Reading) or answer is None else Reading(answer)
    if reading is None or not (_SLOWEST < reading.value <= reading.at_best < _FASTEST):
        return None
    return reading


def _said(answer: Answer) -> float | None:
    return answer.value if isinstance(answer, Reading) else answer


def _nodes_to_repeat(seen: Measurements) -> list[str]:
    """Nodes that failed, or were low, on their own; of a small cluster all."""
    if len(seen.nodes) <= SMALL:
        return list(seen.nodes)
    gates = picture(seen).solo

    def doubtful(node: str) -> bool:
        values = {metric: seen.at_best(node, metric) for metric in gates}
        return node not in seen.alive or any(
            value is None or value < gates[metric].threshold for metric, value in values.items()
        )

    return [node for node in seen.nodes if len(seen.solo[node]) > 1 or doubtful(node)]


def _next_pairs(seen: Measurements, random: Random) -> list[Pair]:
    """Pairs that answer what is open: links first, then nodes, and a small cluster's idle nodes last."""
    now = picture(seen)
    met: dict[str, set[str]] = defaultdict(set)
    for test in seen.pairs:
        met[test.a].add(test.b)
        met[test.b].add(test.a)
    free = set(seen.alive)
    plan: list[Pair] = []

    def take(a: str, b: str) -> None:
        plan.append((a, b))
        free.difference_update((a, b))

    once = {pair: tests[0].value for pair, tests in now.low_links().items() if len(tests) == 1}
    for a, b in sorted(once, key=lambda pair: (once[pair], pair)):
        if a in free and b in free:
            take(a, b)
    open_nodes = _open_nodes(seen, now)
    partners = _partners(seen, now, random)
    for node in open_nodes:
        partner = next((other for other in partners if other in free and other not in met[node]), None)
        if node in free and partner is not None:
            take(node, partner)
    left = seen.alive if len(seen.nodes) <= SMALL or _is_uneven(now) else open_nodes
    for a, b in _unmet([node for node in left if node in free], met, random):
        take(a, b)
    return plan


def _is_uneven(now: Picture) -> bool:
    """Whether the median may be that of slow pairs: where 30 % of the nodes are slow, half of the pairs are.

    Then all are paired anew in every round, as in a small cluster: of three partners one is fast, most likely.
    """
    if now.gate is None:
        return False
    far = now.gate.median * (1 + 2 * now.gate.share)
    above = sum(any(test.value > far for test in made) for made in now.tests.values())
    return now.gate.spread > _UNEVEN_SPREAD or above > _UNEVEN_SHARE * len(now.tests)


def _open_nodes(seen: Measurements, now: Picture) -> list[str]:
    """Nodes of which it is not known whether they are slow; those against which there is most evidence first."""
    evidence = {node: len(now.incriminating(node)) for node in seen.alive if node not in now.fast}
    return sorted((node for node, low in evidence.items() if low < _ENOUGH), key=lambda node: (-evidence[node], node))


def _partners(seen: Measurements, now: Picture, random: Random) -> list[str]:
    """Nodes known to be fast, in random order; those that were above the median every time first."""
    median = now.gate.median if now.gate else 0.0
    fast = [node for node in seen.alive if node in now.fast]
    random.shuffle(fast)
    return sorted(fast, key=lambda node: min(test.value for test in now.tests[node]) < median)


def _matching(nodes: Iterable[str], random: Random) -> list[Pair]:
    shuffled = list(nodes)
    random.shuffle(shuffled)
    return list(zip(shuffled[::2], shuffled[1::2], strict=False))


def _unmet(nodes: Sequence[str], met: Mapping[str, set[str]], random: Random, tries: int = 20) -> list[Pair]:
    """As many pairs as can be found of nodes that were not paired before: the best of some random greedy matchings."""
    best: list[Pair] = []
    for _ in range(tries if len(nodes) > 1 else 0):
        free = list(nodes)
        random.shuffle(free)
        found: list[Pair] = []
        while free:
            node = free.pop()
            partner = next((other for other in free if other not in met[node]), None)
            if partner is not None:
                free.remove(partner)
                found.append((node, partner))
        best = max(best, found, key=len)
        if len(best) == len(nodes) // 2:
            break
    return best


def _circle(nodes: Sequence[str], random: Random) -> list[list[Pair]]:
    """Every pair once in n - 1 rounds (n, if n is odd): the circle method of round-robin tournaments."""
    ring: list[str | None] = list(nodes)
    random.shuffle(ring)
    if len(ring) % 2:
        ring.append(None)
    rounds = []
    for _ in range(max(1, len(ring) - 1)):
        opposite = zip(ring[: len(ring) // 2], reversed(ring[len(ring) // 2 :]), strict=True)
        rounds.append([(a, b) for a, b in opposite if a is not None and b is not None])
        ring = [*ring[:1], *ring[-1:], *ring[1:-1]]
    return rounds
