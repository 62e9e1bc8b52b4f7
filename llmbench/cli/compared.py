"""What ``llmbench compare`` says in a terminal: what differs, a line for each case, what is wrong, the gate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmbench.cli.tables import columns
from llmbench.report.compare import verdicts
from llmbench.report.compare.environment import Environments
from llmbench.report.compare.settle import settling
from llmbench.report.format import count, one_line, printable, shorten
from llmbench.stats.comparison import Comparison, Row

WIDTH = 100
_MOST_KEYS = 6
_MOST_CASES = 5
_LOSS = {"bitwise": "=", "within": "✓", "changed": "≠"}
_HEADS = ["case", "verdict", "speed", "95 % interval", "sees", "memory", "loss"]


def comparison_text(comparison: Comparison, environments: Environments) -> str:
    """All of it, no line wider than 100 columns but those that quote."""
    parts = [
        _environment(comparison, environments),
        _table(comparison.rows),
        _failures(comparison),
        _open_questions(comparison),
        _settling(comparison),
        f"{verdicts.title(comparison)}\n{verdicts.gate(comparison)}",
    ]
    return "\n\n".join(filter(None, parts))


def _environment(comparison: Comparison, environments: Environments) -> str:
    if not environments.differs:
        return f"the environments agree in all {environments.total} keys"
    lines = [f"the environments differ in {len(environments.differs)} of {environments.total} keys"]
    shown = environments.differs[:_MOST_KEYS]
    lines += [shorten(f"  {one_line(f'{one.key}: {one.base} → {one.cand}')}", WIDTH) for one in shown]
    if rest := len(environments.differs) - len(shown):
        lines.append(f"  and {rest} more")
    if comparison.hardware:
        lines.append(shorten(one_line(f"other hardware: {'; '.join(comparison.hardware)}"), WIDTH))
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    cells = [
        [
            one_line(row.case),
            f"{verdicts.OUTCOMES[row.outcome].symbol} {verdicts.OUTCOMES[row.outcome].word}",
            verdicts.speed(row).partition(" [")[0],
            verdicts.interval(row),
            verdicts.could_see(row),
            verdicts.memory(row),
            _LOSS[row.loss.verdict] if row.loss else "",
        ]
        for row in rows
    ]
    widest = max(len(row[1]) for row in cells)
    for row in cells:
        row[1] = row[1].ljust(widest)
    heads = [_HEADS[0], _HEADS[1].ljust(widest), *_HEADS[2:]]
    kept = [index for index in range(len(_HEADS)) if index < 2 or any(row[index] for row in cells)]
    lines = [[row[index] for index in kept] for row in [heads, *cells]]
    room = WIDTH - sum(2 + max(len(row[index]) for row in lines) for index in range(1, len(kept)))
    text = columns([[shorten(row[0], max(20, room)), *row[1:]] for row in lines])
    notes = (
        "speed: throughput, CAND over BASE; sees: the smallest slowdown it could have seen",
        "loss: = bitwise the same, ✓ within tolerance, ≠ changed",
    )
    return "\n".join([text, *(note for note, index in zip(notes, (2, 6), strict=True) if index in kept)])


def _failures(comparison: Comparison) -> str:
    return "\n".join(one_line(f"✖ {row.case}: {failure}") for row, failure in comparison.failures)


def _open_questions(comparison: Comparison) -> str:
    """Reasons for which nothing can be told, each once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in comparison.rows:
        if row.reason and not comparison.failures_of(row):
            groups.setdefault((verdicts.OUTCOMES[row.outcome].symbol, row.reason), []).append(row.case)
    return "\n".join(one_line(f"{symbol} {_named(cases)}: {reason}") for (symbol, reason), cases in groups.items())


def _settling(comparison: Comparison) -> str:
    """The commands that would settle it, whole: they are to be pasted."""
    told = []
    for one in settling(comparison):
        hint = f" ({one.hint})" if one.hint else ""
        told.append(f"{_named(one.cases)} would be settled by{hint}:\n  {one.command}")
    return "\n".join("\n".join(map(printable, text.split("\n", 1))) for text in told)


def _named(cases: Iterable[str]) -> str:
    cases = list(cases)
    if len(cases) > _MOST_CASES:
        return f"{cases[0]} and {count(len(cases) - 1, 'case')} more"
    return ", ".join(cases)
