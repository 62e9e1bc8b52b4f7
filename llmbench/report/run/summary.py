"""The first screen: what needs attention, five figures."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.report.format import (
    NOTHING,
    count,
    duration,
    number,
    percent,
    plus_minus,
    short,
    shorten,
    si,
    size,
    times,
)
from llmbench.report.run.cases import CaseView, is_broken
from llmbench.report.run.matrix import Matrix
from llmbench.report.run.speedup import headline
from llmbench.report.verdict import URGENCY, VERDICTS, Verdict
from llmbench.results.schema import Run


@dataclass(frozen=True)
class Attention:
    """Cases that share a cause. Texts may hold `backticked` code."""

    verdict: Verdict
    cases: list[CaseView]
    cause: str
    hint: str | None


def attention(cases: Sequence[CaseView], run: Run, path: str) -> list[Attention]:
    """What a reader has to know or do, the worst first; cases of one cause stand together."""
    groups: dict[tuple[str, str, str | None], list[CaseView]] = {}
    for case in cases:
        if case.verdict.key not in ("ok", "noisy", "missing"):
            groups.setdefault((case.verdict.key, *explain(case)), []).append(case)
    noisy = [case for case in cases if case.verdict.key == "noisy"]
    if noisy:
        groups["noisy", *_noise(noisy)] = noisy
    missing = [case for case in cases if case.verdict.key == "missing"]
    if missing:
        groups["missing", *_unfinished(run, len(missing), len(cases), path)] = missing
    return [
        Attention(VERDICTS[key], group, cause, hint)
        for (key, cause, hint), group in sorted(groups.items(), key=lambda item: URGENCY.index(item[0][0]))
    ]


def damaged_files(damage: Sequence[str], cases: Sequence[CaseView]) -> list[Attention]:
    """What is damaged beside the records, file by file: ``run.json`` and the series of cases."""
    of_records = {fault for case in cases for fault in case.damage}
    files: dict[str, list[str]] = {}
    for fault in damage:
        if fault not in of_records:
            file, _, what = fault.partition(": ")
            files.setdefault(file, []).append(what)
    found = []
    for file, said in files.items():
        rest = f"; and {len(said) - 3} more" if len(said) > 3 else ""
        without = [case for case in cases if case.series_fault and case.series_fault.startswith(f"{file}: ")]
        found.append(Attention(VERDICTS["damaged"], without, f"{file}: {'; '.join(said[:3])}{rest}", None))
    return found


@dataclass(frozen=True)
class Calm:
    """Cases without a number, of one verdict and cause: nothing was measured, so they take one line together."""

    verdict: Verdict
    cases: list[CaseView]
    names: str
    cause: str
    hint: str | None
    message: str | None


def unmeasured(cases: Sequence[CaseView]) -> list[Calm]:
    """What was skipped, by reason, and what was not run."""
    groups: dict[tuple[str, str, str | None], list[CaseView]] = {}
    for case in cases:
        if case.verdict.key in ("skipped", "missing"):
            groups.setdefault((case.verdict.key, *explain(case)), []).append(case)
    return [
        Calm(VERDICTS[key], group, names(group), cause, hint, _rest(group[0], cause))
        for (key, cause, hint), group in groups.items()
    ]


def names(cases: Sequence[CaseView]) -> str:
    """What the cases are, as short as can be: ``bf16, fp16 of gpt-tiny, bert-tiny``."""
    if len(cases) == 1:
        return cases[0].id
    modes = dict.fromkeys(case.column.name for case in cases)
    workloads = dict.fromkeys(f"{case.workload} {case.variant}".strip() for case in cases)
    return f"{', '.join(modes)} of {', '.join(workloads)}"


def _rest(case: CaseView, cause: str) -> str | None:
    """The whole error text, where the cause shows only its first line."""
    text = case.record.error.message.strip() if case.record and case.record.error else ""
    return shorten(text, 4000) if text and text not in cause else None


def _noise(cases: Sequence[CaseView]) -> tuple[str, str | None]:
    """The words of the noisiest case: causes differ in their numbers only."""
    worst = max(cases, key=lambda case: case.uncertainty or 0.0)
    cause, hint = explain(worst)
    return (f"{worst.column.mode} of {worst.workload} the most: {cause}" if len(cases) > 1 else cause), hint


def explain(case: CaseView) -> tuple[str, str | None]:
    """Cause and hint of a case that did not simply pass."""
    record = case.record
    if record is None:
        return "has no record", None
    if record.error is not None:
        lines = record.error.message.strip().splitlines() or [""]
        # The verdict says it already.
        told = record.error.type in lines[0] or record.error.type in ("Unavailable", "Refused", "Invalid", "Damaged")
        kind = "" if told else record.error.type
        return shorten(": ".join(part for part in (kind, lines[0]) if part), 320), record.error.hint
    parity = record.parity
    if record.status == "invalid" and parity is not None and parity.verdict == "fail":
        return (
            f"{parity.metric}: {number(parity.value)} against {parity.reference}, "
            f"where the arithmetic explains {short(parity.limit)}"
        ), None
    if record.loss is not None and not record.loss.finite:
        return "the loss is not finite", "a smaller `learning_rate` often helps"
    if record.loss is not None and not record.loss.learned:
        return f"the loss did not fall ({number(record.loss.first)} → {number(record.loss.final)})", None
    if case.verdict.key == "noisy" and record.noise is not None:
        spread = f"step times vary by {percent(record.noise.cv)}, interval {plus_minus(case.uncertainty)}"
        return (f"{spread}; {record.noise.cause}" if record.noise.cause else spread), None
    return "no cause was recorded", None


def _unfinished(run: Run, missing: int, total: int, path: str) -> tuple[str, str]:
    why = {
        "running": "the run is still going on, or was killed",
        "interrupted": "the run was interrupted",
        "done": "the run ended without them",
    }[run.status]
    resume = shlex.join(["llmbench", "run", "--resume", path])
    return f"{missing} of {count(total, 'case')} not run: {why}.", f"Continue with `{resume}`"


@dataclass(frozen=True)
class Figure:
    value: str
    label: str
    note: str = ""


def figures(cases: Sequence[CaseView], table: Matrix) -> list[Figure]:
    return [_speed(table), _uncertainty(cases), _memory(cases), _energy(cases), _training(cases)]


def _speed(table: Matrix) -> Figure:
    best = headline(table.by_column())
    if best is None:
        return Figure(NOTHING, "speed-up over eager", "no mode was measured beside its eager case")
    interval = best.mean.interval
    bounds = f"95 % interval {times(interval[0])} to {times(interval[1])}" if interval else ""
    covered = f"geometric mean of {count(best.workloads, 'workload')}"
    slower = "no mode was faster" if best.mean.value < 1 else ""
    note = ", ".join(filter(None, (slower, covered, bounds)))
    return Figure(times(best.mean.value), f"{best.column.name} over eager", note)


def _uncertainty(cases: Sequence[CaseView]) -> Figure:
    widths = [case.uncertainty for case in cases if case.counts and case.uncertainty is not None]
    if not widths:
        return Figure(NOTHING, "uncertainty of the speeds", "no case has an interval")
    worst = max(widths)
    return Figure(
        plus_minus(statistics.median(widths)),
        "median 95 % interval of the speeds",
        f"{count(len(widths), 'case')}, the widest {plus_minus(worst)}",
    )


def _memory(cases: Sequence[CaseView]) -> Figure:
    known = [(case.peak_bytes, case) for case in cases if case.peak_bytes is not None and not case.damage]
    if not known:
        return Figure(NOTHING, "peak memory", "not measured")
    peak, case = max(known, key=lambda pair: pair[0])
    memory = case.record.memory if case.record else None
    kind = "allocated" if memory and memory.peak_allocated_bytes is not None else "resident"
    capacity = f" of {size(memory.capacity_bytes)}" if memory and memory.capacity_bytes else ""
    return Figure(size(peak), f"peak memory {kind}{capacity}", case.id)


def _energy(cases: Sequence[CaseView]) -> Figure:
    whole = [case.record for case in cases if case.record and not case.damage]
    measured = [(record.energy, record.phases) for record in whole if record.energy]
    if not measured:
        reasons = Counter(record.energy_reason for record in whole if record.energy_reason)
        reason = reasons.most_common(1)[0][0] if reasons else None
        return Figure(NOTHING, "energy: not measured", shorten(reason, 120) if reason else "")
    joules = sum(energy.joules for energy, _ in measured)
    seconds = sum(phases.timed for _, phases in measured if phases)
    watts = f"{si(joules / seconds, 'W')} mean over {duration(seconds)}" if seconds > 0 else ""
    return Figure(si(joules, "J"), f"energy of {count(len(measured), 'timed window')}", watts)


def _training(cases: Sequence[CaseView]) -> Figure:
    """Parity with eager where it was judged, and how many losses fell."""
    whole = [case.record for case in cases if case.record and not case.damage]
    losses = [record.loss for record in whole if record.loss]
    parity = [record.parity for record in whole if record.parity]
    broken = sum(is_broken(case) for case in cases)
    learned = f"{sum(loss.learned for loss in losses)} of {count(len(losses), 'loss', 'losses')} fell"
    if parity:
        passed = sum(one.verdict == "pass" for one in parity)
        return Figure(f"{passed} / {len(parity)}", "trainings match the eager reference", learned)
    if losses:
        return Figure(f"{sum(loss.learned for loss in losses)} / {len(losses)}", "losses fell", "parity was not judged")
    return Figure(NOTHING, "loss curves", f"{count(broken, 'case')} without a loss" if broken else "none recorded")
