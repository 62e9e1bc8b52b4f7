"""What is told of one case, under a heading each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from llmbench.report.format import NOTHING

Facts = list[tuple[str, str]]

CONFIGURATION = "Configuration"
RESULTS = frozenset({"Speed", "Training", "Parity", "Ranks"})
"""Sections whose facts are a case's own, even where another case says the same."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        facts: what is so in this case.
        terms: what the words in the facts mean.
        heads, rows: a table.
        items: a list.
    """

    title: str
    facts: Facts
    terms: Facts = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.facts or self.terms or self.rows or self.items)

    def without(self, told: Mapping[str, str]) -> Section:
        """The section without these facts and terms."""
        facts, terms = ([fact for fact in some if told.get(fact[0]) != fact[1]] for some in (self.facts, self.terms))
        return replace(self, facts=facts, terms=terms)


def filled(sections: Iterable[Section]) -> list[Section]:
    """The sections that say something, without facts that are not known."""
    told = (replace(one, facts=[fact for fact in one.facts if fact[1] != NOTHING]) for one in sections)
    return [section for section in told if not section.empty]
