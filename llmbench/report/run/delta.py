"""How a case differs from the eager case that it is held against, beside its mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from llmbench.report.format import NOTHING, flatten, number, plain
from llmbench.report.run.cases import CaseView
from llmbench.report.run.section import Facts
from llmbench.report.run.speedup import base_of
from llmbench.results.schema import Hardware, Range, Record

MOST = 12
"""Settings that are listed."""

_STATE: tuple[tuple[str, str, Callable[[Hardware], Range | None]], ...] = (
    ("clock", "MHz", lambda found: found.clock_mhz),
    ("memory clock", "MHz", lambda found: found.memory_clock_mhz),
    ("temperature", "°C", lambda found: found.temperature_celsius),
)


def deltas(cases: Sequence[CaseView]) -> dict[str, Facts]:
    """Of each case that has a record beside an eager one of its workload: what differs, by case id; often nothing."""
    rows: dict[tuple[str, str], list[CaseView]] = {}
    for case in cases:
        rows.setdefault((case.workload, case.variant), []).append(case)
    found = {}
    for row in rows.values():
        base = base_of(row)
        if base is None or base.record is None:
            continue
        for case in row:
            if case is not base and case.record is not None:
                others = [one.record for one in row if one is not case and one.record is not None]
                found[case.id] = _delta(case.record, base.record, others)
    return found


def _delta(record: Record, base: Record, others: Sequence[Record]) -> Facts:
    return [
        *_settings(record.config, base.config),
        *_differing([("device", record.device, base.device), *_threads(record, base)]),
        *_hardware(record.hardware, [other.hardware for other in others if other.hardware]),
        *_throttled(record.hardware, base.hardware),
    ]


def _settings(config: Mapping[str, object], base: Mapping[str, object]) -> Facts:
    ours, theirs = dict(flatten(config)), dict(flatten(base))
    names = list(dict.fromkeys([*theirs, *ours]))
    found = _differing((name, ours.get(name), theirs.get(name)) for name in names)
    more = len(found) - MOST
    return [*found[:MOST], ("more settings", f"{more} differ")] if more > 0 else found


def _threads(record: Record, base: Record) -> list[tuple[str, object, object]]:
    """A case that failed has not told them."""
    ours, theirs = record.facts.get("threads"), base.facts.get("threads")
    return [] if ours is None or theirs is None else [("threads", ours, theirs)]


def _differing(values: Iterable[tuple[str, object, object]]) -> Facts:
    return [
        (name, f"{plain(ours)} (eager {plain(theirs)})")
        for name, ours, theirs in values
        if plain(ours) != plain(theirs)
    ]


def _hardware(found: Hardware | None, others: Sequence[Hardware]) -> Facts:
    """What was outside of all that the other cases of the workload saw."""
    told = []
    for name, unit, read in _STATE:
        ours = read(found) if found else None
        known = [value for other in others if (value := read(other)) is not None]
        if ours is None or not known:
            continue
        low, high = min(one.low for one in known), max(one.high for one in known)
        if ours.mean < low or ours.mean > high:
            told.append((name, f"{number(ours.mean)} {unit} (the others {number(low)} to {number(high)} {unit})"))
    return told


def _throttled(found: Hardware | None, base: Hardware | None) -> Facts:
    ours, theirs = (set(one.throttled) if one else set() for one in (found, base))
    if ours == theirs:
        return []
    names = [", ".join(sorted(one)) or NOTHING for one in (ours, theirs)]
    return [("clock held down by", f"{names[0]} (eager {names[1]})")]
