"""Whether one side trains slower than the other, from sessions in which both took turns.

A session is a few pairs of fresh processes, and the unit of every test: its steps are as alike as the processes are. It
gives two differences of logarithms (candidate over base), the steady and the total one, see ``differences``.
They are looked at after a few sessions, and again after each that follows, so that the comparison ends as soon as the
verdict is in: the more looks, the further a difference has to stand out at each (``boundary``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, get_args

from llmbench.results.ab import Round, Turn
from llmbench.stats.sequential import LOOKS, boundary
from llmbench.stats.student import quantile

Verdict = Literal["faster", "same", "slower", "inconclusive"]

TimeMetric = Literal["step", "total"]
METRICS: tuple[TimeMetric, ...] = get_args(TimeMetric)
POWER = 0.80  # of the smallest slowdown that is told beside a verdict

SHORTEST, LONGEST = 1e-9, 1e9  # seconds: what a clock can tell; records may claim anything
LEAST_SPREAD = 0.001  # of the difference between sessions: a few that agree by chance are not to be believed
SPEEDS = 4  # a process that has two speeds, by luck, is the slower one of its session once in so many

HOPELESS = 5.0  # times the most sessions: who would need more than that for a verdict need not wait for one
ENOUGH_TO_GIVE_UP = 8  # sessions: fewer do not tell how noisy a machine is

_FARTHEST = 700.0  # logarithm of the largest ratio that a float can hold


@dataclass(frozen=True)
class Gate:
    """What counts as slower, and how sure to be of it.

    Attributes:
        tolerance: slowdown (share of the time) that is none.
        limit: slowdown that must not pass as the same.
        alpha: largest chance that anything in the whole comparison is called slower although it is not; as much again
            that it is called faster.
        beta: largest chance that a case that is slower by ``limit`` is called the same.
        comparisons: cases over which alpha is split.
        looks: numbers of sessions after which to look.
    """

    tolerance: float = 0.01
    limit: float = 0.05
    alpha: float = 0.01
    beta: float = 0.05
    comparisons: int = 1
    looks: Sequence[int] = LOOKS

    @property
    def share(self) -> float:
        """The part of alpha that one metric of one case has."""
        return self.alpha / (len(METRICS) * self.comparisons)

    @property
    def earliest(self) -> int:
        """Sessions before which nothing is called slower or faster.

        Student's t trusts three values that agree, and so does not know of processes that are fast or slow by luck (of
        where their memory lies, say). All sessions agree by that luck with 1 in ``SPEEDS`` to the power of their
        number, which must be less than alpha's share.
        """
        return max(self.looks[0], math.ceil(math.log(1 / self.share, SPEEDS)))


@dataclass(frozen=True)
class Difference:
    """The time of the candidate over that of the base, for one metric of one case.

    Attributes:
        ratio: above 1 is slower.
        low, high: what the verdict is read from: ``slower`` if ``low`` is above 1 + tolerance; else ``faster`` if
            ``high`` is below 1 / (1 + tolerance); else ``same`` if ``high`` is below 1 + limit; else ``inconclusive``.
        noise: standard deviation from session to session, as a share.
        smallest_slowdown: share of the time that would have been called slower four times in five, had it been there.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    sessions: int
    noise: float
    smallest_slowdown: float


def differences(rounds: Sequence[Round]) -> dict[str, float]:
    """What one session says: candidate over base, as a difference of logarithms, by metric.

    ``step``: the median over the rounds of the fastest step of a turn against the fastest of the other's: what others
    do to the machine falls on few steps, and on both sides. It does not see slow steps that are rare.
    ``total``: all that was spent in the turns, which sees them: CPU time and time asleep where both are known (the
    wall's less that spent waiting for a CPU), else CPU time, else the wall's.

    Rounds without a finite time of a step on each side tell nothing; of none that does, the answer is empty.
    """
    told = [one for one in rounds if _tells(one.base) and _tells(one.cand)]
    if not told:
        return {}
    ratios = [math.log(_fastest(one.cand) / _fastest(one.base)) for one in told]
    base, cand = (_spent([one.of(side) for one in told], _clock(told)) for side in ("base", "cand"))
    return {"step": median(ratios), "total": math.log(cand / base)}


