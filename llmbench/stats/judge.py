"""Holds two sides against each other, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from llmbench.results.environment import decisive_differences, hardware, other_hardware
from llmbench.results.schema import BROKEN, Record, Run
from llmbench.results.sides import Pair, Side, Trained, pairs
from llmbench.stats.compare import Change, Sample, assumed_spread, change, spread_of_variation
from llmbench.stats.comparison import Comparison, Outcome, Row, Rules
from llmbench.stats.gates import LossChange, MemoryChange, loss_change, memory_change

_EAGER = "eager"
_WIDEST = 10.0  # half-width of a logarithm; more says nothing, and would overflow
_FAR = 1e300  # beyond it nothing was measured


def compare_sides(base: Side, cand: Side, rules: Rules) -> Comparison:
    """The verdict of every case of either side."""
    alike = _same_arithmetic(base.runs, cand.runs)
    rows = [_row(pair, rules, alike) for pair in pairs(base, cand)]
    return Comparison(base, cand, rules, rows, _hardware(base.runs, cand.runs))


def sample(trained: Trained) -> Sample | None:
    """The speed of one case in one run; None where it has none that arithmetic bears, or no record of its noise."""
    found, spread = trained.record.throughput, _spread(trained)
    if found is None or spread is None or not (1 / _FAR < found.value < _FAR):
        return None
    half = (found.ci95[1] - found.ci95[0]) / 2 / found.value
    return Sample(found.value, min(half, _WIDEST), min(spread, _WIDEST)) if 0 <= half < math.inf else None


def _spread(trained: Trained) -> float | None:
    noise = trained.record.noise
    waited = noise.waited if noise and noise.waited and 0 < noise.waited < _FAR else None
    if trained.timed_seconds:
        return assumed_spread(trained.timed_seconds, waited)
    return spread_of_variation(noise.cv, waited) if noise and 0 <= noise.cv < _FAR else None


def energy_per_unit(record: Record) -> float | None:
    """Joules per token or sample of the timed window."""
    if record.energy is None or record.throughput is None or record.phases is None:
        return None
    work = record.throughput.value * record.phases.timed
    if not (1 / _FAR < work < _FAR and 1 / _FAR < record.energy.joules < _FAR):
        return None
    return record.energy.joules / work


def _row(pair: Pair, rules: Rules, alike: bool) -> Row:
    ended = _ended(pair)
    if ended is not None:
        return ended
    if pair.difference:
        return _plain(pair, "incomparable", f"other settings: {pair.difference}")
    base, cand = _counting(pair.base), _counting(pair.cand)
    memory = memory_change([one.record.memory for one in base], [one.record.memory for one in cand])
    loss, loss_reason = _loss(base, cand, alike)
    failures = _gate_failures(memory, loss)
    samples = [[found for one in side if (found := sample(one))] for side in (base, cand)]
    speed = change(samples[0], samples[1], rules.equal_within) if all(samples) else None
    if speed and speed.verdict == "slower" and speed.ratio < 1 - rules.fail_slower:
        failures.insert(0, f"{_percent(speed.ratio)} throughput")
    return Row(
        case=pair.case,
        outcome=speed.verdict if speed else "incomparable",
        base=base,
        cand=cand,
        change=speed,
        memory=memory,
        loss=loss,
        loss_reason=loss_reason,
        energy=_energy(base, cand),
        reason=_open_because(base, cand, speed),
        failures=failures,
    )


def _percent(ratio: float) -> str:
    """``−6.1 %``"""
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−") if ratio < 10 else f"{ratio:.3g}×"


def _counting(side: Sequence[Trained]) -> list[Trained]:
    return [trained for trained in side if trained.record.status == "ok"]


def _ended(pair: Pair) -> Row | None:
    """The row of a case that did not train right on both sides; None if it did, at least once."""
    if not pair.base:
        return _plain(pair, "only cand", "not in BASE")
    if not pair.cand:
        return _plain(pair, "only base", "not in CAND")
    broken = [[one for one in side if one.record.status in BROKEN] for side in (pair.base, pair.cand)]
    right = [_counting(side) for side in (pair.base, pair.cand)]
    if right[0] and broken[1] and (not broken[0] or not right[1]):
        said = _why(broken[1], pair.cand)
        return Row(pair.case, "broken", pair.base, pair.cand, reason=said, failures=[said])
    if right[0] and right[1]:
        return None
    if right[0]:
        return _plain(pair, "not run", _why(pair.cand, pair.cand))
    if right[1]:
        return _plain(pair, "fixed", f"before: {_why(pair.base, pair.base)}")
    return _plain(pair, "still broken", _why(pair.cand, pair.cand))


def _plain(pair: Pair, outcome: Outcome, reason: str) -> Row:
    return Row(pair.case, outcome, pair.base, pair.cand, reason=reason)


def _why(wrong: Sequence[Trained], side: Sequence[Trained]) -> str:
    """Status and error of the first that did not train right, and how many of the side did not."""
    record, many = wrong[0].record, f"{len(wrong)} of {len(side)} runs " if len(side) > 1 else ""
    said = record.error.message.strip().partition("\n")[0][:200] if record.error else ""
    return f"{many}{record.status}: {said}" if said else f"{many}{record.status}"


def _energy(base: Sequence[Trained], cand: Sequence[Trained]) -> float | None:
    """Ratio of the joules per token or sample."""
    before, after = ([found for one in side if (found := energy_per_unit(one.record))] for side in (base, cand))
    return median(after) / median(before) if before and after else None


def _gate_failures(memory: MemoryChange | None, loss: LossChange | None) -> list[str]:
    failures = []
    if memory and memory.verdict == "more":
        failures.append(f"{_percent(memory.ratio)} peak memory")
    if loss and loss.verdict == "changed":
        size = "not finite" if loss.value is None else f"by {loss.value:.2g}, allowed {loss.limit:.2g}"
        at = f" from step {loss.step}" if loss.step is not None else ""
        failures.append(f"loss changed{at}: {size}")
    return failures


def _loss(base: Sequence[Trained], cand: Sequence[Trained], alike: bool) -> tuple[LossChange | None, str | None]:
    """The candidate's curve that is furthest from the base's first; or why there is none."""
    for key, what in (("weights_sha256", "first weights"), ("batches_sha256", "batches")):
        if len({one.record.facts[key] for one in (*base, *cand) if isinstance(one.record.facts.get(key), str)}) > 1:
            return None, f"other {what}"
    if not base[0].series or not all(one.series for one in cand):
        return None, "no curve"
    exact = alike and _repeats(base)
    curves = [(base[0].series.loss, one.series.loss, one.record.mode) for one in cand if one.series]
    found = [change for one, other, mode in curves if (change := loss_change(one, other, mode, exact=exact))]
    if len(found) < len(cand):
        return None, "other steps"
    order = ("bitwise", "within", "changed")
    return max(found, key=lambda one: (order.index(one.verdict), math.inf if one.value is None else one.value)), None


def _repeats(base: Sequence[Trained]) -> bool:
    """Whether this case is known to repeat itself bit by bit: by its own runs; if it is eager, by its parity check."""
    if len(base) > 1:
        return all(one.series and base[0].series and one.series.loss == base[0].series.loss for one in base)
    record = base[0].record
    return record.mode == _EAGER and record.world_size == 1 and bool(record.parity and record.parity.deterministic)


def _open_because(base: Sequence[Trained], cand: Sequence[Trained], speed: Change | None) -> str | None:
    """Why the verdict on the speed is open, and what would help; None if it is not."""
    if speed is None:
        return "no throughput with an interval was recorded"
    if speed.verdict != "inconclusive":
        return None
    noisy = [(name, one.record.noise) for name, side in (("BASE", base), ("CAND", cand)) for one in side]
    told = [f"{name}: {noise.cause}" for name, noise in noisy if noise and noise.verdict == "noisy" and noise.cause]
    if told:
        return told[0]
    runs = "several runs of each side, taken in turns," if speed.runs == (1, 1) else "more runs of each side"
    return f"the interval crosses an edge of the band; {runs} would narrow it"


def _hardware(base: Sequence[Run], cand: Sequence[Run]) -> list[str]:
    """What of any two machines of the sides is not alike."""
    machines = [[hardware(run.device, run.environment) for run in side] for side in (base, cand)]
    told = (text for one in machines[0] for other in machines[1] for text in other_hardware(one, other))
    return list(dict.fromkeys(told))


def _same_arithmetic(base: Sequence[Run], cand: Sequence[Run]) -> bool:
    """Whether nothing is known to differ that changes the order of sums."""
    first = base[0]
    machine = hardware(first.device, first.environment)
    return all(
        not decisive_differences(first.environment, run.environment)
        and not other_hardware(machine, hardware(run.device, run.environment))
        and first.environment.get("packages") == run.environment.get("packages")
        and first.llmbench == run.llmbench
        for run in (*base, *cand)
    )
