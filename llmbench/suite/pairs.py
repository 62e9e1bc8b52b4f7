"""Which case of one side is held against which of the other."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.errors import UserError
from llmbench.suite.cases import Case

Pair = tuple[Case, Case]


def pair_up(base: Sequence[Case], cand: Sequence[Case]) -> tuple[list[Pair], list[str]]:
    """Cases of the same id; where there are none (two modes), those of the same workload, in their order.

    Returns:
        The pairs, and the ids that only one side has.

    Raises:
        UserError: no case has a partner.
    """
    pairs = _matched(base, cand, lambda case: case.id) or _matched(base, cand, lambda case: case.workload)
    if not pairs:
        raise UserError(
            f"no case of one side has a partner on the other: {_few(base)} against {_few(cand)}",
            "both sides must have a workload in common",
        )
    paired = {id(case) for pair in pairs for case in pair}
    return pairs, [case.id for case in (*base, *cand) if id(case) not in paired]


def pair_id(pair: Pair) -> str:
    """``gpt-tiny/eager/ws1``; of two modes ``gpt-tiny/eager..compile/ws1``."""
    base, cand = pair
    if base.id == cand.id:
        return base.id
    parts = zip(base.id.rsplit("/", 2), cand.id.rsplit("/", 2), strict=True)
    return "/".join(one if one == other else f"{one}..{other}" for one, other in parts)


def _matched(base: Sequence[Case], cand: Sequence[Case], key: object) -> list[Pair]:
    assert callable(key)
    waiting: dict[object, list[Case]] = {}
    for case in cand:
        waiting.setdefault(key(case), []).append(case)
    return [(case, found.pop(0)) for case in base if (found := waiting.get(key(case)))]


def _few(cases: Sequence[Case]) -> str:
    told = ", ".join(case.id for case in cases[:3])
    return f"{told} …" if len(cases) > 3 else told
