"""What the gate does under noise that is made: normal and not, small and far larger than the tolerance.

    python suites/gate_noise.py [--draws N] [--seed S]

Sessions of two metrics, which in half of the draws are the same and in half independent, through the product's own
decision code. By kind of noise: how often identical code is called slower, and after how many sessions there is a
verdict; how often a slowdown of 5 and 10 % is called slower, and how often one of 5 % passes as the same; how often
identical code or a slowdown of 5 % was given up as too noisy, and how many of those would have had the right verdict
with more patience.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gate_power import Session, case_verdict, worst

from llmbench.stats.lockstep import METRICS, Gate, Verdict, judge, settled

ALIKE = 0.5  # of the draws
Draw = Callable[[random.Random], list[float]]  # of each session, for one metric

MOST = Gate().looks[-1]


def normal(spread: float) -> Draw:
    return lambda rng: [rng.gauss(0, spread) for _ in range(MOST)]


def student(degrees: int, spread: float) -> Draw:
    """Heavy tails; ``spread`` is the scale."""
    return lambda rng: [
        spread * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(degrees / 2, 2) / degrees) for _ in range(MOST)
    ]


def spikes(spread: float, factor: float, share: float) -> Draw:
    """Normal, but once in a while far wider."""
    return lambda rng: [rng.gauss(0, spread * (factor if rng.random() < share else 1)) for _ in range(MOST)]


def skewed(spread: float) -> Draw:
    """Exponential about its mean: it cannot come of identical code, whose sides may be swapped."""
    return lambda rng: [rng.expovariate(1 / spread) - spread for _ in range(MOST)]


def drifting(spread: float, memory: float, *, tossed: bool = False) -> Draw:
    """Autocorrelated: of what a session shows, the next one keeps a part, on the same side or (tossed) on either."""

    def draw(rng: random.Random) -> list[float]:
        values = [rng.gauss(0, spread)]
        while len(values) < MOST:
            values.append(memory * values[-1] + math.sqrt(1 - memory**2) * rng.gauss(0, spread))
        return [value * rng.choice((-1, 1)) for value in values] if tossed else values

    return draw


def two_speeds(gap: float) -> Draw:
    """Each process is fast or slow by luck."""
    return lambda rng: [gap * (rng.randrange(2) - rng.randrange(2)) + rng.gauss(0, 0.002) for _ in range(MOST)]


def first_is_faster(gap: float, *, balanced: bool) -> Draw:
    """The process that was started first is faster; who that is is tossed for each session, or for each two."""

    def draw(rng: random.Random) -> list[float]:
        signs = [rng.choice((-1, 1)) for _ in range(MOST)]
        if balanced:
            signs[1::2] = [-sign for sign in signs[::2]]
        return [gap * sign + rng.gauss(0, 0.002) for sign in signs]

    return draw


NOISE: dict[str, Draw] = {
    "normal, 0.2 %": normal(0.002),
    "normal, 1 %": normal(0.01),
    "normal, 2 %": normal(0.02),
    "normal, 3 %": normal(0.03),
    "normal, 5 %": normal(0.05),
    "normal, 10 %": normal(0.10),
    "normal, 50 %": normal(0.50),
    "t of 3 degrees, 1 %": student(3, 0.01),
    "t of 3 degrees, 10 %": student(3, 0.10),
    "normal, 1 %; 1 in 10: 10 %": spikes(0.01, 10, 0.1),
    "skewed to slower, 2 %": skewed(0.02),
    "skewed to slower, 10 %": skewed(0.10),
    "skewed to faster, 2 %": skewed(-0.02),
    "skewed to faster, 10 %": skewed(-0.10),
    "autocorrelated 0.3, 2 %": drifting(0.02, 0.3),
    "autocorrelated 0.3, 10 %": drifting(0.10, 0.3),
    "autocorrelated 0.7, 2 %": drifting(0.02, 0.7),
    "autocorrelated 0.7, 10 %": drifting(0.10, 0.7),
    "the same, sides tossed": drifting(0.10, 0.7, tossed=True),
    "two speeds, 4 % apart": two_speeds(0.04),
    "two speeds, 10 % apart": two_speeds(0.10),
    "first 4 % faster, tossed": first_is_faster(0.04, balanced=False),
    "first 4 % faster, balanced": first_is_faster(0.04, balanced=True),
}


def sessions(draw: Draw, slowdown: float, rng: random.Random) -> list[Session]:
    """Both metrics of each session: half of the time the same, half of the time independent."""
    shift = math.log1p(slowdown / 100)
    one, other = draw(rng), draw(rng)
    if rng.random() < ALIKE:
        other = one
    return [dict(zip(METRICS, (x + shift, y + shift), strict=True)) for x, y in zip(one, other, strict=True)]


def patient(drawn: Sequence[Session], gate: Gate) -> Verdict:
    """The verdict, if no machine were too noisy to go on."""
    for number in gate.looks:
        values = [judge([session[metric] for session in drawn[:number]], gate) for metric in METRICS]
        found = [one for one in values if one is not None]
        if settled(found, gate):
            break
    return worst(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    options = parser.parse_args()
    gate, draws = Gate(), options.draws
    print(f"{'':<28}{'identical':^15}{'5 %':^23}{'10 %':^8}{'given up':^10}")
    print(f"{'noise of a session':<28}{'slower':>7} {'sessions':>8} {'slower':>7} {'same':>6} {'sess':>6} ", end="")
    print(f"{'slower':>8} {'share':>6} {'early':>7}")
    for name, draw in NOISE.items():
        rng = random.Random(options.seed)
        outcome: dict[int, list[tuple[str, int]]] = {}
        stopped = lost = 0
        for slowdown in (0, 5, 10):
            outcome[slowdown] = []
            for _ in range(draws):
                drawn = sessions(draw, slowdown, rng)
                verdict, used = case_verdict(drawn, gate)
                outcome[slowdown].append((verdict, used))
                if slowdown < 10 and verdict == "inconclusive" and used < MOST:
                    stopped += 1
                    lost += patient(drawn, gate) == ("slower" if slowdown else "same")

        def share(slowdown: int, verdict: str, found: dict[int, list[tuple[str, int]]] = outcome) -> float:
            return sum(one == verdict for one, _ in found[slowdown]) / draws

        needed = {slowdown: sum(used for _, used in found) / draws for slowdown, found in outcome.items()}
        print(
            f"{name:<28}{share(0, 'slower'):7.4f} {needed[0]:8.2f} {share(5, 'slower'):7.3f} {share(5, 'same'):6.3f} "
            f"{needed[5]:6.2f} {share(10, 'slower'):8.3f} {stopped / (2 * draws):6.3f} {lost / (2 * draws):7.4f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
