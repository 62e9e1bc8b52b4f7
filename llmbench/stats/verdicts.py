"""Whether a case trained right, and whether its speed can be told: learned, parity, noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from llmbench.results.schema import Interval, Noise, Parity, Throughput
from llmbench.stats.estimates import smooth

FALL = 0.01  # a loss that did not fall by 1 % of where it started has not learned
NOISY = 0.05  # half-width of the interval, as a share of the estimate
SMOOTHING = 10  # steps
OTHERS = 0.25  # CPUs that other processes used, from which they are a likely cause
STEAL = 0.05  # share of a CPU


def final(losses: Sequence[float]) -> float:
    """Mean of the last tenth of the steps."""
    return fmean(losses[-max(1, len(losses) // 10) :])


def finite(losses: Sequence[float]) -> bool:
    return all(math.isfinite(loss) for loss in losses)


def learned(losses: Sequence[float]) -> bool:
    """Finite, and the end lies clearly below the start."""
    return finite(losses) and final(losses) < losses[0] - FALL * abs(losses[0])


def parity(losses: Sequence[float], reference: Sequence[float], name: str, limit: float) -> Parity:
    """How far a loss curve strays from that of the reference, which saw the same batches.

    The measure is the largest relative difference over the steps, after smoothing both curves over 10 steps.
    """
    value: float | None = None
    if finite(losses) and finite(reference):
        pairs = zip(smooth(losses, SMOOTHING), smooth(reference, SMOOTHING), strict=True)
        value = max(_relative(mine, theirs) for mine, theirs in pairs)
    verdict: Literal["pass", "fail"] = "pass" if value is not None and value <= limit else "fail"
    metric = f"largest relative difference of the loss, smoothed over {SMOOTHING} steps"
    return Parity(reference=name, metric=metric, limit=limit, value=value, verdict=verdict)


def _relative(value: float, reference: float) -> float:
    if value == reference:
        return 0.0
    return abs(value - reference) / abs(reference) if reference else math.inf


def noise(throughput: Throughput, cv: float, load: Mapping[str, float | None]) -> Noise:
    """Whether the interval is too wide to tell small changes, and what likely made it so.

    Args:
        cv: coefficient of variation of the timed steps.
        load: what else the machine did in the window, as ``worker/measure/load.py`` tells.
    """
    if half_width(throughput.value, throughput.ci95) <= NOISY:
        return Noise(cv=cv, verdict="quiet")
    return Noise(cv=cv, verdict="noisy", cause=_cause(throughput.n, load))


def half_width(value: float, interval: Interval) -> float:
    """Half of the interval's width as a share of the value."""
    return (interval[1] - interval[0]) / 2 / value


def _cause(steps: int, load: Mapping[str, float | None]) -> str:
    wall = load.get("wall_seconds") or math.inf
    others = (load.get("others_cpu_seconds") or 0.0) / wall
    steal = (load.get("steal_seconds") or 0.0) / wall
    if steal > STEAL:
        return f"the hypervisor took {steal:.2f} CPUs away; use a quieter host, or more steps: --set steps={4 * steps}"
    if others > OTHERS:
        return f"other processes used {others:.1f} CPUs; stop them, or time more steps: --set steps={4 * steps}"
    return f"only {steps} timed steps of uneven length; time more: --set steps={4 * steps}"
