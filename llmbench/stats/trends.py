"""Cases over many runs: series of what compares, their steps, and the state that each is in."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Literal

from llmbench.errors import UserError, nearest
from llmbench.results.environment import HOST, Difference, differences
from llmbench.results.history import History
from llmbench.results.past import Base, PastRecord, PastRun
from llmbench.results.schema import BROKEN
from llmbench.stats.changes import FEWEST, SHORTEST, changes, noise_scale
from llmbench.stats.metrics import Metric, Value, ratio

RECENT = 30
"""Values before the latest that its median is of."""
SMALLEST = 0.01
"""Steps of less are none, if not asked otherwise."""
UNUSUAL = 5.0
"""Noise scales from the level, beyond which the latest value is unusual."""

State = Literal["failing", "worse", "unusual", "better", "few", "steady", "replaced"]
STATES: tuple[State, ...] = ("failing", "worse", "unusual", "better", "few", "steady", "replaced")
"""The most urgent first."""

# Settings that bound how long is measured, and change nothing of what is.
_LIMITS = frozenset({"deadline_seconds", "budget_seconds", "interval_target", "eval_batches"})


@dataclass(frozen=True)
class Point:
    """One case in one run; ``value`` is None where it has no valid one."""

    run: PastRun
    status: str
    reason: str
    value: Value | None

    @property
    def broken(self) -> bool:
        return self.status in BROKEN


@dataclass(frozen=True)
class Step:
    """A change of the level that lasted.

    Attributes:
        index: of the first point at the new level, among the trend's.
        size: of the new level over the old one, - 1; with its 95 % interval, as if its place were known.
        worse: whether it went the wrong way.
        before: the last run at the old level.
        after: the first run at the new level.
        changed: what of the environment is not the same in the two.
    """

    index: int
    size: float
    interval: tuple[float, float]
    worse: bool
    before: PastRun
    after: PastRun
    changed: list[Difference]


@dataclass(frozen=True)
class Shift:
    """Where the environment of a trend changed: at the point of this index. The host's name alone is no change."""

    index: int
    run: PastRun
    changed: list[Difference]


@dataclass
class Trend:
    """A case on one kind of machine with one configuration, the oldest point first.

    Attributes:
        base: of ratios that were measured in lock-step, against what.
    """

    case: str
    machine: str
    config: Mapping[str, Any]
    unit: str
    points: list[Point]
    base: Base | None = None
    told_apart: str = ""
    steps: list[Step] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    state: State = "steady"

    @property
    def measured(self) -> list[Point]:
        return [point for point in self.points if point.value is not None]

    @property
    def latest(self) -> float | None:
        values = self.values
        return values[-1] if values else None

    @property
    def values(self) -> list[float]:
        return [point.value.value for point in self.points if point.value is not None]

    @property
    def to_previous(self) -> float | None:
        """The latest value over the one before, - 1."""
        values = self.values
        return values[-1] / values[-2] - 1 if len(values) > 1 else None

    @property
    def to_median(self) -> float | None:
        """The latest value over the median of up to 30 before it, - 1."""
        values = self.values
        return values[-1] / median(values[-1 - RECENT : -1]) - 1 if len(values) > 1 else None


def trends(
    history: History,
    metric: Metric,
    *,
    cases: Collection[str] | None = None,
    reference: str | None = None,
    last: int | None = None,
    smallest: float = SMALLEST,
) -> list[Trend]:
    """Every case as a series, the most urgent first.

    A series holds what compares: one case on one kind of machine (device, its name and number, CPU) with one
    configuration (limits of time left out) and one unit; of a loss also the same data, of a ratio the same base.

    Args:
        cases: only these.
        reference: divide each value by that of this case in the same run; ``eager``: of the eager case of the same
            workload. What has none there has no value.
        last: of each series only the newest points.
        smallest: steps of less are none, as a share.

    Raises:
        UserError: no run has the reference.
    """
    valued = zip(history.records, _valued(history, metric, reference), strict=True)
    wanted = [(record, value) for record, value in valued if cases is None or record.case in cases]
    found = _grouped([one for one in wanted if one[0].case != reference_case(one[0].case, reference)], metric)
    told = _between()
    for trend in found:
        if last is not None:
            trend.points = trend.points[-last:]
        trend.shifts = _shifts(trend.points, told)
        trend.steps = _steps(trend, metric, smallest, told)
        trend.state = _state(trend)
    _mark_replaced(found)
    _tell_apart(found)
    return sorted(found, key=lambda trend: STATES.index(trend.state))


