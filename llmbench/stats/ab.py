"""What the sessions of an A/B comparison say: one verdict for each case and metric, and one for the gate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Literal, get_args

from llmbench.results.ab import Ab, AbCase, AbGate, AbSession, SideName
from llmbench.stats.gates import LossChange, MemoryChange, loss_change, memory_change
from llmbench.stats.lockstep import METRICS, Difference, Gate, TimeMetric, differences, given_up, judge, settled
from llmbench.stats.student import quantile
from llmbench.stats.verdicts import final
from llmbench.suite.cases import from_plan

Metric = TimeMetric | Literal["memory", "loss"]
Outcome = Literal[
    "broken", "slower", "more", "changed", "no base", "inconclusive", "faster", "less", "declared", "same"
]  # fmt: skip
"""Of a metric, and of a case the first that one of its metrics has: the most urgent stands first.

``broken``: the candidate failed; ``no base``: the base did. ``more`` and ``less`` are of memory, ``changed`` and
``declared`` of the loss; ``same`` of the loss is bitwise, or within what the arithmetic explains.
"""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
WORSE: frozenset[Outcome] = frozenset({"broken", "slower", "more", "changed"})
UNTOLD: frozenset[Outcome] = frozenset({"no base", "inconclusive"})
BASE_FAILED = 3  # exit code

LEAST_SESSIONS_OF_MARGIN = 5  # to tell whether final losses agree within a margin
_OUT_OF_MEMORY = "oom"


@dataclass(frozen=True)
class LossMargin:
    """Final losses of a declared change, candidate over base, over sessions with seeds of their own.

    Attributes:
        low, high: 90 % interval of the mean relative difference: it lies within ±limit if two one-sided tests of 5 %
            say so (Schuirmann 1987).
    """

    value: float
    low: float
    high: float
    limit: float
    sessions: int


@dataclass(frozen=True)
class Row:
    """One metric of one case. Only what belongs to the metric is there.

    Attributes:
        sessions: whole ones, on which the verdict stands.
        seconds: that they took.
        reason: why it is open, or what went wrong.
    """

    case: str
    metric: Metric
    outcome: Outcome
    sessions: int
    seconds: float
    time: Difference | None = None
    memory: MemoryChange | None = None
    loss: LossChange | LossMargin | None = None
    reason: str | None = None

    @property
    def worse(self) -> bool:
        return self.outcome in WORSE


@dataclass(frozen=True)
class CaseVerdict:
    """All that is told of one case.

    Attributes:
        rows: one for each metric; of a case that failed a single one.
        sessions: all of them, those that failed too.
        design: ``apart`` where both sides did not fit into memory at once.
        over: more sessions would not change it.
    """

    case: AbCase
    rows: Sequence[Row]
    sessions: Sequence[AbSession]
    design: Literal["lockstep", "apart"]
    over: bool

    @property
    def outcome(self) -> Outcome:
        return min((row.outcome for row in self.rows), key=OUTCOMES.index, default="inconclusive")

    @cached_property
    def counted(self) -> list[tuple[AbSession, Mapping[str, float]]]:
        """The sessions that the times stand on, and what each says (``differences``)."""
        whole = (one for one in self.sessions if one.whole and one.design == self.design)
        return [(one, told) for one in whole if (told := differences(one.rounds))]

    @property
    def seconds(self) -> float:
        return math.fsum(session.seconds for session in self.sessions)

    def row(self, metric: Metric) -> Row | None:
        return next((row for row in self.rows if row.metric == metric), None)


@dataclass(frozen=True)
class AbComparison:
    """Everything that is told of a comparison.

    Attributes:
        strict: what cannot be told fails the gate, too.
    """

    ab: Ab
    cases: Sequence[CaseVerdict]
    strict: bool = False

    @cached_property
    def counts(self) -> Counter[Outcome]:
        """How many cases have which outcome."""
        return Counter(case.outcome for case in self.cases)

    @property
    def rows(self) -> list[Row]:
        return [row for case in self.cases for row in case.rows]

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.worse]

    @property
    def false_alarms(self) -> list[Row]:
        """Of a self-check, whose sides are the same: all that was told to differ."""
        told = {*WORSE, "faster", "less"}
        return [row for row in self.rows if self.ab.self_check and row.outcome in told]

    @property
    def undecided(self) -> list[CaseVerdict]:
        return [case for case in self.cases if case.outcome in UNTOLD]

    @property
    def exit_code(self) -> int:
        """1 if anything got worse, or (strict) could not be told; 3 if a base failed, so that nobody can tell."""
        if self.failures:
            return 1
        if any(case.outcome == "no base" for case in self.cases):
            return BASE_FAILED
        return int(self.strict and bool(self.undecided or not self.cases))


def compared(ab: Ab, sessions: Sequence[AbSession], *, strict: bool = False) -> AbComparison:
    """The verdicts over all sessions that there are."""
    of_case = {case.id: [one for one in sessions if one.case == case.id] for case in ab.cases}
    return AbComparison(ab, [judged(ab, case, of_case[case.id]) for case in ab.cases], strict)


def gate_of(ab: Ab) -> Gate:
    """The rules of a comparison, its alpha split over its cases."""
    told: AbGate = ab.gate
    return Gate(told.tolerance, told.limit, told.alpha, told.beta, len(ab.cases), told.looks)


def judged(ab: Ab, case: AbCase, sessions: Sequence[AbSession]) -> CaseVerdict:
    """One case."""
    design = sessions[-1].design if sessions else "lockstep"
    alike = [one for one in sessions if one.design == design]
    whole = [one for one in alike if one.whole]
    seconds = math.fsum(one.seconds for one in whole)
    broken = _broken(case.id, alike, len(whole), seconds)
    if broken is not None:
        return CaseVerdict(case, [broken], sessions, design, over=True)
    gate = gate_of(ab)
    values = [value for one in whole if (value := differences(one.rounds))]
    times, over, reason = look(values, gate)
    rows = [
        Row(case.id, metric, found.verdict, found.sessions, seconds, time=found, reason=_open(found, reason))
        for metric, found in times.items()
    ] or [Row(case.id, "step", "inconclusive", len(whole), seconds, reason="too few sessions")]
    rows += [row for row in (_memory(case.id, whole, seconds), _loss(ab, case, whole, seconds)) if row]
    return CaseVerdict(case, rows, sessions, design, over and _loss_is_in(ab, rows, whole, gate))


def look(values: Sequence[Mapping[str, float]], gate: Gate) -> tuple[dict[Metric, Difference], bool, str | None]:
    """The times at the first look that settles them, else at the last one.

    Sessions beyond a verdict do not change it: who looks until he likes what he sees, sees what he likes.

    Args:
        values: of each session, by metric.

    Returns:
        A difference by metric (none of fewer than two sessions), whether more sessions would be in vain, and why the
        verdict is open.
    """
    for sessions in [number for number in gate.looks if number <= len(values)]:
        found = _at(values[:sessions], gate)
        if settled(list(found.values()), gate):
            return found, True, None
        if given_up([[value[metric] for value in values[:sessions]] for metric in METRICS], gate):
            noise = max(one.noise for one in found.values())
            return found, True, f"this machine is too noisy: sessions of the same code differ by {100 * noise:.3g} %"
    found = _at(values, gate)
    if len(values) >= gate.looks[-1]:
        return found, True, f"{gate.looks[-1]} sessions did not settle it"
    return found, False, f"{len(values)} sessions did not settle it yet"


def course(ab: Ab, case: CaseVerdict, metric: Metric) -> tuple[list[float], list[Difference]]:
    """How a time came to its verdict.

    Returns:
        The difference of each session that counts, and what was known at each look; the last is what the verdict was
        made by.
    """
    values = [told[metric] for _, told in case.counted]
    row = case.row(metric)
    if row is None or row.time is None:
        return values, []
    gate = gate_of(ab)
    earlier = [judge(values[:look_], gate) for look_ in gate.looks if look_ < row.time.sessions]
    return values, [*(one for one in earlier if one is not None), row.time]


def _at(values: Sequence[Mapping[str, float]], gate: Gate) -> dict[Metric, Difference]:
    judged_ = {metric: judge([value[metric] for value in values], gate) for metric in METRICS}
    return {metric: one for metric, one in judged_.items() if one is not None}


def _open(found: Difference, reason: str | None) -> str | None:
    return reason if found.verdict == "inconclusive" else None


def _broken(case: str, sessions: Sequence[AbSession], whole: int, seconds: float) -> Row | None:
    """The first failure: a rerun does not make it undone. Where both fail, nobody can tell what the candidate broke."""
    outcomes: dict[SideName, Outcome] = {"base": "no base", "cand": "broken"}
    for session in sessions:
        for side, outcome in outcomes.items():
            trained = session.of(side)
            if trained.error and not (trained.status == _OUT_OF_MEMORY and session.design == "lockstep"):
                many = sum(one.of(side).error is not None for one in sessions)
                reason = f"{side.upper()} {trained.status} in {many} of {len(sessions)} sessions: "
                return Row(case, "step", outcome, whole, seconds, reason=reason + trained.error.message)
    return None


def _memory(case: str, sessions: Sequence[AbSession], seconds: float) -> Row | None:
    change = memory_change([one.base.memory for one in sessions], [one.cand.memory for one in sessions])
    if change is None:
        return None
    return Row(case, "memory", change.verdict, len(sessions), seconds, memory=change)


def _loss(ab: Ab, case: AbCase, sessions: Sequence[AbSession], seconds: float) -> Row | None:
    if not sessions:
        return None
    sides = from_plan(case.base), from_plan(case.cand)
    if sides[0].training != sides[1].training:
        return None  # two suites that train different things
    if ab.gate.loss_margin is not None:
        return _within_margin(case.id, sessions, seconds, ab.gate.loss_margin)
    exact = case.base.mode == case.cand.mode and _torch(ab, "base") == _torch(ab, "cand")
    exact = exact and len(sessions) > 1 and _repeats([one.base.loss for one in sessions])
    # Both sides of a session did the same number of steps; another session may have done more, or fewer.
    found = [loss_change(one.base.loss, one.cand.loss, case.cand.mode, exact=exact) for one in sessions]
    told = [one for one in found if one is not None]
    if len(told) < len(found):
        return None
    order = ("bitwise", "within", "changed")
    worst = max(told, key=lambda one: (order.index(one.verdict), math.inf if one.value is None else one.value))
    reason = _other_beginning(sessions[0]) if worst.verdict == "changed" else None
    outcome: Outcome = "changed" if worst.verdict == "changed" else "same"
    return Row(case.id, "loss", outcome, len(sessions), seconds, loss=worst, reason=reason)


def _repeats(curves: Sequence[Sequence[float | None]]) -> bool:
    """Whether all are the same bit by bit, as far as each goes."""
    longest = max(curves, key=len)
    return all(list(curve) == list(longest[: len(curve)]) for curve in curves)


def _other_beginning(session: AbSession) -> str | None:
    """What was different before the first step."""
    told = {"weights_sha256": "the first weights differ", "batches_sha256": "the batches differ"}
    facts = session.base.facts, session.cand.facts
    return "; ".join(text for key, text in told.items() if facts[0].get(key) != facts[1].get(key)) or None


def _torch(ab: Ab, side: SideName) -> object:
    environment = ab.of(side).environment.get("torch")
    return environment.get("version") if isinstance(environment, dict) else None


def _within_margin(case: str, sessions: Sequence[AbSession], seconds: float, limit: float) -> Row:
    finals = [(_final(one.base.loss), _final(one.cand.loss)) for one in sessions]
    changes = [cand / base - 1 for base, cand in finals if base and cand is not None]
    if len(changes) < len(finals):
        return Row(case, "loss", "changed", len(sessions), seconds, reason="a final loss is not finite")
    if len(changes) < 2:
        return Row(case, "loss", "inconclusive", len(sessions), seconds, reason="too few sessions")
    centre = fmean(changes)
    half = quantile(0.95, len(changes) - 1) * stdev(changes) / math.sqrt(len(changes))
    found = LossMargin(centre, centre - half, centre + half, limit, len(changes))
    outcome: Outcome = "inconclusive"
    if len(changes) >= LEAST_SESSIONS_OF_MARGIN:
        within = -limit < found.low and found.high < limit
        outcome = "declared" if within else "changed" if found.high < -limit or found.low > limit else "inconclusive"
    reason = "the final losses do not tell yet" if outcome == "inconclusive" else None
    return Row(case, "loss", outcome, len(sessions), seconds, loss=found, reason=reason)


def _final(loss: Sequence[float | None]) -> float | None:
    value = final([math.nan if one is None else one for one in loss]) if loss else math.nan
    return value if math.isfinite(value) else None


def _loss_is_in(ab: Ab, rows: Sequence[Row], whole: Sequence[AbSession], gate: Gate) -> bool:
    """Whether more sessions would not settle a loss that is open."""
    open_ = any(row.metric == "loss" and row.outcome == "inconclusive" for row in rows)
    return not open_ or any(row.worse for row in rows) or len(whole) >= gate.looks[-1]
