"""What is to hold for a marked test: its mark, the command line and the configuration file, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from llmbench.errors import UserError, nearest
from llmbench.pytest_plugin import chosen

KEYWORDS = (
    "base", "limit", "tolerance", "loss_may_change", "budget", "sessions", "rounds", "warmup", "deadline", "cpus",
    "base_may_fail",
)  # fmt: skip
FEWEST_SESSIONS = 3  # with fewer, chance alone would decide
MOST_ALPHA = 0.2

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Rules:
    """Of one marked test.

    Attributes:
        base: the side that it is held against, as ``launch/sides`` understands it.
        limit, tolerance, loss_margin: shares, as in ``results/ab.py``'s gate.
        budget: seconds, after which no session is begun.
        sessions: most of them.
        rounds: of turns in a session.
        warmup: steps before the first turn.
        deadline: seconds that a side may take for a session, without the other's turns.
        cpus: number of CPUs to which both sides are pinned.
        base_may_fail: then there is nothing to hold the test against, and it is skipped.
    """

    base: str
    limit: float
    tolerance: float
    loss_margin: float | None
    budget: float
    sessions: int
    rounds: int
    warmup: int
    deadline: float
    cpus: int | None
    base_may_fail: bool


def rules_of(item: pytest.Item) -> Rules | None:
    """The rules of a marked test; None without a base.

    Raises:
        UserError: an unknown keyword, or a value that is none.
    """
    mark = _mark(item)

    def said(name: str) -> Any:
        return chosen(item.config, name, mark)

    base = said("base")
    if base is None:
        return None
    if not isinstance(base, str):
        raise UserError(f"base={base!r} is no text", 'such as base="git:origin/main"')
    rules = Rules(
        base=base,
        limit=_percent("limit", said("limit"), 5),
        tolerance=_percent("tolerance", said("tolerance"), 1),
        loss_margin=None
        if said("loss_may_change") is None
        else _percent("loss_may_change", said("loss_may_change"), 0),
        budget=_number("budget", said("budget"), 100.0, 1.0, float),
        sessions=_number("sessions", said("sessions"), 20, FEWEST_SESSIONS, int),
        rounds=_number("rounds", said("rounds"), 24, 4, int),
        warmup=_number("warmup", said("warmup"), 10, 1, int),
        deadline=_number("deadline", said("deadline"), 300.0, 1.0, float),
        cpus=None if said("cpus") is None else _number("cpus", said("cpus"), 1, 1, int),
        base_may_fail=bool(mark.get("base_may_fail", False)),
    )
    if rules.limit <= rules.tolerance:
        raise UserError(
            f"limit={100 * rules.limit:g}% is not above tolerance={100 * rules.tolerance:g}%",
            'such as limit="5%" and tolerance="1%"',
        )
    return rules


def alpha_of(config: pytest.Config) -> float:
    """The chance of any false alarm.

    Raises:
        UserError: it is none.
    """
    alpha = _number("alpha", chosen(config, "alpha", {}), 0.01, 1e-6, float)
    if alpha > MOST_ALPHA:
        raise UserError(f"alpha={alpha:g} is above {MOST_ALPHA:g}: nothing would mean anything", "such as 0.01")
    return alpha


def _mark(item: pytest.Item) -> Mapping[str, Any]:
    """The keywords of all marks of a test, that of the function before that of its class or module."""
    found: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("llmbench"))):
        if mark.args:
            raise UserError(
                f"the mark llmbench takes keywords only, not {mark.args[0]!r}",
                'such as @pytest.mark.llmbench(base="git:origin/main")',
            )
        for name in mark.kwargs:
            if name not in KEYWORDS:
                raise UserError(f"the mark llmbench has no keyword {name!r}", nearest(name, KEYWORDS))
        found |= mark.kwargs
    return found


def _percent(name: str, value: object, default: float) -> float:
    """``5``, ``"5"`` or ``"5%"`` as 0.05."""
    percent = _as_number(str(default if value is None else value).strip().removesuffix("%"), float)
    if percent is None or not 0 <= percent < 100:
        raise UserError(f"{name}={value!r} is no percentage from 0 to below 100", f'such as {name}="5%"')
    return percent / 100


def _number(name: str, value: object, default: Number, least: Number, kind: Callable[[str], Number]) -> Number:
    number = default if value is None else _as_number(str(value), kind)
    if number is None or not least <= number < float("inf"):
        raise UserError(f"{name}={value!r} is no number from {least:g} on", f"such as {name}={default:g}")
    return number


def _as_number(text: str, kind: Callable[[str], Number]) -> Number | None:
    try:
        return kind(text)
    except ValueError:
        return None
