"""What self-checks say, in the words that terminal, page, Markdown and ``llmbench ab --self`` share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from llmbench.report.charts.trend import Course, Dot, Mark, sparkline
from llmbench.report.format import count, number, percent, signed_percent
from llmbench.report.verdict import Pill, Verdict
from llmbench.stats.selfcheck import FalseAlarm, OrderEffect, SelfChecks

_MOST_ALARMS = 5
_POINTS = 120


@dataclass(frozen=True)
class Line:
    """A statement; one that is a warning needs a look."""

    text: str
    warning: bool = False

    @property
    def symbol(self) -> str:
        return "✖" if self.warning else "="


def verdict(checks: SelfChecks) -> Verdict:
    if checks.distrusted:
        return Verdict("distrusted", "✖", "too many false alarms", "bad")
    return Verdict("trusted", "=", "no more than chance explains", "good")


def pills(checks: SelfChecks) -> list[Pill]:
    """Only what warns."""
    found = verdict(checks)
    return [Pill(found.symbol, found.word, found.tone)] if checks.distrusted else []


def lines(checks: SelfChecks) -> list[Line]:
    """Alarms, noise and order of start; none where there are no self-checks."""
    if not checks.checks:
        return []
    return [_alarms(checks), _noise(checks), *([_order(checks.order)] if checks.order else [])]


def alarms(checks: SelfChecks) -> list[str]:
    """The newest false alarms, a line each."""
    told = [alarm_text(alarm) for alarm in checks.false_alarms[::-1][:_MOST_ALARMS]]
    more = len(checks.false_alarms) - len(told)
    return told + ([f"{more} more in the JSON"] if more else [])


def alarm_text(alarm: FalseAlarm) -> str:
    return f"{alarm.run.id}: {alarm.case} {alarm.metric} {alarm.verdict}, {signed_percent(alarm.ratio - 1)}"


def _alarms(checks: SelfChecks) -> Line:
    told = (
        f"{count(checks.alarmed, 'false alarm')} in {count(len(checks.checks), 'self-check')}, "
        f"where the rules allow {number(checks.expected, 2)} on average"
    )
    if not checks.distrusted:
        return Line(told)
    chance = number(checks.p_value, 1)
    return Line(f"{told} (chance {chance}): do not gate here until it is known what tells the sides apart", True)


def _noise(checks: SelfChecks) -> Line:
    assert checks.noise is not None
    assert checks.usual_noise is not None
    told = f"noise from session to session {percent(checks.noise)}, usually {percent(checks.usual_noise)}"
    if not checks.noise_steps:
        return Line(told)
    step = checks.noise_steps[-1]
    since = checks.checks[step.index].run.id
    way = "more" if step.size > 0 else "less"
    return Line(f"{told}; {number(math.exp(abs(step.size)), 2)} times {way} since {since}", step.size > 0)


def _order(order: OrderEffect) -> Line:
    who = f"the side that was started first is {'slower' if order.shift > 0 else 'faster'}"
    size = percent(math.expm1(abs(order.shift) / 2))
    if order.matters:
        return Line(f"{who} by {size} (chance {number(order.p_value, 1)})", True)
    return Line(f"the order of start makes no difference that {sum(order.sessions)} sessions show")


def document(checks: SelfChecks) -> dict[str, Any] | None:
    """For JSON; None without self-checks."""
    if not checks.checks:
        return None
    order = checks.order
    return {
        "comparisons": len(checks.checks),
        "false_alarms": checks.alarmed,
        "expected": checks.expected,
        "p_value": checks.p_value,
        "distrusted": checks.distrusted,
        "alarms": [
            {
                "run": alarm.run.id,
                "case": alarm.case,
                "metric": alarm.metric,
                "verdict": alarm.verdict,
                "ratio": alarm.ratio,
            }
            for alarm in checks.false_alarms
        ],
        "noise": [{"run": check.run.id, "value": check.noise, "alarm": bool(check.alarms)} for check in checks.checks],
        "noise_steps": [asdict(step) for step in checks.noise_steps],
        "order": order and {**asdict(order), "matters": order.matters},
    }


def chart(checks: SelfChecks) -> Markup:
    """The noise of each self-check; one with a false alarm is marked as broken."""
    dots = [
        Dot(place, check.noise, None, bool(check.alarms), f"{check.run.id}: {percent(check.noise)}")
        for place, check in enumerate(checks.checks)
    ]
    marks = [Mark(step.index, step.size > 0, step.size > 0) for step in checks.noise_steps]
    return sparkline("noise of the self-checks", Course(dots, marks, []), len(dots), limit=_POINTS)


def texts(found: Sequence[Line]) -> list[str]:
    return [f"{line.symbol} {line.text}" for line in found]
