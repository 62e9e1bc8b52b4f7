"""Verdicts as symbol, word and tone, and how many there are of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """How a case ended: a symbol, a word and a tone, so that nothing hangs on colour alone."""

    key: str
    symbol: str
    word: str
    tone: str


VERDICTS = {
    verdict.key: verdict
    for verdict in (
        Verdict("failed", "✖", "failed", "bad"),
        Verdict("oom", "✖", "out of memory", "bad"),
        Verdict("timeout", "✖", "timed out", "bad"),
        Verdict("invalid", "✖", "invalid", "bad"),
        Verdict("damaged", "✖", "damaged", "bad"),
        Verdict("aborted", "✖", "aborted", "bad"),
        Verdict("doubtful", "!", "did not learn", "warn"),
        Verdict("noisy", "~", "noisy", "warn"),
        Verdict("missing", "○", "not run", "muted"),
        Verdict("skipped", "–", "skipped", "muted"),
        Verdict("ok", "✓", "passed", "good"),
    )
}
"""How a case ends, the most urgent first."""

URGENCY = list(VERDICTS)

CHANGES = {
    verdict.key: verdict
    for verdict in (
        Verdict("broken", "✖", "broken", "bad"),
        Verdict("slower", "▼", "slower", "slow"),
        Verdict("more", "▲", "more memory", "bad"),
        Verdict("changed", "≠", "loss changed", "bad"),
        Verdict("no base", "✖", "no base", "warn"),
        Verdict("inconclusive", "?", "inconclusive", "muted"),
        Verdict("faster", "▲", "faster", "fast"),
        Verdict("less", "▼", "less memory", "fast"),
        Verdict("declared", "≈", "loss within the margin", "good"),
        Verdict("same", "=", "same", "good"),
    )
}
"""What became of one thing between two sides, however they are compared; the most urgent first."""


@dataclass(frozen=True)
class Pill:
    symbol: str
    text: str
    tone: str


def pills(ended: Iterable[Verdict], verdicts: Mapping[str, Verdict]) -> list[Pill]:
    """How many ended how, in the order of ``verdicts``."""
    amounts = Counter(verdict.key for verdict in ended)
    return [Pill(v.symbol, f"{amounts[v.key]} {v.word}", v.tone) for v in verdicts.values() if amounts[v.key]]
