"""Whether a case trained right, and whether its speed can be told: learned, parity, noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Literal

from llmbench.results.schema import Hardware, Interval, Noise, Parity, ParityCheck, Throughput
from llmbench.stats.estimates import smooth

FALL = 0.01  # a loss that did not fall by 1 % of where it started has not learned
NOISY = 0.05  # half-width of the interval, as a share of the estimate
SMOOTHING = 10  # steps
PARITY_STEPS = 100
PARITY_AT_END = 5e-3  # more than five seeds of one training differ by, less than what a fault costs
OTHERS = 0.25  # CPUs that other processes used, from which they are a likely cause
STEAL = 0.05  # share of a CPU
QUOTA = 0.05  # share of a CPU
CLOCK = 0.05  # fall of the clock, as a share of its highest
BUSY = 0.5  # share of the time
STEADY = {"power cap", "clock setting", "sync boost", "display clock setting"}  # no noise while the clock keeps still


def final(losses: Sequence[float]) -> float:
    """Mean of the last tenth of the steps."""
    return fmean(losses[-max(1, len(losses) // 10) :])


def finite(losses: Sequence[float]) -> bool:
    return all(math.isfinite(loss) for loss in losses)


def learned(losses: Sequence[float]) -> bool:
    """Finite, and the end lies clearly below the start."""
    return finite(losses) and final(losses) < losses[0] - FALL * abs(losses[0])


def curve_checks(losses: Sequence[float], reference: Sequence[float], name: str, limit: float) -> list[ParityCheck]:
    """Holds a loss curve against that of the reference, which began with the same weights and saw the same batches.

    Rounding differs between modes, and training amplifies it without bound: so the mode's own limit holds over the
    first 100 steps, smoothed over 10, and at the end of a longer training a wider one.

    Args:
        name: the case that the reference is of.
        limit: the largest relative difference that the mode's arithmetic explains.
    """
    checks = [_over_steps(losses[:PARITY_STEPS], reference[:PARITY_STEPS], name, limit)]
    if len(losses) > PARITY_STEPS:
        known = finite(losses) and finite(reference)
        value = _relative(final(losses), final(reference)) if known else None
        checks.append(
            _check(name, "relative difference of the mean loss of the last tenth", max(PARITY_AT_END, limit), value)
        )
    return checks


def _over_steps(losses: Sequence[float], reference: Sequence[float], name: str, limit: float) -> ParityCheck:
    metric = f"largest relative difference of the loss in {len(losses)} steps, smoothed over {SMOOTHING}"
    if not finite(losses) or not finite(reference):
        step = next((step for step, loss in enumerate(losses) if not math.isfinite(loss)), None)
        return _check(name, metric, limit, None, step)
    pairs = zip(smooth(losses, SMOOTHING), smooth(reference, SMOOTHING), strict=True)
    differences = [_relative(mine, theirs) for mine, theirs in pairs]
    left = next((step for step, value in enumerate(differences, start=SMOOTHING - 1) if value > limit), None)
    return _check(name, metric, limit, max(differences), left)


def _check(reference: str, metric: str, limit: float, value: float | None, step: int | None = None) -> ParityCheck:
    verdict: Literal["pass", "fail"] = "pass" if value is not None and value <= limit else "fail"
    return ParityCheck(reference=reference, metric=metric, limit=limit, value=value, verdict=verdict, step=step)


def parity(checks: Sequence[ParityCheck], deterministic: bool | None) -> Parity:
    """All checks as one: the first that failed, else the one that came closest to its limit."""
    decisive = next((check for check in checks if check.verdict == "fail"), None) or max(checks, key=_closeness)
    return Parity(**decisive.model_dump(), checks=list(checks), deterministic=deterministic)


def _closeness(check: ParityCheck) -> float:
    if check.value is None or check.limit == 0:
        return 0.0
    return check.value / check.limit


def _relative(value: float, reference: float) -> float:
    if value == reference:
        return 0.0
    return abs(value - reference) / abs(reference) if reference else math.inf


def noise(
    throughput: Throughput,
    cv: float,
    load: Mapping[str, float | None],
    hardware: Hardware | None = None,
    budget_seconds: float = 0.0,
) -> Noise:
    """Whether the interval is too wide to tell small changes, and what likely made it so.

    Args:
        cv: coefficient of variation of the timed steps.
        load: what else the machine did in the window, as ``worker/measure/load.py`` tells; of several ranks
            put together by ``machine_load``.
        hardware: state of the device in the window.
        budget_seconds: for how long it was timed at most.
    """
    if half_width(throughput.value, throughput.ci95) <= NOISY:
        return Noise(cv=cv, verdict="quiet")
    remedy = f"time longer: --set budget_seconds={4 * max(5.0, budget_seconds):g}"
    causes = (_stolen(load), _out_of_quota(load), _others(load), _throttled(hardware))
    cause = next(filter(None, causes), f"only {throughput.n} timed steps of uneven length")
    return Noise(cv=cv, verdict="noisy", cause=f"{cause}; {remedy}")


def machine_load(loads: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The load of one machine, from what each of its ranks has measured: a rank is no other process to its siblings."""

    def combined(name: str, combine: Callable[[Sequence[float]], float]) -> float | None:
        values = [value for load in loads if (value := load.get(name)) is not None]
        return combine(values) if values else None

    busy, own = combined("busy_seconds", max), combined("cpu_seconds", sum)
    return {
        "wall_seconds": combined("wall_seconds", max),
        "cpu_seconds": own,
        "preempted": combined("preempted", sum),
        "busy_seconds": busy,
        "others_cpu_seconds": None if busy is None else max(0.0, busy - (own or 0.0)),
        # These count the whole machine, or the cgroup of all ranks.
        "steal_seconds": combined("steal_seconds", max),
        "quota_seconds": combined("quota_seconds", max),
    }


