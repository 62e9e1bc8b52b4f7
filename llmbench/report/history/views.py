"""What page, terminal and Markdown tell of a history, in the same words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmbench.report.format import NOTHING, count, duration, number, percent, shorten, si, size
from llmbench.report.verdict import Pill, Verdict, pills
from llmbench.results.environment import Difference
from llmbench.results.history import History
from llmbench.results.past import PastRun
from llmbench.stats.changes import FEWEST
from llmbench.stats.metrics import Metric
from llmbench.stats.trends import STATES, Shift, Step, Trend

VERDICTS = {
    verdict.key: verdict
    for verdict in (
        Verdict("failing", "✖", "failing", "bad"),
        Verdict("worse", "▼", "step down", "warn"),
        Verdict("unusual", "?", "unusual", "warn"),
        Verdict("better", "▲", "step up", "muted"),
        Verdict("few", "…", "too few runs", "muted"),
        Verdict("steady", "=", "steady", "good"),
        Verdict("replaced", "○", "replaced", "muted"),
    )
}


@dataclass(frozen=True)
class StepGroup:
    """Steps that the same run brought, the same way; the largest first."""

    worse: bool
    up: bool
    steps: list[tuple[Trend, Step]]

    @property
    def first(self) -> Step:
        return self.steps[0][1]

    @property
    def symbol(self) -> str:
        return "▲" if self.up else "▼"

    @property
    def size(self) -> str:
        """Of one step with its interval; of several from the least to the greatest."""
        sizes = sorted((step.size for _, step in self.steps), key=abs)
        if len(sizes) == 1:
            return f"{change(sizes[0])} {interval(self.first)}"
        return f"{change(sizes[0])} to {change(sizes[-1])}"

    @property
    def runs_since(self) -> int:
        trend, step = self.steps[0]
        return len(trend.points) - step.index

    @property
    def commits(self) -> str:
        return commits(self.first)

    @property
    def changed(self) -> list[Difference]:
        return self.first.changed


def verdict_of(trend: Trend, metric: Metric) -> Verdict:
    """The state in words: which way the value went, and of what is better low, that up is worse."""
    verdict = VERDICTS[trend.state]
    if metric.higher or trend.state not in ("worse", "better"):
        return verdict
    up = trend.state == "worse"
    return Verdict(verdict.key, "▲" if up else "▼", "step up" if up else "step down", verdict.tone)


def headline(found: Sequence[Trend], metric: Metric) -> str:
    """``2 steps down, 1 step up``; what fails where there is none."""
    worse, better = _amounts(found)
    if not any(trend.values for trend in found):
        return "nothing was measured"
    failing = sum(trend.state == "failing" for trend in found)
    if not worse and not better and failing:
        return f"{count(failing, 'case')} failing, no step"
    if not worse and not better:
        told = [trend for trend in found if len(trend.values) >= FEWEST and trend.state != "replaced"]
        return f"no step in {count(len(told), 'case')}" if told else "too few runs to tell"
    ways = ("down", "up") if metric.higher else ("up", "down")
    parts = [f"{count(amount, 'step')} {way}" for amount, way in zip((worse, better), ways, strict=True) if amount]
    return ", ".join(parts)


def _amounts(found: Sequence[Trend]) -> tuple[int, int]:
    steps = [step for trend in found if trend.state != "replaced" for step in trend.steps]
    worse = sum(step.worse for step in steps)
    return worse, len(steps) - worse


def history_pills(found: Sequence[Trend], metric: Metric) -> list[Pill]:
    """Cases that fail now, steps by way, and how many cases are in every other state."""
    worse, better = _amounts(found)
    others = {key: verdict for key, verdict in VERDICTS.items() if key not in ("worse", "better")}
    states = pills((VERDICTS[trend.state] for trend in found if trend.state in others), others)
    steps = [
        _pill_of_steps(metric, amount, went_worse) for amount, went_worse in ((worse, True), (better, False)) if amount
    ]
    bad = [pill for pill in states if pill.tone == "bad"]
    return [*bad, *steps, *(pill for pill in states if pill.tone != "bad")]


def _pill_of_steps(metric: Metric, amount: int, worse: bool) -> Pill:
    down = metric.higher == worse
    meaning = "" if metric.higher else ", worse" if worse else ", better"
    text = f"{count(amount, 'step')} {'down' if down else 'up'}{meaning}"
    return Pill("▼" if down else "▲", text, "warn" if worse else "muted")


def step_groups(found: Sequence[Trend], metric: Metric) -> list[StepGroup]:
    """All steps by the run that brought them: the newest first, of one run the worse before the better."""
    groups: dict[tuple[datetime, str, bool], list[tuple[Trend, Step]]] = {}
    for trend in found:
        for step in trend.steps if trend.state != "replaced" else ():
            groups.setdefault((step.after.started_at, step.after.id, step.worse), []).append((trend, step))
    ordered = sorted(groups.items(), key=lambda item: (item[0][2], item[0][0], item[0][1]), reverse=True)
    return [
        StepGroup(worse, worse != metric.higher, sorted(steps, key=lambda one: -abs(one[1].size)))
        for (_, _, worse), steps in ordered
    ]


def failures(found: Sequence[Trend]) -> list[tuple[str, list[Trend]]]:
    """Cases that fail now, by the reason; most cases first."""
    of_reason: dict[str, list[Trend]] = {}
    for trend in found:
        if trend.state == "failing":
            newest = trend.points[-1]
            reason = shorten(newest.reason or newest.status or "no reason was recorded", 200)
            of_reason.setdefault(reason, []).append(trend)
    return sorted(of_reason.items(), key=lambda item: -len(item[1]))


@dataclass(frozen=True)
class Turn:
    """A run from which on the environment was another; ``steps`` is how many cases changed there."""

    run: PastRun
    changed: list[Difference]
    steps: int


def timeline(found: Sequence[Trend]) -> list[Turn]:
    """The newest first; a run once, with all that one of its cases saw change."""
    of_run: dict[int, list[Shift]] = {}
    steps: Counter[int] = Counter()
    for trend in found:
        for shift in trend.shifts:
            of_run.setdefault(id(shift.run), []).append(shift)
        steps.update(id(step.after) for step in trend.steps)
    turns = []
    for run, shifts in of_run.items():
        fullest = max(shifts, key=lambda shift: len(shift.changed))
        turns.append(Turn(fullest.run, fullest.changed, steps[run]))
    return sorted(turns, key=lambda turn: turn.run.started_at, reverse=True)


def change(fraction: float | None) -> str:
    """``−8.2 %``, ``+0.4 %``."""
    if fraction is None:
        return NOTHING
    if abs(fraction) >= 10:  # no decimals of what is many times as much
        return f"+{percent(fraction, 2)}"
    text = f"{100 * fraction:+.1f} %".replace("-", "−")
    return "±0.0 %" if text in ("+0.0 %", "−0.0 %") else text


def interval(step: Step) -> str:
    low, high = (change(end).removesuffix(" %") for end in step.interval)
    return f"[{low}, {high}]"


def shown(value: float | None, unit: str) -> str:
    """A value as a cell has it; rates without their unit, which stands above."""
    if value is None:
        return NOTHING
    if unit == "s":
        return duration(value)
    if unit.startswith("bytes"):
        return size(value)
    if unit.startswith("J"):
        return si(value, "J")
    if unit == "×":
        return f"{number(value, 4)}×"
    return si(value, digits=4)


def tick(value: float, unit: str) -> str:
    """As ``shown``, without zeros at the end."""
    digits, space, rest = shown(value, unit).partition(" ")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + space + rest


def commits(step: Step) -> str:
    """``1a2b3c4..5d6e7f8``, as `git log` takes it; what keeps it from telling all. Empty where neither knows one."""
    before, after = (commit(run) for run in (step.before, step.after))
    if before == after == NOTHING:
        return ""
    if before == after:
        return f"{before} in both"
    return commit_range(step, 7) or f"{before} → {after}"


def commit_range(step: Step, digits: int = 40) -> str | None:
    """From the last run at the old level to the first at the new one; None where a commit does not say what ran."""
    before, after = step.before, step.after
    if not before.commit or not after.commit or before.commit == after.commit or before.dirty or after.dirty:
        return None
    return f"{before.commit[:digits]}..{after.commit[:digits]}"


def commit(run: PastRun) -> str:
    return f"{run.commit[:7]}{'+' if run.dirty else ''}" if run.commit else NOTHING


def day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


def clock(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def amount(history: History, metric: Metric) -> str:
    """``40 runs, 2026-08-01 to 2026-09-09``"""
    told = count(len(history.runs), "comparison" if metric.of_comparisons else "run")
    return f"{told}, {period(history.runs)}" if history.runs else told


def not_shown(history: History, metric: Metric) -> str | None:
    """What lies there beside what is followed, and how to see it."""
    if metric.of_comparisons:
        return f"{count(history.others, 'run')} beside: --metric throughput" if history.others else None
    beside = sum(not one.ab.self_check for one in history.comparisons)
    return f"{count(beside, 'comparison')} beside: --metric ratio" if beside else None


def period(runs: Sequence[PastRun]) -> str:
    first, last = day(runs[0].started_at), day(runs[-1].started_at)
    return first if first == last else f"{first} to {last}"


def in_words(changed: Sequence[Difference], most: int = 4) -> str:
    """``torch 2.12.1 → 2.13.0, kernel …``."""
    told = ", ".join(map(str, changed[:most]))
    return f"{told} and {len(changed) - most} more" if len(changed) > most else told


def urgency(trend: Trend) -> int:
    return STATES.index(trend.state)