def judge(values: Sequence[float], gate: Gate) -> Difference | None:
    """One metric after so many sessions; None of fewer than two.

    Nothing is decided before the first look of the gate.

    Args:
        values: of each session, as ``differences`` gives them.
    """
    if len(values) < 2:
        return None
    sessions = len(values)
    centre, spread = _summary(values)
    error = spread / math.sqrt(sessions)
    strict, loose = (boundary(level, sessions, gate.looks) * error for level in (gate.share, gate.beta))
    tolerance, limit = math.log1p(gate.tolerance), math.log1p(gate.limit)
    low, high = centre - strict, max(centre + loose, min(centre + strict, -tolerance))
    if sessions < gate.earliest:
        low, high = min(low, tolerance), max(high, -tolerance)
    if sessions < gate.looks[0]:
        high = max(high, limit)
    slower, faster = low > tolerance, high < -tolerance
    verdict: Verdict = "slower" if slower else "faster" if faster else "same" if high < limit else "inconclusive"
    return Difference(
        verdict=verdict,
        ratio=_exp(centre),
        low=_exp(low),
        high=_exp(high),
        sessions=sessions,
        noise=_exp(spread) - 1,
        smallest_slowdown=_smallest_slowdown(spread, sessions, verdict, gate),
    )


def settled(found: Sequence[Difference], gate: Gate) -> bool:
    """Whether the verdict is in: something is slower, or nothing is left open.

    What looks faster by more than the limit is not left at ``same``, which is told sooner, while it may still be told.
    """
    verdicts = {one.verdict for one in found}
    if "slower" in verdicts or not verdicts:
        return bool(verdicts)
    looks_faster = any(one.verdict == "same" and one.ratio * (1 + gate.limit) < 1 for one in found)
    return "inconclusive" not in verdicts and not looks_faster


def hopeless(values: Sequence[float], gate: Gate) -> bool:
    """Whether this machine is too noisy for this metric: a verdict would take many times the sessions there can be.

    Args:
        values: of each session so far. A few do not tell, and are never hopeless.
    """
    if len(values) < ENOUGH_TO_GIVE_UP:
        return False
    most = gate.looks[-1]
    centre, spread = _summary(values)
    to_slower = (centre - math.log1p(gate.tolerance), boundary(gate.share, most, gate.looks))
    to_same = (math.log1p(gate.limit) - centre, boundary(gate.beta, most, gate.looks))
    needed = [
        ((bound + quantile(POWER, most - 1)) * spread / distance) ** 2
        for distance, bound in (to_slower, to_same)
        if distance > 0
    ]
    return min(needed, default=math.inf) > HOPELESS * most


def given_up(metrics: Iterable[Sequence[float]], gate: Gate) -> bool:
    """Whether to end a case without a verdict: something is open, and all that is open is hopeless.

    Args:
        metrics: the values of each metric, of each session so far.
    """
    still_open = [
        values for values in metrics if (found := judge(values, gate)) is None or found.verdict == "inconclusive"
    ]
    return bool(still_open) and all(hopeless(values, gate) for values in still_open)


def _tells(turn: Turn) -> bool:
    return bool(turn.steps) and all(math.isfinite(value) for value in (*turn.steps, turn.wall))


def _seconds(value: float) -> float:
    return min(max(value, SHORTEST), LONGEST)


def _fastest(turn: Turn) -> float:
    return _seconds(min(turn.steps))


def _clock(rounds: Sequence[Round]) -> Literal["awake", "cpu", "wall"]:
    """The best that all turns of a session have."""
    turns = [turn for one in rounds for turn in (one.base, one.cand)]
    if all(turn.waited is not None and math.isfinite(turn.waited) for turn in turns):
        return "awake"
    return "cpu" if all(turn.cpu and math.isfinite(turn.cpu) for turn in turns) else "wall"


def _spent(turns: Sequence[Turn], clock: Literal["awake", "cpu", "wall"]) -> float:
    if clock == "cpu":
        return math.fsum(_seconds(turn.cpu or 0.0) for turn in turns)
    return math.fsum(_seconds(turn.wall - (turn.waited or 0.0 if clock == "awake" else 0.0)) for turn in turns)


def _summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, the latter not below what is believed."""
    kept = [min(max(value, -_FARTHEST), _FARTHEST) for value in values]
    centre = fmean(kept)
    variance = math.fsum((value - centre) * (value - centre) for value in kept) / (len(kept) - 1)
    return centre, max(math.sqrt(variance), LEAST_SPREAD)


def _smallest_slowdown(spread: float, sessions: int, verdict: Verdict, gate: Gate) -> float:
    """What would have been called slower four times in five, as a share of the time.

    After so many sessions, that stands out by its boundary. Where the verdict is ``same``, a slowdown of the limit
    would not have let it end here, and would have been seen by the last look.
    """

    def seen_after(number: int) -> float:
        stands_out = boundary(gate.share, number, gate.looks) + quantile(POWER, number - 1)
        return (1 + gate.tolerance) * _exp(stands_out * spread / math.sqrt(number)) - 1

    now = seen_after(sessions)
    if verdict != "same":
        return now
    return min(now, max(gate.limit, seen_after(max(sessions, gate.looks[-1]))))


def _exp(value: float) -> float:
    return math.exp(min(value, _FARTHEST))
