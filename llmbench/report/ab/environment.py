"""The two sides of an A/B comparison: what each is, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping

from llmbench.report.compare.environment import Environments, held_against
from llmbench.report.format import NOTHING, flatten, plain
from llmbench.results.ab import Ab, AbSide


def environments(ab: Ab) -> Environments:
    """Every key of the environment that either side recorded."""
    return held_against(*([_flat(side)] for side in (ab.base, ab.cand)))


def _flat(side: AbSide) -> dict[str, str]:
    return {key: plain(value) for key, value in flatten(side.environment)}


def facts(ab: Ab) -> list[tuple[str, str, str]]:
    """What each side is: name, BASE and CAND, of what is known of either."""
    base, cand = _facts(ab.base), _facts(ab.cand)
    return [(name, base[name], cand[name]) for name in base if {base[name], cand[name]} != {NOTHING}]


def _facts(side: AbSide) -> dict[str, str]:
    dirty = ", with local changes" if side.git and side.git.dirty else ""
    told = {
        "Side": side.label,
        "Given": side.asked if side.asked not in (side.label, side.python) else None,
        "Kind": side.kind,
        "Revision": f"{side.git.commit[:12]}{dirty}" if side.git else None,
        "Python": _spaced(side.python, _version(side, "python")),
        "torch": _version(side, "torch"),
        "Import path": ", ".join(side.paths),
        "Folder": side.folder,
    }
    return {name: text or NOTHING for name, text in told.items()}


def short(side: AbSide) -> str:
    """``main (4e2b1aa0)``"""
    return f"{side.label} ({side.git.commit[:8]})" if side.git else side.label


def line(side: AbSide) -> str:
    """``main (4e2b1aa0) · torch 2.13.0 · /envs/main/bin/python``"""
    torch = _version(side, "torch")
    return " · ".join(filter(None, (short(side), f"torch {torch}" if torch else "", side.python)))


def _spaced(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)


def _version(side: AbSide, of: str) -> str | None:
    found = side.environment.get(of)
    return plain(found.get("version")) if isinstance(found, Mapping) and found.get("version") is not None else None
