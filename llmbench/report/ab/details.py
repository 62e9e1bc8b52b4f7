"""One case of an A/B comparison at length: its sessions, the turns of one of them, memory, losses, noise, logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from llmbench.report.ab import verdicts
from llmbench.report.ab.views import urgent_first
from llmbench.report.charts.lines import Curve, lines
from llmbench.report.charts.sessions import Look, session_dots
from llmbench.report.charts.turns import TurnSteps, turn_order
from llmbench.report.format import NOTHING, count, duration, number, signed_percent, size
from llmbench.report.palette import Ink
from llmbench.report.verdict import Verdict
from llmbench.results.ab import SIDES, Ab, AbSession, SideName, Trained
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.ab import AbComparison, CaseVerdict, LossMargin, Metric, course
from llmbench.stats.gates import LossChange

BASE, CAND = Ink(4, None), Ink(0, "5 3")
INKS = {"BASE": BASE, "CAND": CAND}
_TOTAL = Ink(5, None)
_MOST_LOGS = 3
_WIDE, _TALL = 330, 170
SESSION_HEADS = (
    "Session", "First", "Step", "Total", "Peak BASE", "Peak CAND", "Load", "Preempted (BASE / CAND)", "CPUs",
    "Seed", "Took",
)  # fmt: skip


@dataclass(frozen=True)
class Log:
    """The last lines of a side that failed."""

    title: str
    message: str
    hint: str | None
    lines: list[str]


@dataclass(frozen=True)
class Detail:
    """What the page folds away of a case.

    Attributes:
        notes: what got worse, and what is open, a sentence each; may hold `code`.
        looks: charts of the sessions, each with its heading.
        turns: chart of one session, with its heading.
        table: a row for each session.
    """

    case: CaseVerdict
    anchor: str
    verdict: Verdict
    summary: str
    notes: list[str]
    facts: list[tuple[str, str]]
    looks: list[tuple[str, Markup]]
    turns: tuple[str, Markup] | None
    loss: tuple[str, Markup] | None
    table: list[list[str]]
    logs: list[Log]
    unfolded: bool


def details(comparison: AbComparison, folder: AbFolder | None) -> list[Detail]:
    """Every case, the most urgent first; the only one unfolded."""
    alone = len(comparison.cases) == 1
    found = enumerate(urgent_first(comparison.cases))
    return [_detail(comparison, case, f"case-{number}", folder, alone) for number, case in found]


def _detail(
    comparison: AbComparison, case: CaseVerdict, anchor: str, folder: AbFolder | None, unfolded: bool
) -> Detail:
    whole = [one for one, _ in case.counted]
    return Detail(
        case,
        anchor,
        verdicts.verdict_of_case(case),
        f"{count(len(case.sessions), 'session')} in {duration(case.seconds)}",
        _notes(case),
        _facts(comparison.ab, case, whole),
        [chart for metric in _times() for chart in _looks(comparison.ab, case, metric)],
        _turns(case),
        _loss(case, whole),
        _table(case),
        _logs(case, folder),
        unfolded,
    )


def _times() -> tuple[Metric, Metric]:
    return "step", "total"


def _notes(case: CaseVerdict) -> list[str]:
    worse = [verdicts.failure(row) for row in case.rows if row.worse]
    return worse + [f"{', '.join(one.metrics)}: {one.why}" for one in verdicts.questions(case)]


def _facts(ab: Ab, case: CaseVerdict, whole: Sequence[AbSession]) -> list[tuple[str, str]]:
    both = case.case
    told = []
    if both.base.mode != both.cand.mode:
        told.append(("Modes", f"{both.base.mode} → {both.cand.mode}"))
    before, after = both.base.config, both.cand.config
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    told += [("Settings that differ", ", ".join(changed))] if changed else []
    told.append(("Design", _design(case, whole)))
    for side, name in zip(SIDES, INKS, strict=True):
        peaks = [peak for one in whole if (peak := _peak(one.of(side)))]
        if peaks:
            most = f" to {size(max(peaks))}" if max(peaks) > min(peaks) else ""
            told.append((f"Peak memory {name}", f"{size(min(peaks))}{most}"))
    loss = case.row("loss")
    if loss:
        told.append(("Loss", f"{verdicts.verdict_of(loss).word}: {verdicts.estimate(loss)} {_loss_limit(loss.loss)}"))
    return told


def _loss_limit(loss: LossChange | LossMargin | None) -> str:
    return f"(limit {number(loss.limit, 2)})" if loss else ""


def _design(case: CaseVerdict, whole: Sequence[AbSession]) -> str:
    if case.design == "apart":
        return "apart: one side after the other, since both do not fit into memory; sees only larger differences"
    if not whole:
        return "lock-step"
    first = whole[0].rounds
    steps = len(first[0].base.steps)
    return f"lock-step: {count(len(first), 'round')} of {count(steps, 'step')} each, in random order"


def _looks(ab: Ab, case: CaseVerdict, metric: Metric) -> list[tuple[str, Markup]]:
    row = case.row(metric)
    values, found = course(ab, case, metric)
    if not values:
        return []
    looks = [Look(one.sessions, one.ratio, one.low, one.high) for one in found]
    said = f"{verdicts.estimate(row)} {verdicts.interval(row)}" if row and row.time else "too few sessions"
    name = verdicts.METRICS[metric]
    drawn = session_dots(
        f"{name.capitalize()} of {case.case.id}, session by session",
        values,
        looks,
        ab.gate.tolerance,
        ab.gate.limit,
        _TOTAL if metric == "total" else CAND,
        width=_WIDE,
        tall=_TALL,
    )
    return [(f"{name.capitalize()}: {said}", drawn)]


def _turns(case: CaseVerdict) -> tuple[str, Markup] | None:
    """Of the session that is furthest from the others: there is the most to be seen."""
    if not case.counted:
        return None
    centre = fmean(told["step"] for _, told in case.counted)
    shown, _ = max(case.counted, key=lambda pair: abs(pair[1]["step"] - centre))
    turns = []
    for one in shown.rounds:
        order: tuple[SideName, SideName] = ("base", "cand") if one.first == "base" else ("cand", "base")
        for side in order:
            steps = one.of(side).steps or [math.nan]
            turns.append(TurnSteps(side.upper(), min(steps), max(steps)))
    session = _number(shown)
    drawn = turn_order(f"Steps of session {session}, turn by turn", turns, INKS, width=_WIDE, tall=_TALL)
    return (f"Turns of session {session}, the furthest from the mean", drawn) if drawn else None


def _loss(case: CaseVerdict, whole: Sequence[AbSession]) -> tuple[str, Markup] | None:
    """Of the first session in which they differ, else of the first; with the first step that differs."""
    trained = [one for one in whole if one.base.loss and one.cand.loss]
    if not trained:
        return None
    row = case.row("loss")
    shown = next((one for one in trained if one.base.loss != one.cand.loss), trained[0])
    step = row.loss.step if row and isinstance(row.loss, LossChange) else None
    step = _first_difference(shown) if step is None else step
    marked = (step, f"≠ from step {step}") if step is not None else None
    curves = [Curve(name, ink, shown.of(side).loss) for side, (name, ink) in zip(SIDES, INKS.items(), strict=True)]
    drawn = lines(f"Loss of {case.case.id}", curves, marked=marked, width=_WIDE, tall=_TALL)
    return (f"Loss: {verdicts.estimate(row)}" if row else "Loss: not compared", drawn)


def _first_difference(one: AbSession) -> int | None:
    pairs = zip(one.base.loss, one.cand.loss, strict=False)
    return next((step for step, (base, cand) in enumerate(pairs) if base != cand), None)


def _table(case: CaseVerdict) -> list[list[str]]:
    """``SESSION_HEADS`` of each session, failed ones too."""
    differences = {id(one): told for one, told in case.counted}
    rows = []
    for one in case.sessions:
        found = differences.get(id(one))
        name = _number(one) if found else f"{_number(one)}: {_why_not(one, case)}"
        told = [_change(found[metric]) if found else NOTHING for metric in _times()]
        rows.append([name, one.first.upper(), *told, *_noise(one)])
    return rows


def _number(one: AbSession) -> str:
    """From 1, as people count; a damaged line may not say it."""
    return str(one.session + 1) if one.session >= 0 else "?"


def _why_not(one: AbSession, case: CaseVerdict) -> str:
    """Why a session does not count."""
    if one.base.error or one.cand.error:
        return " and ".join(f"{side.upper()} {one.of(side).status}" for side in SIDES if one.of(side).error)
    return "lock-step" if one.design != case.design else "damaged or not whole"


def _noise(one: AbSession) -> list[str]:
    cpus = ",".join(map(str, one.cpus[:8])) if one.cpus else NOTHING
    preempted = [NOTHING if amount is None else str(amount) for amount in (one.base.preempted, one.cand.preempted)]
    return [
        *(size(_peak(one.of(side))) for side in SIDES),
        number(one.load_1min),
        " / ".join(preempted),
        cpus,
        str(one.seed),
        duration(one.seconds),
    ]


def _change(value: float) -> str:
    return signed_percent(math.expm1(min(value, 700.0)))


def _peak(trained: Trained) -> int | None:
    memory = trained.memory
    return (memory.peak_allocated_bytes or memory.peak_rss_bytes) if memory else None


def _logs(case: CaseVerdict, folder: AbFolder | None) -> list[Log]:
    """Of the first sides that failed; a log is told once, for all sessions write to it."""
    found: dict[tuple[SideName, str], Log] = {}
    for one in case.sessions:
        for side in SIDES:
            trained = one.of(side)
            if trained.error and (side, trained.error.message) not in found and len(found) < _MOST_LOGS:
                title = f"{side.upper()} {trained.status} in session {_number(one)}: {trained.error.type}"
                tail = folder.log_tail(trained) if folder else []
                found[side, trained.error.message] = Log(title, trained.error.message, trained.error.hint, tail)
    return list(found.values())
