"""Whether one side trains slower than the other, from sessions in which both took turns.

A session is a pair of fresh processes, and the unit of every test: its steps are as alike as the processes are. Each
session gives two differences of logarithms (candidate over base), the steady and the total one, see ``differences``.
They are looked at after a few sessions, and again after more, so that the comparison ends as soon as the verdict is in:
the more looks, the further a difference has to stand out at each (``boundary``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Literal

from llmbench.results.ab import Round
from llmbench.stats.sequential import LOOKS, boundary
from llmbench.stats.student import quantile

Verdict = Literal["faster", "same", "slower", "inconclusive"]

METRICS = ("step", "total")
LEAST_SPREAD = 0.001  # of the difference between sessions: a few that agree by chance are not to be believed
POWER = 0.80  # of the smallest slowdown that is told beside a verdict
HOPELESS = 3.0  # times the most sessions: who would need more than that for a verdict need not wait for one


@dataclass(frozen=True)
class Gate:
    """What counts as slower, and how sure to be of it.

    Attributes:
        tolerance: slowdown (share of the time) that is none.
        limit: slowdown that must not pass as the same.
        alpha: largest chance that anything in the whole comparison is called slower, or faster, although it is not.
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


@dataclass(frozen=True)
class Difference:
    """The time of the candidate over that of the base, for one metric of one case.

    Attributes:
        ratio: above 1 is slower.
        low, high: what the verdict was made by: it is ``slower`` if ``low`` is above 1 + tolerance, ``faster`` if
            ``high`` is below 1 - tolerance, ``same`` if ``high`` is below 1 + limit.
        noise: standard deviation from session to session, as a share.
        smallest_slowdown: share of the time that would have been called slower four times in five.
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
    """
    steady = median(math.log(min(one.cand.steps) / min(one.base.steps)) for one in rounds)
    turns = [(one.base, one.cand) for one in rounds]
    if all(turn.waited is not None for pair in turns for turn in pair):
        spent = [[max(turn.wall - (turn.waited or 0.0), 0.0) for turn in pair] for pair in turns]
    elif all(turn.cpu for pair in turns for turn in pair):
        spent = [[turn.cpu or 0.0 for turn in pair] for pair in turns]
    else:
        spent = [[turn.wall for turn in pair] for pair in turns]
    if not all(map(sum, zip(*spent, strict=True))):  # a clock that did not tick
        spent = [[turn.wall for turn in pair] for pair in turns]
    return {"step": steady, "total": math.log(sum(cand for _, cand in spent) / sum(base for base, _ in spent))}


def judge(values: Sequence[float], gate: Gate) -> Difference | None:
    """One metric after so many sessions; None of fewer than two.

    Args:
        values: of each session, as ``differences`` gives them.
    """
    if len(values) < 2:
        return None
    sessions = len(values)
    centre, spread = fmean(values), max(stdev(values), LEAST_SPREAD)
    error = spread / math.sqrt(sessions)
    strict, loose = (boundary(level, sessions, gate.looks) * error for level in (gate.share, gate.beta))
    slower = centre - strict > math.log1p(gate.tolerance)
    faster = centre + strict < math.log1p(-gate.tolerance)
    same = centre + loose < math.log1p(gate.limit)
    needed = strict + quantile(POWER, sessions - 1) * error
    return Difference(
        verdict="slower" if slower else "faster" if faster else "same" if same else "inconclusive",
        ratio=_exp(centre),
        low=_exp(centre - strict),
        high=_exp(centre + (strict if faster else loose)),
        sessions=sessions,
        noise=math.expm1(min(spread, 700.0)),
        smallest_slowdown=(1 + gate.tolerance) * _exp(needed) - 1,
    )


def settled(found: Sequence[Difference]) -> bool:
    """Whether the verdict is in: something is slower, or nothing is left open."""
    verdicts = {one.verdict for one in found}
    return "slower" in verdicts or (bool(verdicts) and "inconclusive" not in verdicts)


def hopeless(values: Sequence[float], gate: Gate) -> bool:
    """Whether this machine is too noisy: a verdict would take many times the sessions that there can be."""
    most = gate.looks[-1]
    centre, spread = fmean(values), max(stdev(values), LEAST_SPREAD)
    to_slower = (centre - math.log1p(gate.tolerance), boundary(gate.share, most, gate.looks))
    to_same = (math.log1p(gate.limit) - centre, boundary(gate.beta, most, gate.looks))
    needed = [
        ((bound + quantile(POWER, most - 1)) * spread / distance) ** 2
        for distance, bound in (to_slower, to_same)
        if distance > 0
    ]
    return min(needed, default=math.inf) > HOPELESS * most


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
