"""What a history can follow of a case: where it stands in a record, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Parts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Value:
    """A positive, finite number; ``interval`` is of 95 %, where there is one. Values of two units never compare."""

    value: float
    unit: str
    interval: tuple[float, float] | None = None

    @property
    def log_half_width(self) -> float | None:
        if self.interval is None or self.interval[0] <= 0:
            return None
        return (math.log(self.interval[1]) - math.log(self.interval[0])) / 2


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        higher: whether more of it is better.
        read: its value in the parts of a record, None where it has none that means something.
        of_data: whether other data makes it another figure.
        of_comparisons: whether it is of A/B comparisons (``stats/ratios.py``), and not of runs.
    """

    name: str
    title: str
    higher: bool
    read: Callable[[Parts], Value | None]
    of_data: bool = False
    of_comparisons: bool = False


def _throughput(parts: Parts) -> Value | None:
    found = _mapping(parts.get("throughput"))
    value, unit = _positive(found.get("value")), found.get("unit")
    if value is None or not isinstance(unit, str):
        return None
    return Value(value, unit, _interval(found.get("ci95")))


def _step(parts: Parts) -> Value | None:
    """The median step: the mean is one over the throughput, and its interval is not the median's."""
    return _value(_mapping(parts.get("step_seconds")).get("median"), "s")


def _memory(parts: Parts) -> Value | None:
    """The peak of the device's allocator; on a CPU of the resident set."""
    found = _mapping(parts.get("memory"))
    return _value(found.get("peak_allocated_bytes"), "bytes allocated") or _value(
        found.get("peak_rss_bytes"), "bytes resident"
    )


def _energy(parts: Parts) -> Value | None:
    """Of a step: windows are not equally long."""
    joules = _positive(_mapping(parts.get("energy")).get("joules"))
    steps = _positive(_mapping(parts.get("throughput")).get("n"))
    return _value(joules / steps, "J a step") if joules and steps else None


def _loss(parts: Parts) -> Value | None:
    found = _mapping(parts.get("loss"))
    return _value(found.get("eval"), "held out") or _value(found.get("final"), "training")


def _ratio(name: str) -> Callable[[Parts], Value | None]:
    """Of the times in a comparison; both sides ran in turns, so that the machine's own changes cancel."""

    def read(parts: Parts) -> Value | None:
        found = _mapping(_mapping(parts.get("ratios")).get(name))
        value = _positive(found.get("value"))
        return Value(value, "×", _interval(found.get("ci95"))) if value is not None else None

    return read


METRICS = {
    metric.name: metric
    for metric in (
        Metric("throughput", "throughput", True, _throughput),
        Metric("step", "median step time", False, _step),
        Metric("memory", "peak memory", False, _memory),
        Metric("loss", "loss", False, _loss, of_data=True),
        Metric("energy", "energy of a step", False, _energy),
        Metric("ratio", "step time over the base's", False, _ratio("step"), of_comparisons=True),
        Metric("ratio-total", "all time over the base's", False, _ratio("total"), of_comparisons=True),
    )
}


def ratio(one: Value, other: Value) -> Value | None:
    """One over the other; both measured apart, so the half-widths of their logarithms add as squares."""
    share = _positive(one.value / other.value)
    if share is None or one.unit != other.unit:
        return None
    widths = (one.log_half_width, other.log_half_width)
    if widths[0] is None or widths[1] is None or (half := math.hypot(widths[0], widths[1])) > 100:
        return Value(share, "×")
    return Value(share, "×", _interval([share * math.exp(-half), share * math.exp(half)]))


def _value(number: Any, unit: str) -> Value | None:
    found = _positive(number)
    return Value(found, unit) if found is not None else None


def _interval(ends: Any) -> tuple[float, float] | None:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = _number(ends[0]), _positive(ends[1])
    return (low, high) if low is not None and high is not None and 0 <= low <= high else None


def _positive(value: Any) -> float | None:
    """Of what is zero, negative or absurd no relative change can be told."""
    number = _number(value)
    return number if number is not None and 1e-300 < number < 1e300 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
