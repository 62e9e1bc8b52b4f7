"""Peak memory of cases, by what it holds, against what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.bars import Bar, bars
from llmbench.report.charts.stacks import Part, Stack, length, stacks, swatch
from llmbench.report.format import NOTHING, percent, size
from llmbench.report.palette import ink
from llmbench.report.run.cases import CaseView
from llmbench.results.schema import Memory, Record

LOOKS = {
    "parameters": "solid",
    "gradients": "stripes",
    "optimizer": "dots",
    "activations": "pale",
    "other": "outline",
    "reserved": "grey",
    "Python and torch": "grey",
}
"""How each kind is drawn, in the order of a bar."""

_SPLIT = ("parameters", "gradients", "optimizer", "activations")
_MOST = 1e30  # beyond it nothing was measured, and a bar would leave nothing of the others
_REACH = 2.0  # a capacity is drawn if the longest bar comes so near to it


@dataclass(frozen=True)
class MemoryView:
    """The chart of one workload.

    Attributes:
        kinds: those that were drawn, for the legend; empty where nothing was split.
        notes: what was not measured, or cannot be.
        overlap: whether a bar has a tick at its peak, because its parts were not all there at once.
    """

    title: str
    chart: Markup
    kinds: list[str]
    notes: list[str]
    overlap: bool


@dataclass(frozen=True)
class Split:
    """The peak of one case.

    Attributes:
        parts: bytes by kind; ``other`` is what the peak held besides.
        start: bytes that Python and torch took before the case began.
        peak: bytes of the case alone at its peak, without ``start``.
        unknown: kinds that were not measured; what they take is in ``other``.
        faults: numbers that cannot be.
    """

    parts: dict[str, int]
    start: int
    peak: int
    unknown: list[str]
    faults: list[str]

    @property
    def overlap(self) -> bool:
        """Whether the parts were not all there at once: activations are freed while gradients appear."""
        return sum(self.parts[kind] for kind in _SPLIT if kind in self.parts) > self.peak


def memory_view(name: str, cases: Sequence[CaseView]) -> MemoryView:
    """Of the drawn cases of one workload.

    Args:
        name: of the workload.
    """
    splits = {case.id: found for case in cases if (found := memory_split(case.record))}
    if not any(set(found.parts) & set(_SPLIT) for found in splits.values()):
        return _two_parts(name, cases)
    capacity = _capacity(cases)
    rows = {case.id: _stack(case, splits.get(case.id)) for case in cases}
    # Where Python and torch would take most of every bar, nothing could be seen of the rest.
    own = max((found.peak for found in splits.values()), default=0)
    longest = max(map(length, rows.values()), default=0.0)
    near = capacity is not None and capacity <= _REACH * longest
    if not near and max(found.start for found in splits.values()) > own:
        rows = {case.id: _stack(case, splits.get(case.id), cut=True) for case in cases}
    drawn = {part.kind for row in rows.values() for part in row.parts} | {
        "Python and torch" for row in rows.values() if row.cut
    }
    return MemoryView(
        title=_title(cases, capacity if near else None),
        chart=stacks(f"Peak memory of {name} by kind and mode", list(rows.values()), line=capacity if near else None),
        kinds=[kind for kind in LOOKS if kind in drawn],
        notes=_notes([(case.column.name, found) for case in cases if (found := splits.get(case.id))]),
        overlap=any(found.overlap for found in splits.values()),
    )


def memory_split(record: Record | None) -> Split | None:
    """The peak by kind; None where no peak is known."""
    memory = record.memory if record else None
    peak = _peak(memory)
    if memory is None or peak is None:
        return None
    start = min(_bytes(memory.start_rss_bytes), peak) if memory.peak_allocated_bytes is None else 0
    given = {kind: getattr(memory.split, kind) for kind in _SPLIT} if memory.split else {}
    known = {kind: value for kind, value in given.items() if value is not None}
    parts = {kind: value for kind, value in known.items() if _bytes(value) == value}
    faults = [f"{size(value)} of {kind} cannot be" for kind, value in known.items() if kind not in parts]
    left = peak - start - sum(parts.values())
    parts |= {"other": left} if left > 0 else {}
    reserved = _bytes(memory.peak_reserved_bytes) - max(peak, sum(parts.values()))
    parts |= {"reserved": reserved} if memory.peak_allocated_bytes is not None and reserved > 0 else {}
    unknown = [kind for kind in _SPLIT if given.get(kind) is None]
    return Split(parts, start, peak - start, unknown, faults)


def memory_parts(record: Record | None) -> list[tuple[str, float]]:
    """What a bar of memory that was not split is made of, the case's own part first."""
    memory = record.memory if record else None
    if memory is None:
        return []
    if memory.peak_allocated_bytes is not None:
        reserved = (memory.peak_reserved_bytes or 0) - memory.peak_allocated_bytes
        return [("allocated", memory.peak_allocated_bytes), *([("reserved", reserved)] if reserved > 0 else [])]
    if memory.peak_rss_bytes is None:
        return []
    start = min(memory.start_rss_bytes or 0, memory.peak_rss_bytes)
    parts: list[tuple[str, float]] = [("the case", memory.peak_rss_bytes - start)]
    return [*parts, ("Python and torch", start)] if start else parts