def fallen(found: Sequence[Trend], limit: float) -> list[Trend]:
    """The trends whose newest step is for the worse, by more than ``limit`` as a share of the level before."""
    newest = [(trend, trend.steps[-1]) for trend in found if trend.steps and trend.state != "replaced"]
    return [trend for trend, step in newest if step.worse and abs(step.size) > limit]


def _valued(history: History, metric: Metric, reference: str | None) -> list[Value | None]:
    """The value of each record, None where it does not count."""
    own = [metric.read(record.parts) if record.parts.get("status") == "ok" else None for record in history.records]
    if reference is None:
        return own
    beside = {(id(record.run), record.case): value for record, value in zip(history.records, own, strict=True)}
    known = {case for _, case in beside}
    if reference != "eager" and reference not in known:
        raise UserError(
            f"no run has the case {reference}", f"--reference is a case or eager; {nearest(reference, known)}"
        )
    ratios: list[Value | None] = []
    for record, value in zip(history.records, own, strict=True):
        base = beside.get((id(record.run), reference_case(record.case, reference) or ""))
        ratios.append(ratio(value, base) if value and base else None)
    return ratios


def reference_case(case: str, reference: str | None) -> str | None:
    return f"{case.rsplit('/', 2)[0]}/eager/ws1" if reference == "eager" else reference


_Apart = tuple[Mapping[str, Any], str, Base | None]  # configuration, data, base


def _grouped(valued: Sequence[tuple[PastRecord, Value | None]], metric: Metric) -> list[Trend]:
    kinds: dict[tuple[str, str], list[tuple[_Apart, Trend]]] = {}
    for record, value in valued:
        config, unit = _measured(record), value.unit if value else ""
        apart = (config, record.run.data if metric.of_data else "", record.base)
        known = kinds.setdefault((record.case, _machine(record)), [])
        alike = (one for key, one in reversed(known) if key == apart and (not unit or one.unit in ("", unit)))
        trend = next(alike, None)
        if trend is None:
            trend = Trend(record.case, _machine(record), config, "", [], record.base)
            known.append((apart, trend))
        if value:
            trend.unit = value.unit
        trend.points.append(Point(record.run, _status(record), _reason(record), value))
    return [trend for known in kinds.values() for _, trend in known]


def _measured(record: PastRecord) -> Mapping[str, Any]:
    config = record.parts.get("config")
    if not isinstance(config, dict):
        return {}
    return {key: value for key, value in config.items() if key not in _LIMITS}


def _machine(record: PastRecord) -> str:
    kind = record.device.partition(":")[0]
    return record.run.hardware.get(kind, kind)


def _status(record: PastRecord) -> str:
    status = record.parts.get("status")
    return status if isinstance(status, str) else ""


def _reason(record: PastRecord) -> str:
    error = record.parts.get("error")
    if not isinstance(error, dict):
        return ""
    return ": ".join(str(error[key]) for key in ("type", "message") if error.get(key))


Between = Callable[[PastRun, PastRun], list[Difference]]


def _between() -> Between:
    """Differences of two runs, each pair looked at once: all cases of a run share its environment."""
    known: dict[tuple[int, int], list[Difference]] = {}

    def told(before: PastRun, after: PastRun) -> list[Difference]:
        key = (id(before), id(after))
        if key not in known:
            known[key] = differences(before.environment, after.environment)
        return known[key]

    return told


def _shifts(points: Sequence[Point], told: Between) -> list[Shift]:
    found = []
    for index, (before, after) in enumerate(pairwise(points), start=1):
        changed = [one for one in told(before.run, after.run) if one.key != HOST]
        if changed:
            found.append(Shift(index, after.run, changed))
    return found