def waited(load: Mapping[str, float | None], threads: int) -> float | None:
    """For how long others may have kept a training from its CPUs, per CPU second of its own; None if it is not known.

    What its threads did not use of the window was taken by others at most as far as others had it: other processes,
    the hypervisor, a quota.

    Args:
        threads: of all ranks.
    """
    wall, own, others = (load.get(name) for name in ("wall_seconds", "cpu_seconds", "others_cpu_seconds"))
    if not wall or not own or others is None:
        return None
    taken = others + (load.get("steal_seconds") or 0.0) + (load.get("quota_seconds") or 0.0)
    return max(0.0, min(threads * wall - own, taken)) / own


def half_width(value: float, interval: Interval) -> float:
    """Half of the interval's width as a share of the value."""
    return (interval[1] - interval[0]) / 2 / value


def _cpus(load: Mapping[str, float | None], name: str) -> float:
    """CPU seconds per second of the window."""
    return (load.get(name) or 0.0) / (load.get("wall_seconds") or math.inf)


def _stolen(load: Mapping[str, float | None]) -> str | None:
    cpus = _cpus(load, "steal_seconds")
    return f"the hypervisor took {cpus:.2f} CPUs away; use a quieter host" if cpus > STEAL else None


def _out_of_quota(load: Mapping[str, float | None]) -> str | None:
    cpus = _cpus(load, "quota_seconds")
    if cpus <= QUOTA:
        return None
    return f"{cpus:.2f} CPUs waited for the container's CPU quota; raise it, or use fewer threads"


def _others(load: Mapping[str, float | None]) -> str | None:
    cpus = _cpus(load, "others_cpu_seconds")
    return f"other processes used {cpus:.1f} CPUs; stop them" if cpus > OTHERS else None


def _throttled(hardware: Hardware | None) -> str | None:
    """What held the clock down, or that it fell while the device was busy: an idle one lowers it by itself."""
    if hardware is None:
        return None
    clock, busy = hardware.clock_mhz, hardware.utilization
    fell = clock is not None and clock.low < (1 - CLOCK) * clock.high and (busy is None or busy.mean > BUSY)
    reasons = [reason for reason in hardware.throttled if fell or clock is None or reason not in STEADY]
    if reasons:
        return f"the clock was held down ({', '.join(reasons)}); cool the device better, or lock a lower clock"
    if fell:
        assert clock is not None
        return f"the clock fell from {clock.high:.0f} to {clock.low:.0f} MHz; lock it"
    return None
