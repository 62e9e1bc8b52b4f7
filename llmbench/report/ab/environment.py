"""The two sides of an A/B comparison: what each is, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping

from llmbench.report.compare.environment import Environments, held_against
from llmbench.report.format import NOTHING, flatten, plain
from llmbench.results.ab import Ab, AbSide


def environments(ab: Ab) -> Environments:
    """Every key that either side recorded."""
    return held_against([_every_key(ab.base)], [_every_key(ab.cand)])


def _every_key(side: AbSide) -> dict[str, str]:
    about = {
        "interpreter": side.python,
        "import path": side.paths or None,
        "folder": side.folder,
        "git commit": side.git.commit if side.git else None,
        "git dirty": side.git.dirty if side.git else None,
    }
    return {key: plain(value) for key, value in [*flatten(about), *flatten(side.environment)]}


def facts(side: AbSide) -> list[tuple[str, str]]:
    """A line each of what a side is."""
    revision = f"{side.git.commit[:12]}{', with local changes' if side.git.dirty else ''}" if side.git else None
    told = [
        ("Side", side.label),
        ("Given", side.asked if side.asked != side.label else None),
        ("Kind", side.kind),
        ("Python", side.python),
        ("Revision", revision),
        ("torch", _version(side, "torch")),
        ("Python version", _version(side, "python")),
    ]
    return [(name, text) for name, text in told if text and text != NOTHING]


def short(side: AbSide) -> str:
    """``main (4e2b1aa0)``: one line of text."""
    return f"{side.label} ({side.git.commit[:8]})" if side.git else side.label


def _version(side: AbSide, of: str) -> str | None:
    found = side.environment.get(of)
    return plain(found.get("version")) if isinstance(found, Mapping) else None
