"""What many cases share is told once: each case then tells what is its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmbench.report.run.details import Detail
from llmbench.report.run.section import CONFIGURATION, RESULTS, Section

_ENOUGH = 3  # cases, from which it pays to tell a fact once

Common = dict[str, dict[str, str]]  # name -> text, by title of the section


@dataclass(frozen=True)
class Shared:
    """What is true of the cases of ``scope``, the run (None) or a workload, unless a case says otherwise."""

    scope: str | None
    sections: list[Section]


def told_once(details: Sequence[Detail]) -> tuple[list[Shared], list[Detail]]:
    """What all cases share, what those of one workload share, and the cases without it."""
    of_all = _common(details)
    shared = _told(None, of_all)
    by_workload: dict[str, Common] = {}
    for workload in dict.fromkeys(detail.case.workload for detail in details):
        found = _common([detail for detail in details if detail.case.workload == workload], usual=True)
        by_workload[workload] = _beyond(found, of_all)
        shared += _told(workload, by_workload[workload])
    return shared, [_lighter(_lighter(detail, of_all), by_workload[detail.case.workload]) for detail in details]


def _beyond(found: Common, told: Common) -> Common:
    """What is found without what is told already."""
    own = {
        title: {name: text for name, text in facts.items() if told.get(title, {}).get(name) != text}
        for title, facts in found.items()
    }
    return {title: facts for title, facts in own.items() if facts}


def _told(scope: str | None, common: Common) -> list[Shared]:
    sections = [Section(title, list(facts.items())) for title, facts in common.items()]
    return [Shared(scope, sections)] if sections else []


def _common(details: Sequence[Detail], *, usual: bool = False) -> Common:
    """What all measured cases agree on, results apart, and the terms that several use.

    Args:
        usual: takes in the settings that most cases have; the others then tell their own. Every case tells all its
            settings, so nothing is read into the silence of one.
    """
    sections: dict[str, list[Section]] = {}
    for detail in details:
        if detail.case.throughput is not None:
            for section in (*detail.measured, *detail.trained):
                sections.setdefault(section.title, []).append(section)
    found = {
        title: _agreed(alike, all_=not (usual and title == CONFIGURATION)) | _terms(alike)
        for title, alike in sections.items()
        if len(alike) >= _ENOUGH
    }
    return {title: facts for title, facts in found.items() if facts}


def _agreed(alike: Sequence[Section], *, all_: bool) -> dict[str, str]:
    if alike[0].title in RESULTS:
        return {}
    told = Counter(fact for section in alike for fact in section.facts)
    names = Counter(name for section in alike for name, _ in section.facts)
    enough = len(alike) if all_ else len(alike) // 2 + 1
    return {name: text for (name, text), amount in told.items() if amount >= enough and names[name] == len(alike)}


def _terms(alike: Sequence[Section]) -> dict[str, str]:
    terms = Counter(term for section in alike for term in section.terms)
    return {name: text for (name, text), amount in terms.items() if amount >= _ENOUGH}


def _lighter(detail: Detail, common: Common) -> Detail:
    return replace(detail, measured=_own(detail.measured, common), trained=_own(detail.trained, common))


def _own(sections: Sequence[Section], common: Common) -> list[Section]:
    own = (section.without(common.get(section.title, {})) for section in sections)
    return [section for section in own if not section.empty]