def _steps(trend: Trend, metric: Metric, smallest: float, told: Between) -> list[Step]:
    places = [index for index, point in enumerate(trend.points) if point.value is not None]
    logs = [math.log(value) for value in trend.values]
    steps = []
    for change in changes(logs, noise=_noise(trend), smallest=math.log1p(smallest)):
        before, after = trend.points[places[change.index - 1]].run, trend.points[places[change.index]].run
        ends = (change.size - change.half_width, change.size + change.half_width)
        steps.append(
            Step(
                index=places[change.index],
                size=_relative(change.size),
                interval=(_relative(ends[0]), _relative(ends[1])),
                worse=(change.size < 0) == metric.higher,
                before=before,
                after=after,
                changed=told(before, after),
            )
        )
    return steps


def _relative(log_ratio: float) -> float:
    return math.expm1(min(700.0, log_ratio))


def _noise(trend: Trend) -> float:
    """Standard deviation within a run, of the logarithm: runs differ at least as much."""
    widths = [width for point in trend.measured if point.value and (width := point.value.log_half_width) is not None]
    return median(widths) / 1.96 if widths else 0.0


def _state(trend: Trend) -> State:
    if trend.points[-1].broken:
        return "failing"
    if trend.steps and trend.steps[-1].worse:
        return "worse"
    if _unusual(trend):
        return "unusual"
    if trend.steps:
        return "better"
    return "few" if len(trend.values) < FEWEST else "steady"


def _unusual(trend: Trend) -> bool:
    """Whether the latest value lies far off the level of those before, but not for long enough to be a step."""
    logs = [math.log(value) for value in trend.values]
    level = logs[_level_start(trend) : 1 - SHORTEST]
    if len(level) < FEWEST:
        return False
    scale = max(_noise(trend), noise_scale(logs), math.log1p(SMALLEST) / UNUSUAL)
    return abs(logs[-1] - median(level)) > UNUSUAL * scale


def _level_start(trend: Trend) -> int:
    """The first value of the newest level, among the values."""
    if not trend.steps:
        return 0
    return sum(point.value is not None for point in trend.points[: trend.steps[-1].index])


def _mark_replaced(found: Sequence[Trend]) -> None:
    """What is measured with another configuration by now is over."""
    newest: dict[tuple[str, str], Trend] = {}
    for trend in found:
        key = (trend.case, trend.machine)
        if key not in newest or trend.points[-1].run.started_at >= newest[key].points[-1].run.started_at:
            newest[key] = trend
    for trend in found:
        if trend is not newest[trend.case, trend.machine]:
            trend.state = "replaced"


def _tell_apart(found: Sequence[Trend]) -> None:
    """Names what differs, where a case has several series."""
    of_case: dict[str, list[Trend]] = {}
    for trend in found:
        of_case.setdefault(trend.case, []).append(trend)
    for alike in of_case.values():
        machines = {trend.machine for trend in alike}
        for trend in alike if len(alike) > 1 else ():
            parts = [trend.machine] if len(machines) > 1 else []
            parts += [f"{key} {trend.config.get(key)}" for key in _varying(trend, alike)]
            parts += _base_apart(trend, alike)
            parts += [trend.unit] if trend.unit and len({one.unit for one in alike}) > 1 else []
            trend.told_apart = ", ".join(parts)


def _varying(trend: Trend, alike: Sequence[Trend]) -> list[str]:
    others = [one for one in alike if one.machine == trend.machine]
    keys = dict.fromkeys(key for one in others for key in one.config)
    return [key for key in keys if any(one.config.get(key) != trend.config.get(key) for one in others)]


def _base_apart(trend: Trend, alike: Sequence[Trend]) -> list[str]:
    """``over 1a2b3c4``; of bases of one name also what differs in them."""
    bases = [one.base for one in alike if one.base]
    if trend.base is None or all(base == trend.base for base in bases):
        return []
    name, software = trend.base.name, trend.base.software
    others = [base.software for base in bases if base.name == name]
    keys = dict.fromkeys(key for other in others for key in (*software, *other) if other.get(key) != software.get(key))
    return [f"over {name}", *(f"its {key} {software.get(key, 'none')}" for key in list(keys)[:2])]
