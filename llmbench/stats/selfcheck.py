"""Whether the gate can be believed on a machine: comparisons of one side with itself, in which every alarm is false.

``llmbench ab --self`` compares a side with itself (A/A). Of many such comparisons few may alarm, as few as alpha says.
More of them mean that something on the machine tells the sides apart, and then an alarm of the gate means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, median
from typing import Literal

from llmbench.results.history import read_history
from llmbench.results.past import PastComparison, PastRun
from llmbench.results.tree import Fault, Location
from llmbench.stats.ab import Metric, gate_of, look
from llmbench.stats.changes import Change, changes
from llmbench.stats.lockstep import Difference
from llmbench.stats.ratios import session_differences

SURE = 0.01
"""Chance below which so many false alarms are too many, or the order of start is said to matter."""
FEWEST_OF_ORDER = 10
"""Sessions of each order, from which on the two can be held against each other."""


@dataclass(frozen=True)
class FalseAlarm:
    """A case of a self-check of which a time was called slower, or faster."""

    run: PastRun
    case: str
    metric: str
    verdict: Literal["slower", "faster"]
    ratio: float


@dataclass(frozen=True)
class SelfCheck:
    """One comparison of a side with itself, in which a verdict was possible.

    Attributes:
        chance: largest chance of a false alarm that its rules allow.
        noise: standard deviation of the step time from session to session, the median of its cases.
    """

    run: PastRun
    chance: float
    alarms: Sequence[FalseAlarm]
    noise: float


@dataclass(frozen=True)
class OrderEffect:
    """Whether it matters which side was started first.

    Attributes:
        sessions: of each order, base first and candidate first.
        shift: median difference of the logarithms of the step times, where the candidate was first less where the base
            was.
        p_value: two-sided, Mann-Whitney. The order of start is random, so sessions of other cases and nights may be
            put together.
    """

    sessions: tuple[int, int]
    shift: float
    p_value: float

    @property
    def matters(self) -> bool:
        return self.p_value < SURE


@dataclass(frozen=True)
class SelfChecks:
    """All self-checks below some folders, the oldest first.

    Attributes:
        p_value: of at least so many false alarms, if each comparison has one with the chance that its rules allow.
        noise_steps: where the noise (its logarithm) changed and stayed so, by place among ``checks``.
        order: None of too few sessions.
    """

    checks: Sequence[SelfCheck] = ()
    p_value: float = 1.0
    noise_steps: Sequence[Change] = ()
    order: OrderEffect | None = None
    faults: Sequence[Fault] = field(default_factory=list)

    @property
    def false_alarms(self) -> list[FalseAlarm]:
        return [alarm for check in self.checks for alarm in check.alarms]

    @property
    def alarmed(self) -> int:
        """Comparisons with a false alarm, of one case or several."""
        return sum(bool(check.alarms) for check in self.checks)

    @property
    def expected(self) -> float:
        """False alarms that the rules allow at most, on average."""
        return math.fsum(check.chance for check in self.checks)

    @property
    def distrusted(self) -> bool:
        """Whether there are more false alarms than chance explains: the gate must not be believed."""
        return self.p_value < SURE

    @property
    def noise(self) -> float | None:
        """Of the newest check."""
        return self.checks[-1].noise if self.checks else None

    @property
    def usual_noise(self) -> float | None:
        return median(check.noise for check in self.checks) if self.checks else None


def self_checks(folders: Sequence[Location]) -> SelfChecks:
    """Every self-check below the folders, those that ``llmbench history`` would find.

    Raises:
        UserError: a folder does not exist, or nothing lies below them.
    """
    history = read_history(folders)
    return judged_self_checks(history.comparisons, history.faults)


def judged_self_checks(comparisons: Sequence[PastComparison], faults: Sequence[Fault] = ()) -> SelfChecks:
    """What the self-checks among the comparisons say. Memory and losses have no chance of error, and no part here."""
    found = [one for one in comparisons if one.ab.self_check]
    checks = [check for one in found if (check := _check(one)) is not None]
    return SelfChecks(
        checks=checks,
        p_value=chance_of_so_many(sum(bool(one.alarms) for one in checks), [one.chance for one in checks]),
        noise_steps=changes([math.log(one.noise) for one in checks], smallest=math.log(1.25)),
        order=_order_effect(found),
        faults=list(faults),
    )


def _check(comparison: PastComparison) -> SelfCheck | None:
    """None where no verdict was possible: too few sessions yet."""
    ab, run = comparison.ab, comparison.candidate
    gate, alarms, noise = gate_of(ab), [], []
    for case in ab.cases:
        values, _ = session_differences([one for one in comparison.sessions if one.case == case.id])
        if len(values) < gate.looks[0]:
            continue
        times = look(values, gate)[0]
        noise.append(times["step"].noise)
        alarms += list(_alarms(run, case.id, times))
    if not noise:
        return None
    return SelfCheck(run, min(1.0, 2 * gate.alpha), alarms, max(median(noise), 1e-6))


def _alarms(run: PastRun, case: str, times: Mapping[Metric, Difference]) -> Iterator[FalseAlarm]:
    for metric, found in times.items():
        if found.verdict in ("slower", "faster"):
            yield FalseAlarm(run, case, metric, found.verdict, found.ratio)


def chance_of_so_many(alarms: int, chances: Sequence[float]) -> float:
    """Chance of at least so many alarms, each comparison having one with a chance of its own; exact.

    With equal chances it is the binomial test. In time len(chances) * alarms.
    """
    fewer = [1.0] + [0.0] * (alarms - 1) if alarms else []  # chance of 0, 1 … alarms - 1 so far
    reached = 0.0 if alarms else 1.0
    for chance in chances:
        if alarms:
            reached += chance * fewer[-1]
            fewer = [
                (1 - chance) * here + (chance * fewer[place - 1] if place else 0.0) for place, here in enumerate(fewer)
            ]
    return min(1.0, reached)


def _order_effect(comparisons: Sequence[PastComparison]) -> OrderEffect | None:
    steps: dict[str, list[float]] = {"base": [], "cand": []}
    for comparison in comparisons:
        for case in comparison.ab.cases:
            for session in comparison.sessions:
                if session.case == case.id and session.design == "lockstep":
                    values, _ = session_differences([session])
                    steps[session.first] += [one["step"] for one in values]
    base_first, cand_first = steps["base"], steps["cand"]
    if min(len(base_first), len(cand_first)) < FEWEST_OF_ORDER:
        return None
    return OrderEffect(
        sessions=(len(base_first), len(cand_first)),
        shift=median(cand_first) - median(base_first),
        p_value=mann_whitney(base_first, cand_first),
    )


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p-value that two samples come from one distribution (Mann and Whitney 1947).

    By the normal approximation, corrected for ties and continuity: good to two digits from ten values each.
    """
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    total, ranks, ties, place = len(ranked), 0.0, 0, 0
    while place < total:
        end = place
        while end < total and ranked[end][0] == ranked[place][0]:
            end += 1
        ranks += (place + 1 + end) / 2 * sum(side == 0 for _, side in ranked[place:end])
        ties += (end - place) ** 3 - (end - place)
        place = end
    products = len(one) * len(other)
    variance = products / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    distance = abs(ranks - len(one) * (len(one) + 1) / 2 - products / 2) - 0.5
    return min(1.0, 2 * NormalDist().cdf(-max(0.0, distance) / math.sqrt(variance)))
