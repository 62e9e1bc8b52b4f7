"""How far a mean must stand out at each of many looks: the table in ``llmbench/stats/sequential.py``.

    python suites/boundaries.py [--paths N]

Looks after every session from the third to the last, each at the same nominal level of Student's t (Pocock 1977). The
chance that any of them crosses is computed, not simulated. Of normal values with mean 0, the direction of the first m
of them is even on the sphere, whatever their length; so the cosine between it and (1, …, 1), of which t is a function,
is a Markov chain: its next value depends on the last one and on the next session only. The chain is followed on a grid
of the tail probabilities of t, evenly spaced in log odds. With ``--paths`` a simulation checks each line. Needs scipy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

FIRST = 3
LASTS = (5, 8, 12, 20, 40)
LEVELS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 1e-6)
CELLS = 800
FARTHEST = 20.0  # log odds of a tail probability: 2e-9
ROUNDING = 0.002  # of a level: coarse cells and four digits must not promise too much


class Chain:
    """t after 2, 3, … sessions, on a grid."""

    def __init__(self, last: int, cells: int = CELLS) -> None:
        self.odds = np.linspace(-FARTHEST, FARTHEST, cells + 1)
        self.tails = special.expit(-self.odds)
        middles = special.expit(-(self.odds[1:] + self.odds[:-1]) / 2)
        self.start = self.tails[:-1] - self.tails[1:]
        self.steps = {
            sessions + 1: _beyond(
                _cosine(middles, sessions)[:, None], _cosine(self.tails, sessions + 1)[None, :], sessions
            )
            for sessions in range(2, last)
        }

    def crossed(self, nominal: float, looks: Sequence[int]) -> float:
        """The chance that t is above its quantile of 1 - ``nominal`` at any of the looks."""
        place = float(special.logit(1 - nominal))
        inside, crossed = self.start, 0.0
        for sessions in range(3, looks[-1] + 1):
            above = inside @ self.steps[sessions]
            above[0], above[-1] = inside.sum(), 0.0
            inside = above[:-1] - above[1:]
            if sessions in looks:
                beyond = float(np.exp(np.interp(place, self.odds[:-1], np.log(np.maximum(above[:-1], 1e-300)))))
                cell = int(np.searchsorted(self.odds, place)) - 1
                inside[cell] = above[cell] - beyond
                inside[cell + 1 :] = 0.0
                crossed += beyond
        return crossed

    def share(self, level: float, looks: Sequence[int]) -> float:
        """The nominal level of each look, over the level of all together."""
        found = optimize.brentq(
            lambda share: np.log(self.crossed(share * level, looks) / level), 0.99 / len(looks), 1.0, xtol=1e-6
        )
        return float(found)


def _cosine(tail: np.ndarray, sessions: int) -> np.ndarray:
    """Between the values and (1, …, 1), where t has this tail probability."""
    t = -special.stdtrit(sessions - 1, tail)
    return np.asarray(t / np.sqrt(sessions - 1 + t * t))


def _beyond(now: np.ndarray, later: np.ndarray, sessions: int) -> np.ndarray:
    """P(the cosine after one session more is above ``later`` | it is ``now``).

    In units of the length of the values so far, the next one is tan(phi), which has the density cos(phi)^(sessions-1),
    and the cosine becomes radius sin(phi + turn).
    """
    total = now * np.sqrt(sessions)
    radius, turn = np.sqrt((total**2 + 1) / (sessions + 1)), np.arctan(total)
    part = later / radius
    least = np.arcsin(np.clip(part, -1, 1))
    inner = _angle(least - turn, sessions) - _angle(np.pi - least - turn, sessions)
    return np.where(part >= 1, 0.0, np.where(part <= -1, 1.0, inner))


def _angle(phi: np.ndarray, sessions: int) -> np.ndarray:
    """P(the angle of the next session is above phi)."""
    inside = np.clip(phi, -np.pi / 2 + 1e-12, np.pi / 2 - 1e-12)
    return np.asarray(special.stdtr(sessions, -np.sqrt(sessions) * np.tan(inside)))


def table(lasts: Sequence[int] = LASTS, levels: Sequence[float] = LEVELS) -> dict[int, tuple[float, ...]]:
    """Nominal level of a look over the level of all, by last look and level; rounded down."""
    chain = Chain(max(lasts))
    return {
        last: tuple(
            float(np.floor((chain.share(level, range(FIRST, last + 1)) * (1 - ROUNDING)) * 1e4) / 1e4)
            for level in levels
        )
        for last in lasts
    }


def simulated(nominal: float, looks: Sequence[int], paths: int, seed: int = 1) -> float:
    """The share of paths of normal values that cross at any of the looks."""
    rng = np.random.default_rng(seed)
    total, squares = np.zeros(paths), np.zeros(paths)
    crossed = np.zeros(paths, dtype=bool)
    for sessions in range(1, looks[-1] + 1):
        value = rng.standard_normal(paths)
        total += value
        squares += value**2
        if sessions in looks:
            variance = (squares - total**2 / sessions) / (sessions - 1)
            t = total / np.sqrt(sessions * variance)
            crossed |= t > -special.stdtrit(sessions - 1, nominal)
    return float(crossed.mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=0, metavar="N", help="simulate each with so many paths")
    options = parser.parse_args()
    print(f"_LEVELS = {LEVELS}")
    for last, shares in table().items():
        print(f"    {last}: {shares},")
        for level, share in zip(LEVELS, shares, strict=True):
            if options.paths and level * options.paths >= 1000:
                found = simulated(level * share, range(FIRST, last + 1), options.paths)
                print(f"        level {level:<6} simulated {found:.6f}  ({found / level - 1:+.1%})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
