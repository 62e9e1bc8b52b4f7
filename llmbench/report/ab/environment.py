"""The two sides of an A/B comparison: what each is, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping

from llmbench.report.compare.environment import Environments, held_against
from llmbench.report.format import NOTHING, flatten, plain
from llmbench.results.ab import SIDES, Ab, AbSide, SideName


def environments(ab: Ab) -> Environments:
    """Every key of the environment that either side recorded."""
    return held_against(*([_flat(side)] for side in (ab.base, ab.cand)))


def _flat(side: AbSide) -> dict[str, str]:
    return {key: plain(value) for key, value in flatten(side.environment)}


def facts(ab: Ab) -> list[tuple[str, str, str]]:
    """What each side is: name, BASE and CAND, of what is known of either."""
    base, cand = ({"Mode": mode(ab, side)} | _facts(ab.of(side)) for side in SIDES)
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


def mode(ab: Ab, side: SideName) -> str:
    """The mode of one side, if it is by their modes that the sides differ."""
    modes = {one: {(case.base if one == "base" else case.cand).mode for case in ab.cases} for one in SIDES}
    told = len(modes[side]) == 1 and modes["base"] != modes["cand"]
    return next(iter(modes[side])) if told else NOTHING


def short(ab: Ab, side: SideName) -> str:
    """``main (4e2b1aa0)``; with its mode, or that alone, where the other side has another one: ``eager``"""
    one, its_mode = ab.of(side), mode(ab, side)
    label = f"{one.label} ({one.git.commit[:8]})" if one.git else one.label
    if its_mode == NOTHING:
        return label
    return its_mode if ab.base.label == ab.cand.label else f"{label} {its_mode}"


def line(ab: Ab, side: SideName) -> str:
    """``main (4e2b1aa0) · torch 2.13.0 · /envs/main/bin/python``"""
    one = ab.of(side)
    torch = _version(one, "torch")
    return " · ".join(filter(None, (short(ab, side), f"torch {torch}" if torch else "", one.python)))


def _spaced(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)


def _version(side: AbSide, of: str) -> str | None:
    found = side.environment.get(of)
    return plain(found.get("version")) if isinstance(found, Mapping) and found.get("version") is not None else None
