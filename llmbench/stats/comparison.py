"""Two sides held against each other, case by case, and what a gate makes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Literal

from llmbench.results.fingerprint import differences, hardware, other_hardware
from llmbench.results.schema import BROKEN, Record, Run
from llmbench.results.sides import Pair, Side, Trained, pairs
from llmbench.stats import compare
from llmbench.stats.compare import Change, Sample
from llmbench.stats.gates import LossChange, MemoryChange, loss_change, memory_change, peak_bytes

Outcome = Literal[
    "broken", "slower", "inconclusive", "incomparable", "only base", "not run", "still broken", "only cand", "faster",
    "fixed", "same",
]  # fmt: skip
"""What becomes of a case, its speed or why there is none to compare; the most urgent first."""

EAGER = "eager"


@dataclass(frozen=True)
class Rules:
    """What counts as equal, and what as a regression.

    Attributes:
        equal_within: share by which throughputs may differ and still be the same.
        fail_slower: share of throughput that a case called slower may lose before the gate fails.
        strict: what cannot be told fails the gate, too.
        across_hardware: judge although the machines are not alike.
    """

    equal_within: float = 0.02
    fail_slower: float = 0.0
    strict: bool = False
    across_hardware: bool = False


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        change: of the throughput; None unless both sides have one that counts.
        loss_reason: why there is no verdict on the loss.
        energy: ratio of the joules per token or sample.
        reason: why nothing can be told, or what went wrong.
        failures: what a gate finds wrong with it, a phrase each.
    """

    case: str
    outcome: Outcome
    base: Sequence[Trained]
    cand: Sequence[Trained]
    change: Change | None = None
    memory: MemoryChange | None = None
    loss: LossChange | None = None
    loss_reason: str | None = None
    energy: float | None = None
    reason: str | None = None
    failures: Sequence[str] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to look at."""
        other = (self.memory and self.memory.verdict != "same") or (self.loss and self.loss.verdict == "changed")
        return self.outcome not in ("same", "still broken") or bool(other)


@dataclass(frozen=True)
class Comparison:
    """Everything that is told of two sides.

    Attributes:
        hardware: what of the machines differs, as ``what: base → cand``.
    """

    base: Side
    cand: Side
    rules: Rules
    rows: Sequence[Row]
    hardware: Sequence[str]

    @cached_property
    def counts(self) -> Counter[str]:
        """How many cases have which outcome."""
        return Counter(row.outcome for row in self.rows)

    @property
    def refused(self) -> bool:
        """Whether nothing may be called a regression, because the machines are not alike."""
        return bool(self.hardware) and not self.rules.across_hardware

    @property
    def failures(self) -> list[tuple[Row, str]]:
        """What makes the gate fail, in the order of the rows."""
        return [] if self.refused else [(row, failure) for row in self.rows for failure in row.failures]

    @property
    def undecided(self) -> list[Row]:
        """Cases of both sides, or of the base, of which it cannot be told whether they became slower."""
        return [row for row in self.rows if row.outcome in ("inconclusive", "incomparable", "only base", "not run")]

    @property
    def exit_code(self) -> int:
        if self.refused:
            return 0
        return int(bool(self.failures) or (self.rules.strict and bool(self.undecided or not self.rows)))


def compare_sides(base: Side, cand: Side, rules: Rules) -> Comparison:
    """The verdict of every case of either side."""
    machines = _hardware(base.runs, cand.runs)
    alike = _same_arithmetic(base.runs, cand.runs)
    rows = [_row(pair, rules, alike) for pair in pairs(base, cand)]
    return Comparison(base, cand, rules, rows, machines)


def sample(trained: Trained) -> Sample | None:
    """The speed of one case in one run; None where it has none that arithmetic bears, or no record of its noise."""
    record = trained.record
    found = record.throughput
    if found is None or not (1e-300 < found.value < 1e300):
        return None
    spread = _spread(trained)
    low, high = found.ci95
    if spread is None or not (-math.inf < low <= high < math.inf):
        return None
    half = min((high - low) / 2 / found.value, 10.0)
    return Sample(found.value, half, spread)


def _spread(trained: Trained) -> float | None:
    if trained.timed_seconds:
        return compare.assumed_spread(trained.timed_seconds)
    noise = trained.record.noise
    return compare.spread_of_variation(noise.cv) if noise and 0 <= noise.cv < math.inf else None


def energy_per_unit(record: Record) -> float | None:
    """Joules per token or sample of the timed window."""
    if record.energy is None or record.throughput is None or record.phases is None:
        return None
    work = record.throughput.value * record.phases.timed
    return record.energy.joules / work if 0 < work < math.inf and 0 < record.energy.joules < math.inf else None


def _row(pair: Pair, rules: Rules, alike: bool) -> Row:
    ended = _ended(pair)
    if ended is not None:
        return ended
    base, cand = (_counting(side) for side in (pair.base, pair.cand))
    if pair.difference:
        return Row(pair.case, "incomparable", pair.base, pair.cand, reason=f"not comparable: {pair.difference}")
    samples = [[found for one in side if (found := sample(one))] for side in (base, cand)]
    memory = memory_change(*([peak for one in side if (peak := _peak(one))] for side in (base, cand)))
    loss, loss_reason = _loss(base, cand, alike)
    failures = _gate_failures(memory, loss)
    energy = _energy(base, cand)
    if not all(samples):
        reason = "no throughput with an interval was recorded"
        return Row(pair.case, "incomparable", base, cand, None, memory, loss, loss_reason, energy, reason, failures)
    change = compare.change(*samples, rules.equal_within)
    if change.verdict == "slower" and change.ratio < 1 - rules.fail_slower:
        failures.insert(0, f"{_percent(change.ratio)} throughput")
    reason = _noise(base, cand, change) if change.verdict == "inconclusive" else None
    return Row(pair.case, change.verdict, base, cand, change, memory, loss, loss_reason, energy, reason, failures)


def _percent(ratio: float) -> str:
    """``−6.1 %``"""
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−") if ratio < 10 else f"{ratio:.3g}×"


def _counting(side: Sequence[Trained]) -> list[Trained]:
    return [trained for trained in side if trained.record.status == "ok"]


def _ended(pair: Pair) -> Row | None:
    """The row of a case that did not train right on both sides; None if it did, at least once."""
    for side, outcome in ((pair.base, "only cand"), (pair.cand, "only base")):
        if not side:
            return _plain(pair, outcome, "not run on the other side")
    broken = [[one for one in side if one.record.status in BROKEN] for side in (pair.base, pair.cand)]
    counting = [_counting(side) for side in (pair.base, pair.cand)]
    if broken[1] and not broken[0] and counting[0]:
        said = _why(broken[1])
        return Row(pair.case, "broken", pair.base, pair.cand, reason=said, failures=[said])
    if counting[0] and not counting[1]:
        said = _why(pair.cand)
        outcome: Outcome = "broken" if broken[1] else "not run"
        return Row(pair.case, outcome, pair.base, pair.cand, reason=said, failures=[said] if broken[1] else [])
    if counting[1] and not counting[0]:
        return _plain(pair, "fixed", f"before: {_why(pair.base)}")
    if not counting[0]:
        return _plain(pair, "still broken", f"on both sides: {_why(pair.cand)}")
    return None


def _plain(pair: Pair, outcome: Outcome, reason: str) -> Row:
    return Row(pair.case, outcome, pair.base, pair.cand, reason=reason)


def _why(side: Sequence[Trained]) -> str:
    """Status and error of the first that did not train right, and how many did not."""
    wrong = [one.record for one in side if one.record.status != "ok"]
    many = f"{len(wrong)} of {len(side)} runs " if len(side) > 1 else ""
    error = wrong[0].error
    return f"{many}{wrong[0].status}" + (f": {error.message.splitlines()[0][:200]}" if error and error.message else "")


def _peak(trained: Trained) -> int | None:
    return peak_bytes(trained.record.memory)


def _energy(base: Sequence[Trained], cand: Sequence[Trained]) -> float | None:
    """Ratio of the joules per token or sample."""
    sides = [[found for one in side if (found := energy_per_unit(one.record))] for side in (base, cand)]
    return median(sides[1]) / median(sides[0]) if all(sides) else None


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
    return max(found, key=lambda change: (order.index(change.verdict), change.value or math.inf)), None


def _repeats(base: Sequence[Trained]) -> bool:
    """Whether this case is known to repeat itself bit by bit: by its own runs, or by the parity check if it is eager."""
    if len(base) > 1:
        return all(one.series and base[0].series and one.series.loss == base[0].series.loss for one in base)
    record = base[0].record
    return record.mode == EAGER and record.world_size == 1 and bool(record.parity and record.parity.deterministic)


def _noise(base: Sequence[Trained], cand: Sequence[Trained], change: Change) -> str:
    """Why the verdict is open, and what would help."""
    noisy = [(name, one.record.noise) for name, side in (("BASE", base), ("CAND", cand)) for one in side]
    told = next((f"{name}: {n.cause}" for name, n in noisy if n and n.verdict == "noisy" and n.cause), None)
    if told:
        return told
    runs = "several runs of each side, taken in turns" if change.runs == (1, 1) else "more runs of each side"
    return f"the interval crosses the edge of the band; {runs}, would narrow it"


def _hardware(base: Sequence[Run], cand: Sequence[Run]) -> list[str]:
    machines = [[hardware(run.device, run.environment) for run in side] for side in (base, cand)]
    return list(dict.fromkeys(text for one in machines[0] for other in machines[1] for text in other_hardware(one, other)))


def _same_arithmetic(base: Sequence[Run], cand: Sequence[Run]) -> bool:
    """Whether nothing is known to differ that changes the order of sums."""
    first = base[0]
    return all(
        not differences(first.environment, run.environment)
        and not other_hardware(hardware(first.device, first.environment), hardware(run.device, run.environment))
        and first.environment.get("packages") == run.environment.get("packages")
        and first.llmbench == run.llmbench
        for run in (*base, *cand)
    )


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """None of none."""
    return math.exp(fmean(math.log(ratio) for ratio in ratios)) if ratios else None
