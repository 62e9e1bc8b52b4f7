"""How good the interval is by which sampling stops: simulated windows, whose true mean is known.

    python suites/sampling.py [--windows 300]

Prints for several kinds of noise, and for one, two and three looks in a row that must find the interval within ±2 %,
how many of the 95 % intervals hold the true mean, and how many steps were timed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llmbench.stats.blocks import half_width, next_look

TARGET = 0.02
TRAINING = 20  # steps before the first look
MOST = 20_000


def steps(cv: float, correlation: float, source: random.Random) -> Iterator[float]:
    """Step times of mean 1, as an autoregressive process of order 1."""
    state = 0.0
    while True:
        state = correlation * state + (1 - correlation**2) ** 0.5 * source.gauss(0, 1)
        yield 1 + cv * state


def window(times: Iterator[float], looks: int) -> list[float]:
    """A window that ends when so many looks in a row find its interval narrow."""
    seconds = [next(times) for _ in range(TRAINING)]
    narrow = 0
    while len(seconds) < MOST:
        narrow = narrow + 1 if half_width(seconds) <= TARGET else 0
        if narrow == looks:
            break
        seconds += [next(times) for _ in range(next_look(len(seconds)))]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=300)
    options = parser.parse_args()
    source = random.Random(1)
    print("cv    correlation  looks  holds the mean  steps")
    for cv, correlation in ((0.05, 0), (0.1, 0), (0.2, 0), (0.1, 0.5), (0.1, 0.8)):
        for looks in (1, 2, 3):
            windows = [window(steps(cv, correlation, source), looks) for _ in range(options.windows)]
            holds = fmean(abs(fmean(each) - 1) <= half_width(each) * fmean(each) for each in windows)
            print(f"{cv:<5} {correlation:<12} {looks:<6} {holds:<15.0%} {fmean(map(len, windows)):.0f}")


if __name__ == "__main__":
    main()
