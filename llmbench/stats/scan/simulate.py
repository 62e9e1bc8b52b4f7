"""A cluster that is not there, with slow nodes and links that are known: what a scan's decisions are tested against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random

from llmbench.errors import UserError, nearest
from llmbench.results.scan import Truth
from llmbench.stats.scan.measure import Pair

NOMINAL = {"matmul": 700e12, "memory_bandwidth": 3.3e12}
NOMINAL_BUS_BANDWIDTH = 48e9
"""Verdicts hang on ratios alone: these only make the figures look like those of a cluster."""

_EXAMPLE = "for example nodes=1024,slow=3,slowdown=0.1:0.3,noise=0.015,seed=1"
_MOST_NODES = 16_384
MOST_LINKED = 512
"""Nodes of which every pair can be simulated in a minute."""
FAULTS = ("network", "compute", "both")


@dataclass(frozen=True)
class Spec:
    """What to simulate.

    Attributes:
        slow: nodes that are slow, each by a share of its speed drawn from ``slowdown``.
        noise: standard deviation of each measurement, as a share of it.
        links: pairs that are slow by a share from ``slowdown`` though both nodes are fast. A scan finds a slow link
            only where it tests: they are among the pairs of the first round, or anywhere if every link is tested.
        dead: nodes that do not answer.
        hiccups: share of the measurements that are 10 to 50 % low for no reason.
        fault: where slow nodes are slow: in the network (seen by pairs), in compute (seen by the node's own tests), in
            both, or mixed: each node one of these by chance.
    """

    nodes: int = 64
    slow: int = 0
    slowdown: tuple[float, float] = (0.1, 0.3)
    noise: float = 0.015
    links: int = 0
    dead: int = 0
    hiccups: float = 0.0
    fault: str = "mixed"
    seed: int = 0

    def to_json(self) -> dict[str, int | float | str]:
        values = {name.name: getattr(self, name.name) for name in fields(self)}
        return values | {"slowdown": f"{self.slowdown[0]:g}:{self.slowdown[1]:g}"}


def parse_spec(text: str) -> Spec:
    """Raises: UserError: a part is unknown, doubled, no number, or out of range; the part is named."""
    given: dict[str, object] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise _wrong(part, "is not KEY=VALUE", _EXAMPLE)
        if key not in _READ:
            raise _wrong(part, f"there is no {key or 'part without a name'}", nearest(key, _READ))
        if key in given:
            raise _wrong(part, f"{key} is there twice", _EXAMPLE)
        given[key] = _READ[key](part, value)
    spec = Spec(**given)  # type: ignore[arg-type]  # each was read by the reader of its field
    broken = spec.slow + spec.dead
    if broken > spec.nodes:
        raise _wrong(text, f"{broken} slow and dead nodes of {spec.nodes}", "ask for fewer, or for more nodes")
    if spec.links > max(0, spec.nodes // 2 - broken):
        raise _wrong(
            text,
            f"{spec.links} slow links, but of {spec.nodes // 2} pairs {broken} may have a slow or dead node",
            "ask for fewer, or for more nodes",
        )
    return spec


def _wrong(part: str, what: str, hint: str) -> UserError:
    return UserError(f"--simulate: `{part.strip()}`: {what}", hint)


def _whole(low: int, high: int) -> Callable[[str, str], int]:
    def read(part: str, value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise _wrong(part, "not a whole number", _EXAMPLE) from None
        if not low <= number <= high:
            raise _wrong(part, f"not from {low} to {high}", _EXAMPLE)
        return number

    return read


def _share(part: str, value: str, below: float = 1.0) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _wrong(part, "not a number", _EXAMPLE) from None
    if not (math.isfinite(number) and 0 <= number < below):
        raise _wrong(part, f"not a share from 0 to below {below:g}", _EXAMPLE)
    return number


def _range(part: str, value: str) -> tuple[float, float]:
    low, colon, high = value.partition(":")
    first = _share(part, low)
    last = _share(part, high) if colon else first
    if not 0 < first <= last:
        raise _wrong(part, "not LOW:HIGH with 0 < LOW ≤ HIGH", _EXAMPLE)
    return first, last


def _fault(part: str, value: str) -> str:
    if value not in (*FAULTS, "mixed"):
        raise _wrong(part, "not a kind of fault", nearest(value, (*FAULTS, "mixed")))
    return value


_READ: dict[str, Callable[[str, str], object]] = {
    "nodes": _whole(1, _MOST_NODES),
    "slow": _whole(0, _MOST_NODES),
    "slowdown": _range,
    "noise": lambda part, value: _share(part, value, 0.5),
    "links": _whole(0, _MOST_NODES),
    "dead": _whole(0, _MOST_NODES),
    "hiccups": _share,
    "fault": _fault,
    "seed": _whole(0, 2**63 - 1),
}


class SimulatedCluster:
    """Answers as a cluster would: a pair is as fast as the slowest of its two nodes and its link, times noise."""

    def __init__(self, spec: Spec, *, every_link: bool = False) -> None:
        digits = max(2, len(str(spec.nodes - 1)))
        self.nodes = [f"node-{number:0{digits}}" for number in range(spec.nodes)]
        self._spec = spec
        self._every_link = every_link
        self._random = Random(f"cluster {spec.seed}")
        chosen = self._random.sample(self.nodes, spec.slow + spec.dead)
        self._dead = sorted(chosen[spec.slow :])
        self._slowdown = {node: self._random.uniform(*spec.slowdown) for node in sorted(chosen[: spec.slow])}
        self._fault = {
            node: self._random.choice(FAULTS) if spec.fault == "mixed" else spec.fault for node in self._slowdown
        }
        self._links: dict[Pair, float] | None = None

    @property
    def truth(self) -> Truth:
        """What was planted. Slow links are chosen when the first pairs are tested."""
        return Truth(
            slow_nodes=list(self._slowdown),
            slow_links=sorted(self._links or {}),
            failed_nodes=self._dead,
            slowdown=self._slowdown,
            fault=self._fault,
        )

    def solo(self, nodes: Sequence[str]) -> Mapping[str, Mapping[str, float | None] | str]:
        return {
            node: "no answer within 60 s (simulated)"
            if node in self._dead
            else {metric: self._read(nominal * self._speed(node, "compute")) for metric, nominal in NOMINAL.items()}
            for node in nodes
        }

    def pair(self, pairs: Sequence[Pair]) -> Mapping[Pair, float | str | None]:
        links = self._plant(pairs) if self._links is None else self._links
        return {
            (a, b): self._read(
                NOMINAL_BUS_BANDWIDTH
                * min(self._speed(a, "network"), self._speed(b, "network"), 1 - links.get((a, b), 0))
            )
            for a, b in pairs
        }

    def _plant(self, pairs: Sequence[Pair]) -> dict[Pair, float]:
        healthy = [node for node in self.nodes if node not in self._slowdown and node not in self._dead]
        if self._every_link:
            candidates = list(itertools.combinations(healthy, 2)) if self._spec.links else []
        else:
            candidates = [pair for pair in pairs if set(pair) <= set(healthy)]
        self._links = {
            pair: self._random.uniform(*self._spec.slowdown)
            for pair in self._random.sample(candidates, min(self._spec.links, len(candidates)))
        }
        return self._links

    def _speed(self, node: str, where: str) -> float:
        slow = node in self._slowdown and self._fault[node] in (where, "both")
        return 1 - self._slowdown[node] if slow else 1.0

    def _read(self, value: float) -> float:
        """One measurement of a true value."""
        spec = self._spec
        if spec.hiccups and self._random.random() < spec.hiccups:
            value *= self._random.uniform(0.5, 0.9)
        return max(0.01 * value, value * self._random.gauss(1, spec.noise))