def _notes(splits: Sequence[tuple[str, Split]]) -> list[str]:
    notes = [f"! {name}: {fault}; not drawn" for name, found in splits for fault in found.faults]
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name, found in splits:
        if found.unknown:
            lacking.setdefault(tuple(found.unknown), []).append(name)
    notes += [
        f"{', '.join(names)}: {' and '.join(kinds)} not measured, drawn as other" for kinds, names in lacking.items()
    ]
    return notes


def _peak(memory: Memory | None) -> int | None:
    if memory is None:
        return None
    peak = memory.peak_rss_bytes if memory.peak_allocated_bytes is None else memory.peak_allocated_bytes
    return peak if peak is not None and _bytes(peak) == peak else None


def _bytes(value: int | None) -> int:
    """A number of bytes; 0 for what is none."""
    return value if value is not None and 0 <= value < _MOST else 0


def _stack(case: CaseView, found: Split | None, *, cut: bool = False) -> Stack:
    column = case.column
    if found is None:
        text = NOTHING if case.counts else f"{case.verdict.symbol} {case.verdict.word}"
        return Stack(column.name, column.ink, (), text, text)
    parts = dict(found.parts)
    own = size(found.peak)
    said = [f"{kind} {size(amount)}" for kind, amount in parts.items()]
    if found.start:
        said.append(f"Python and torch before the case {size(found.start)}")
        parts |= {} if cut else {"Python and torch": found.start}
    return Stack(
        column.name,
        column.ink,
        tuple(Part(kind, LOOKS[kind], parts[kind]) for kind in LOOKS if kind in parts),
        f"{own} + {size(found.start)}" if cut and found.start else size(found.peak + found.start),
        f"peak {size(found.peak + found.start)} ({', '.join(said)})",
        mark=found.peak if found.overlap else None,
        cut=found.start if cut else 0,
    )


def _title(cases: Sequence[CaseView], line: int | None) -> str:
    """Says the capacity in words where no line shows it."""
    capacity = _capacity(cases)
    peaks = [peak for case in cases if case.record and (peak := _peak(case.record.memory)) is not None]
    if capacity is None or not peaks:
        return "Peak memory by kind"
    if line is not None:
        return f"Peak memory by kind; dashed: {size(capacity)}, all there is"
    return f"Peak memory by kind, at most {percent(max(peaks) / capacity)} of {size(capacity)}"


def _capacity(cases: Sequence[CaseView]) -> int | None:
    known = [case.record.memory.capacity_bytes for case in cases if case.record and case.record.memory]
    return next((capacity for capacity in known if _bytes(capacity)), None)


def _two_parts(name: str, cases: Sequence[CaseView]) -> MemoryView:
    """Where no part was measured: what the case took, and beside it what it found or reserved."""
    names = next((names for case in cases if (names := [part for part, _ in memory_parts(case.record)])), [])
    capacity = _capacity(cases)
    title = "Peak memory" + (f" of {size(capacity)}" if capacity else "")
    title += f" (pale: {names[1]})" if len(names) > 1 else ""
    chart = bars(f"Peak memory of {name} by mode", [_bar(case) for case in cases], capacity=capacity)
    return MemoryView(title, chart, [], [], overlap=False)


def _bar(case: CaseView) -> Bar:
    column = case.column
    parts = memory_parts(case.record)
    if case.peak_bytes is None or not parts:
        text = NOTHING if case.counts else f"{case.verdict.symbol} {case.verdict.word}"
        return Bar(column.name, column.ink, (), text)
    return Bar(column.name, column.ink, tuple(part for _, part in parts), size(sum(part for _, part in parts)))


WORDS = {
    "other": "other",
    "reserved": "reserved, not allocated",
    "Python and torch": "Python and torch before the case",
}
"""Of the kinds whose name does not say it all."""


def legend(views: Sequence[MemoryView]) -> list[tuple[str, Markup]]:
    """The kinds that any of the charts draws, with a sample of each in the colour of the first mode."""
    drawn = {kind for view in views for kind in view.kinds}
    return [(WORDS.get(kind, kind), swatch(LOOKS[kind], ink(0))) for kind in LOOKS if kind in drawn]
