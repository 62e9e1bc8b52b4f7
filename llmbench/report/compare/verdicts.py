"""What became of each case, in symbols and words, and the verdict over all of them in one line."""

from __future__ import annotations

from llmbench.report.format import count, number, percent, signed_percent
from llmbench.report.verdict import CHANGES, Pill, Verdict
from llmbench.stats.comparison import Comparison, Row

OUTCOMES = {
    verdict.key: verdict
    for verdict in (
        Verdict("broken", "✖", "broken now", "bad"),
        CHANGES["slower"],
        CHANGES["inconclusive"],
        Verdict("incomparable", "≠", "not comparable", "warn"),
        Verdict("only base", "○", "only in BASE", "warn"),
        Verdict("not run", "○", "not run any more", "warn"),
        Verdict("still broken", "–", "broken on both sides", "muted"),
        Verdict("only cand", "○", "only in CAND", "muted"),
        CHANGES["faster"],
        Verdict("fixed", "✓", "fixed", "fast"),
        CHANGES["same"],
    )
}
"""The most urgent first."""

URGENCY = list(OUTCOMES)
_IN_TITLE = ("broken", "slower", "faster", "same", "inconclusive")


def title(comparison: Comparison) -> str:
    """``1 broken now, 2 slower, 3 faster, 16 same``; what of the machines differs stands before it."""
    parts = [f"{comparison.counts[key]} {OUTCOMES[key].word}" for key in _IN_TITLE if comparison.counts[key]]
    parts[2:2] = [text for _, text in _gates(comparison)]
    said = ", ".join(parts) or "nothing to compare"
    return f"Other hardware: {said}" if comparison.hardware else said


def _gates(comparison: Comparison) -> list[tuple[str, str]]:
    """Symbol and text of what memory and loss say."""
    more = sum(row.memory is not None and row.memory.verdict == "more" for row in comparison.rows)
    changed = sum(row.loss is not None and row.loss.verdict == "changed" for row in comparison.rows)
    told = [("▲", f"{more} with more memory")] if more else []
    return [*told, ("≠", f"{count(changed, 'loss', 'losses')} changed")] if changed else told


def pills(comparison: Comparison) -> list[Pill]:
    """How many cases ended how, and what memory and loss say."""
    within = f" within ±{round_percent(comparison.rules.equal_within)}"
    found = {
        v.key: Pill(v.symbol, f"{comparison.counts[v.key]} {v.word}{within if v.key == 'same' else ''}", v.tone)
        for v in OUTCOMES.values()
        if comparison.counts[v.key]
    }
    worse = [found.pop(key) for key in ("broken", "slower") if key in found]
    return [*worse, *(Pill(symbol, text, "bad") for symbol, text in _gates(comparison)), *found.values()]


def gate(comparison: Comparison) -> str:
    """What the gate says, in one line; it agrees with the exit code."""
    if comparison.refused:
        return (
            "not judged: the hardware differs, so nothing is called a regression; --across-hardware judges all the same"
        )
    if comparison.failures:
        return f"failed: {count(len({row.case for row, _ in comparison.failures}), 'case')} got worse"
    undecided = count(len(comparison.undecided), "case")
    if comparison.exit_code:
        return (
            f"failed: --strict, and {undecided} could not be told" if comparison.rows else "failed: --strict, no case"
        )
    return f"passed; {undecided} could not be told" if comparison.undecided else "passed"


def rule(comparison: Comparison) -> str:
    """What makes the gate fail, as a sentence."""
    limit = comparison.rules.fail_slower
    slower = f"slower by more than {round_percent(limit)}" if limit else "slower"
    told = ", or cannot be told" if comparison.rules.strict else ""
    return f"It fails if a case is {slower}, takes more memory, has a changed loss, or is newly broken{told}"


def round_percent(share: float) -> str:
    """A share that somebody chose: ``2 %``, ``2.5 %``."""
    return f"{100 * share:g} %"


def speed(row: Row) -> str:
    """``−6.1 % [−8.0, −4.2]``"""
    if row.change is None:
        return ""
    return f"{signed_percent(row.change.ratio - 1)} {interval(row)}"


def interval(row: Row) -> str:
    """``[−8.0, −4.2]`` in percent."""
    if row.change is None:
        return ""
    return "[{}, {}]".format(*(signed_percent(end - 1).removesuffix(" %") for end in (row.change.low, row.change.high)))


def could_see(row: Row) -> str:
    return "" if row.change is None else percent(row.change.smallest_slowdown)


def memory(row: Row) -> str:
    if row.memory is None:
        return ""
    symbol = {"more": "▲ ", "less": "▼ ", "same": ""}[row.memory.verdict]
    return f"{symbol}{signed_percent(row.memory.ratio - 1)}"


def loss(row: Row) -> str:
    """``= bitwise``, ``✓ 3.1e-6``, ``≠ 0.083``; why there is nothing to tell stands in the details."""
    if row.loss is None:
        return row.loss_reason or ""
    if row.loss.verdict == "bitwise":
        return "= bitwise"
    symbol = "✓" if row.loss.verdict == "within" else "≠"
    return f"{symbol} {'not finite' if row.loss.value is None else number(row.loss.value, 2)}"
