"""The schema of what ``llmbench scan --json`` prints: each node and each pair test with its verdict, and the gates.

Units stand in a field's name, or beside the value. A value that could not be measured is ``null`` with a reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from llmbench.errors import UserError
from llmbench.results.schema import Part

SCAN_SCHEMA_VERSION = 1
_MOST = 10**9
"""Counts beyond this are no counts: a crafted file shall not make arithmetic fail."""
BUS_BANDWIDTH = "bus_bandwidth"

NodeVerdict = Literal["failed", "slow", "suspect", "unknown", "ok"]
LinkVerdict = Literal["failed", "slow", "suspect"]
TestVerdict = Literal["failed", "low", "unknown", "ok"]

UNITS: dict[str, str] = {
    BUS_BANDWIDTH: "B/s",
    "matmul": "FLOP/s",
    "memory_bandwidth": "B/s",
}
"""Of what a scan measures. In every one more is better."""


class SoloTest(Part):
    """One node on its own: ``values`` by metric, in the unit that its gate names."""

    round: int = Field(ge=0, le=_MOST)
    values: dict[str, float | None] = Field(default_factory=dict)
    best: dict[str, float] = Field(
        default_factory=dict, description="what was reached once, on a machine that nodes share; it decides there"
    )
    notes: dict[str, str] = Field(default_factory=dict, description="by metric: what may explain the value")
    reason: str | None = Field(None, description="why there is no value")


class Gate(Part):
    """What counts as low, from the cluster's own measurements of one metric."""

    metric: str
    unit: str
    values: int = Field(ge=0, le=_MOST, description="measurements it was made from")
    median: float
    spread: float = Field(description="robust standard deviation of one measurement, as a share of the median")
    share: float = Field(description="how far below the median is low, as a share of it")
    threshold: float = Field(description="median · (1 − share): what is below it is low")


class ScanNode(Part):
    """A node and what was found. ``below`` is how far its worst metric is below the median, as a share of it."""

    name: str
    host: str | None = None
    verdict: NodeVerdict
    evidence: str
    metrics: list[str] = Field(default_factory=list, description="metrics that are low")
    below: float | None = None
    estimates: dict[str, float | None] = Field(
        default_factory=dict,
        description="by metric: a solo metric's best of the repetitions; bus bandwidth of its best partner, in bytes/s",
    )
    solo: list[SoloTest] = Field(default_factory=list)


class Point(Part):
    """One size of one collective. Bus bandwidth as nccl-tests define it."""

    collective: str
    message_bytes: int = Field(ge=0, le=2**62)
    bus_bandwidth_bytes_per_s: float | None


class PairTest(Part):
    """Two nodes at once. The bus bandwidth that decides, and the curves behind it."""

    a: str
    b: str
    round: int = Field(ge=0, le=_MOST)
    bus_bandwidth_bytes_per_s: float | None
    best_bytes_per_s: float | None = Field(
        None, description="the best repetition, on a machine that nodes share; it decides there"
    )
    verdict: TestVerdict
    reason: str | None = None
    points: list[Point] = Field(default_factory=list)


class SlowLink(Part):
    """A pair that is slow although both nodes are fast with others. A suspect was low once and not asked again."""

    a: str
    b: str
    verdict: LinkVerdict
    evidence: str
    below: float | None = None


class Truth(Part):
    """What a simulation planted."""

    slow_nodes: list[str]
    slow_links: list[tuple[str, str]]
    failed_nodes: list[str]
    slowdown: dict[str, float] = Field(description="by slow node: the share of its speed that it lacks")
    fault: dict[str, str] = Field(description="by slow node: network, compute or both")


class Scan(Part):
    """A scan of a cluster.

    ``slow_nodes``, ``slow_links`` and ``failed_nodes`` are those that were named; suspects are not among them.
    """

    kind: Literal["scan"] = "scan"
    schema_version: int = SCAN_SCHEMA_VERSION
    llmbench: str
    started_at: str
    seconds: float
    command: list[str]
    simulated: bool
    simulation: dict[str, int | float | str] | None = None
    truth: Truth | None = None
    slow_nodes: list[str]
    slow_links: list[tuple[str, str]]
    failed_nodes: list[str]
    exclude: list[str] = Field(description="nodes to leave out of jobs: the slow and the failed")
    rounds: int = Field(ge=0, le=_MOST, description="rounds of pair tests; those of one round run at the same time")
    pair_tests: int = Field(ge=0, le=_MOST)
    every_link: bool = Field(False, description="whether each pair was tested, not one random matching")
    machines: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="that the nodes run on; those that share one are measured one after the other",
    )
    gates: list[Gate]
    nodes: list[ScanNode]
    links: list[SlowLink]
    pairs: list[PairTest]

    @property
    def found(self) -> bool:
        return bool(self.slow_nodes or self.slow_links or self.failed_nodes)


def is_scan(document: Any) -> bool:
    """Whether a JSON document is one of ``llmbench scan``."""
    return isinstance(document, Mapping) and document.get("kind") == "scan"


def read_scan(path: Path) -> Scan | None:
    """The scan in a file; None if the file is readable JSON of another kind, or no JSON at all.

    Raises:
        UserError: it is a scan with a field that is missing or wrong, or of a newer schema; the field is named.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return parse_scan(document, str(path)) if is_scan(document) else None


def parse_scan(document: Any, source: str) -> Scan:
    """Raises: UserError: a field is missing or wrong, or the schema is newer; ``source`` and field are named."""
    version = document.get("schema_version") if isinstance(document, Mapping) else None
    if isinstance(version, int) and version > SCAN_SCHEMA_VERSION:
        raise UserError(
            f"{source}: schema_version {version} is newer than {SCAN_SCHEMA_VERSION}, the newest known here",
            "update llmbench",
        )
    try:
        return Scan.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{source}: {field}: {first['msg']}", "write it anew with `llmbench scan --json`") from None


def quantity(value: float, unit: str) -> str:
    """``48.2 GB/s``, ``712 TFLOP/s``: three digits and a decimal prefix."""
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= 0.9995 * f), (1.0, ""))
    scaled = value / factor
    digits = f"{scaled:#.3g}".rstrip(".") if 0.001 <= abs(scaled) < 1000 else f"{scaled:.3g}"
    return f"{digits} {prefix}{unit}"


_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
