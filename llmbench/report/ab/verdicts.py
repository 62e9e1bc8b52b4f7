"""What became of each metric, in symbols and words, and the verdict over all of them in one line.

Every ratio is of time, memory or loss, candidate over base: so "+5.2 % time" is slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.report.format import NOTHING, count, duration, number, percent, signed_percent, size
from llmbench.report.verdict import CHANGES, Pill, Verdict
from llmbench.stats.ab import BASE_FAILED, OUTCOMES, UNTOLD, WORSE, AbComparison, CaseVerdict, LossMargin, Outcome, Row
from llmbench.stats.gates import LossChange

METRICS = {"step": "typical step", "total": "all time", "memory": "peak memory", "loss": "loss"}
"""``step`` does not see slow steps that are rare; ``total`` does."""

_IN_TITLE = {"more": "with more memory", "less": "with less memory", "changed": "with a changed loss"}
NO_NUMBER = 1e12  # a ratio beyond tells nothing but that it is beyond


def verdict_of(row: Row) -> Verdict:
    """Of a metric: a loss or a memory is not more than once named as such."""
    verdict = CHANGES[row.outcome]
    words = {"more": "more", "less": "less", "changed": "changed", "declared": "within margin"}
    return Verdict(verdict.key, verdict.symbol, words.get(row.outcome, verdict.word), verdict.tone)


def verdict_of_case(case: CaseVerdict) -> Verdict:
    return CHANGES[case.outcome]


def title(comparison: AbComparison) -> str:
    """Words and numbers."""
    return f"{headline(comparison)} ({counts(comparison)})"


def case_counts(comparison: AbComparison) -> dict[Outcome, int]:
    """How many cases have which outcome: of what is worse every one, else the most urgent of the case."""
    found = dict.fromkeys(OUTCOMES, 0)
    for case in comparison.cases:
        for outcome in {row.outcome for row in case.rows if row.worse} or {case.outcome}:
            found[outcome] += 1
    return {outcome: amount for outcome, amount in found.items() if amount}


def headline(comparison: AbComparison) -> str:
    """The verdict in words: ``2 of 5 cases got worse``."""
    cases, told = len(comparison.cases), comparison.counts
    of = f"of {count(cases, 'case')}"
    worse = len({row.case for row in comparison.failures})
    if comparison.ab.self_check:
        alarms = len({row.case for row in comparison.false_alarms})
        open_ = f", {len(comparison.undecided)} {of} cannot be told" if comparison.undecided else ""
        return f"Self-check: a false alarm in {alarms} {of}" if alarms else f"Self-check: no false alarm{open_}"
    if not cases:
        return "Nothing to compare"
    if worse:
        return _which(comparison.failures) if cases == 1 else f"{worse} {of} got worse"
    if told["no base"]:
        return f"The base could not be run in {told['no base']} {of}"
    if len(comparison.undecided) == cases:
        return "It cannot be told"
    better = sum(told[key] for key in ("faster", "less"))
    also = [f"{better} {of} got better"] if better else []
    also += [f"{len(comparison.undecided)} {of} cannot be told"] if comparison.undecided else []
    return "Nothing got worse" + (f"; {', '.join(also)}" if also else "")


def counts(comparison: AbComparison) -> str:
    """``1 slower, 1 with more memory, 5 same``"""
    found = case_counts(comparison).items()
    return ", ".join(f"{amount} {_IN_TITLE.get(key, CHANGES[key].word)}" for key, amount in found) or "no case"


def pills(comparison: AbComparison) -> list[Pill]:
    """How many cases ended how."""
    found = case_counts(comparison).items()
    return [
        Pill(CHANGES[key].symbol, f"{amount} {_IN_TITLE.get(key, CHANGES[key].word)}", CHANGES[key].tone)
        for key, amount in found
    ]


def gate(comparison: AbComparison) -> str:
    """What the gate says, in one line; it agrees with the exit code."""
    code, untold = comparison.exit_code, count(len(comparison.undecided), "case")
    if comparison.failures:
        cases = len({row.case for row in comparison.failures})
        return f"failed: {_which(comparison.failures) if cases == 1 else f'{cases} cases got worse'}"
    if code == BASE_FAILED:
        failed = sum(case.outcome == "no base" for case in comparison.cases)
        return f"not judged: the base could not be run in {count(failed, 'case')}"
    if code:
        return f"failed: --strict, and {untold} could not be told" if comparison.cases else "failed: --strict, no case"
    if not comparison.cases:
        return "passed: no case"
    return f"passed; {untold} could not be told" if comparison.undecided else "passed"


def symbol(comparison: AbComparison) -> str:
    """Of the gate: passed, passed with open questions, or not passed."""
    if comparison.exit_code:
        return "✖"
    return "?" if comparison.undecided or not comparison.cases else "✓"


def _which(rows: Sequence[Row]) -> str:
    """``gpt-tiny/eager/ws1 got worse: step, total``; rows of one case."""
    if rows[0].outcome == "broken":
        return f"{rows[0].case} is broken"
    return f"{rows[0].case} got worse: {', '.join(row.metric for row in rows)}"


def rule(comparison: AbComparison) -> str:
    """What makes the gate fail, as a sentence."""
    told = comparison.ab.gate
    loss = "has another loss"
    if told.loss_margin is not None:
        loss = f"has a final loss further off than {round_percent(told.loss_margin)}"
    strict = ", or cannot be told" if comparison.strict else ""
    return (
        f"It fails if a case is slower by more than {round_percent(told.tolerance)}, takes more memory, {loss}, "
        f"or breaks{strict}"
    )


def round_percent(share: float) -> str:
    """A share that somebody chose: ``2 %``, ``2.5 %``."""
    return f"{100 * share:g} %"


def failure(row: Row) -> str:
    """What got worse, in a line: ``step slower: +5.2 % time [+3.1, +7.4]``."""
    if row.outcome == "broken":
        return f"broken: {row.reason}" if row.reason else "broken"
    told = " ".join(filter(None, (f"{row.metric} {verdict_of(row).word}: {estimate(row)}", interval(row))))
    return f"{told} ({row.reason})" if row.reason else told


def estimate(row: Row) -> str:
    """``+5.2 % time``, ``+8.0 % of 1.21 GiB``, ``0.083 from step 12``; empty where nothing was measured."""
    if row.time:
        return f"{_change(row.time.ratio)} time"
    if row.memory:
        return f"{signed_percent(row.memory.ratio - 1)} of {size(row.memory.base)}"
    if isinstance(row.loss, LossMargin):
        return f"{_change(1 + row.loss.value)} final loss"
    return _loss(row.loss) if row.loss else ""


def _loss(loss: LossChange) -> str:
    if loss.verdict == "bitwise":
        return "bitwise"
    off = "not finite" if loss.value is None or not math.isfinite(loss.value) else f"{number(loss.value, 2)} off"
    return f"{off} from step {loss.step}" if loss.step is not None else off


def interval(row: Row) -> str:
    """``[+3.1, +7.4]`` in percent."""
    if row.time:
        ends = row.time.low, row.time.high
    elif isinstance(row.loss, LossMargin):
        ends = 1 + row.loss.low, 1 + row.loss.high
    else:
        return ""
    return "[{}, {}]".format(*(_change(end).removesuffix(" %") for end in ends))


def _change(ratio: float) -> str:
    """``+5.2 %``; what no clock could tell is told as such."""
    if not abs(ratio) < NO_NUMBER:
        return "NaN" if ratio != ratio else "∞"
    return signed_percent(ratio - 1)


def sessions(row: Row) -> int:
    """On which the verdict stands: times are judged at the look that settled them."""
    return row.time.sessions if row.time else row.sessions


def seconds(row: Row) -> str:
    return duration(row.seconds) if row.seconds else NOTHING


def noise(row: Row) -> str:
    """From session to session."""
    return percent(min(row.time.noise, NO_NUMBER)) if row.time else ""


def could_see(row: Row) -> str:
    """``≥ 3.6 %``"""
    if row.time is None:
        return ""
    return f"≥ {percent(row.time.smallest_slowdown)}" if row.time.smallest_slowdown < 10 else "≥ 10×"


@dataclass(frozen=True)
class Question:
    """What cannot be told of a case: of which metrics, why, and what to do about it."""

    case: str
    metrics: Sequence[str]
    why: str


def questions(case: CaseVerdict) -> list[Question]:
    """Each reason once."""
    found: dict[str, list[str]] = {}
    for row in case.rows:
        if row.outcome in UNTOLD:
            found.setdefault(question(case, row), []).append(row.metric)
    return [Question(case.case.id, metrics, why) for why, metrics in found.items()]


def question(case: CaseVerdict, row: Row) -> str:
    """Why nothing can be told of a metric, and what to do about it."""
    return f"{row.reason or 'it is open'}; {_remedy(case, row)}"


def _remedy(case: CaseVerdict, row: Row) -> str:
    if row.outcome == "no base":
        return "make the base run: its log says more"
    if case.over:
        return "more sessions would not tell: compare anew on a quieter machine"
    return "`--resume DIR` adds sessions, a longer `--budget` more of them"


def decisive(case: CaseVerdict) -> Row | None:
    """The row that the case's verdict is of; of times that are alike, the larger difference."""
    rows = [row for row in case.rows if row.outcome == case.outcome]
    timed = [row for row in rows if row.time]
    if timed and timed == rows[: len(timed)]:
        return max(timed, key=lambda row: row.time.ratio if row.time and case.outcome in WORSE else 0.0)
    return rows[0] if rows else None


def looks(comparison: AbComparison) -> str:
    """``after 3 sessions and each that follows, up to 20``, or the numbers."""
    numbers = comparison.ab.gate.looks
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"after {numbers[0]} sessions and each that follows, up to {numbers[-1]}"
    return f"after {', '.join(map(str, numbers))} of them"
