"""A/B comparisons as ``llmbench ab`` leaves them: sessions that say exactly what a test wants them to say."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.results.ab import Ab, AbCase, AbGate, AbSession, AbSide, Round, SideName, Trained, Turn
from llmbench.results.ab_folder import AbFolder
from llmbench.results.schema import Error, Git, Memory
from llmbench.stats import sequential
from llmbench.stats.ab import AbComparison, Outcome, compared
from tests import factory

CASE = "gpt-tiny/eager/ws1"
COMMAND = ["llmbench", "ab", "--base", "main", "--cand", ".", "smoke"]
LOOKS = list(sequential.LOOKS)
ROUNDS, STEPS, WARM_UP = 24, 3, 10
PEAK = 1_300_000_000
_UNIT = (-1.0, 1.0, 0.0, -1.0, 1.0, 0.0, 0.5, -0.5)  # of the spread between sessions

OUT_OF_MEMORY = Error(type="OutOfMemoryError", message="CUDA out of memory", hint="one after the other, see `apart`")
FAILED = Error(type="ImportError", message="cannot import name 'fused' from 'kernels'", hint="install kernels >= 2")


def made_side(label: str, kind: str = "python", **changes: Any) -> AbSide:
    """A Python of a virtual environment."""
    values: dict[str, Any] = {
        "asked": f"{label}/bin/python",
        "label": label,
        "kind": kind,
        "python": f"/envs/{label}/bin/python",
        "environment": factory.ENVIRONMENT,
    }
    return AbSide(**(values | changes))


def made_case(name: str = CASE, cand_mode: str | None = None) -> AbCase:
    """A case of both sides, of its id; with another mode for the candidate if one is named."""
    workload, mode, size = name.split("/")
    sides = [factory.planned(workload, one, int(size.removeprefix("ws"))) for one in (mode, cand_mode or mode)]
    return AbCase(id=name, base=sides[0], cand=sides[1])


def made_ab(cases: Sequence[AbCase | str] = (CASE,), *, gate: Mapping[str, Any] | None = None, **changes: Any) -> Ab:
    """``ab.json``. The sides differ in torch and in a package."""
    rules = {"tolerance": 0.01, "limit": 0.05, "alpha": 0.01, "beta": 0.05, "looks": LOOKS} | dict(gate or {})
    newer = factory.ENVIRONMENT | {"packages": factory.ENVIRONMENT["packages"] | {"numpy": "2.4.0"}}
    values: dict[str, Any] = {
        "id": "20261123-091500-ab12",
        "suite": "smoke",
        "cases": [one if isinstance(one, AbCase) else made_case(one) for one in cases],
        "base": made_side("main", "revision", git=Git(commit="4e2b1aa0" * 5, dirty=False), asked="main"),
        "cand": made_side("cand", environment=newer, git=Git(commit="9c41e07b" * 5, dirty=True)),
        "gate": AbGate(**rules),
        "seed": 20261123,
        "rounds": ROUNDS,
        "budget_seconds": 120.0,
        "command": COMMAND,
        "working_folder": "/home/someone/work",
        "llmbench": "0.1.0",
        "device": "cpu",
        "data": {"name": "wikitext-2"},
        "status": "done",
        "started_at": "2026-11-23T09:15:00+00:00",
        "finished_at": "2026-11-23T09:16:08+00:00",
    }
    return Ab(**(values | changes))


def made_session(
    case: str = CASE,
    session: int = 0,
    *,
    step: float = 0.0,
    total: float | None = None,
    more: float = 0.0,
    loss: Callable[[int], float] = lambda _: 1.0,
    design: str = "lockstep",
    broken: Mapping[SideName, Error] | None = None,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    seed_of_loss: int | None = None,
    device: str = "cpu",
) -> AbSession:
    """One session.

    Args:
        step, total: the differences of logarithms that it gives; ``total`` is as ``step`` unless told.
        more: share by which the candidate's peak of memory is higher.
        loss: factor of the candidate's loss at each step.
        broken: sides that failed, and of what; then there are no rounds.
        seed_of_loss: both sides train on other batches in each session.
    """
    rng = random.Random(f"{case} {session}")
    broken = broken or {}
    done = [] if broken else [_round(rng, step, step if total is None else total, steps) for _ in range(rounds)]
    curve = losses(WARM_UP + rounds * steps, case if seed_of_loss is None else f"{case} {seed_of_loss}")
    shifted = [value * loss(at) for at, value in enumerate(curve)]

    def trained(side: SideName) -> Trained:
        if side in broken:
            error = broken[side]
            status = "oom" if error.type == "OutOfMemoryError" else "failed"
            return Trained(status=status, error=error, log=f"logs/{case.replace('/', '__')}.{side}.log")
        cand = side == "cand"
        peak = round(PEAK * (1 + more if cand else 1))
        memory = Memory(peak_rss_bytes=peak) if device == "cpu" else Memory(peak_allocated_bytes=peak)
        facts = {"weights_sha256": "w" * 8, "batches_sha256": f"b{seed_of_loss}"}
        return Trained(
            memory=memory,
            loss=list(shifted if cand else curve),
            facts=facts,
            preempted=rng.randrange(40, 400),
            log=f"logs/{case.replace('/', '__')}.{side}.log",
        )

    first: SideName = rng.choice(("base", "cand"))
    return AbSession(
        case=case,
        session=session,
        design=design,  # type: ignore[arg-type]
        seed=rng.randrange(2**31),
        first=first,
        cpus=[1],
        rounds=done,
        base=trained("base"),
        cand=trained("cand"),
        load_1min=round(rng.uniform(1.5, 5.5), 2),
        started_at=f"2026-11-23T09:{15 + session // 4:02d}:{15 * (session % 4):02d}+00:00",
        seconds=round(rng.uniform(12.5, 14.5), 2),
    )


def losses(steps: int, seed: str) -> list[float]:
    """A curve that falls, with noise."""
    rng = random.Random(seed)
    return [4.1 + 2.9 * math.exp(-4.5 * at / steps) + 0.03 * rng.uniform(-1, 1) for at in range(steps)]


def _round(rng: random.Random, step: float, total: float, steps: int) -> Round:
    """Turns of which the fastest steps, and the sums of time spent, have just these ratios."""
    fastest = 0.022 * (1 + abs(rng.gauss(0, 0.12)))  # what others do falls on both sides
    base = [fastest, *(fastest * (1 + abs(rng.gauss(0, 0.03))) for _ in range(steps - 1))]
    cand = [fastest * math.exp(step), *(fastest * math.exp(step) * (1 + abs(rng.gauss(0, 0.03))) for _ in base[1:])]
    spent = math.fsum(base)
    turns = [
        Turn(steps=one, wall=wall, cpu=wall, waited=0.0)
        for one, wall in ((base, spent), (cand, spent * math.exp(total)))
    ]
    return Round(first=rng.choice(("base", "cand")), base=turns[0], cand=turns[1])


def made_sessions(
    amount: int,
    case: str = CASE,
    *,
    step: float = 0.0,
    total: float | None = None,
    spread: float = 0.005,
    total_spread: float | None = None,
    **each: Any,
) -> list[AbSession]:
    """So many sessions around these differences.

    Args:
        spread: half the distance between the two outermost sessions, of the logarithm; of ``total`` the same unless
            told.
        each: as of ``made_session``.
    """
    total = step if total is None else total
    others = spread if total_spread is None else total_spread
    offsets = [_UNIT[number % len(_UNIT)] for number in range(amount)]
    return [
        made_session(case, number, step=step + spread * offset, total=total - others * offset, **each)
        for number, offset in enumerate(offsets)
    ]


def made_faster(case: str = CASE, total_spread: float = 0.11, **each: Any) -> list[AbSession]:
    """A typical step that is faster for sure when all time spent, which differs more, is told to be the same."""
    return made_sessions(8, case, step=math.log(0.9), spread=0.001, total_spread=total_spread, **each)


@dataclass(frozen=True)
class Scenario:
    """A comparison made so that it has these outcomes.

    Attributes:
        outcomes: of each case, in their order.
        worse: case and metric of what fails the gate.
        code: to be exited with.
    """

    outcomes: Sequence[Outcome]
    code: int
    ab: Ab
    sessions: Sequence[AbSession]
    worse: Sequence[tuple[str, str]] = ()
    strict: bool = False

    @property
    def comparison(self) -> AbComparison:
        return compared(self.ab, self.sessions, strict=self.strict)

    def folder(self, path: Path) -> AbFolder:
        """The same on disk, with a log of each side."""
        return written(path, self.ab, self.sessions)


def written(path: Path, ab: Ab, sessions: Sequence[AbSession]) -> AbFolder:
    folder = AbFolder.create(path, ab)
    for session in sessions:
        folder.append(session)
        for one in (session.base, session.cand):
            if one.log:
                told = f"Traceback (most recent call last):\n{one.error.message}\n" if one.error else "warming up\n"
                (path / one.log).write_text(told, encoding="utf-8")
    return folder


def _scenarios() -> dict[str, Scenario]:
    slow = math.log(1.052)

    def one(outcome: Outcome, code: int, sessions: Sequence[AbSession], worse: Sequence[str] = (), **changes: Any):
        strict = changes.pop("strict", False)
        named = [(CASE, metric) for metric in worse]
        return Scenario([outcome], code, made_ab(**changes), sessions, named, strict)

    def drifted(at: int) -> float:
        return 1.0 if at < 40 else 1.02

    margin = {"loss_margin": 0.01}

    def seeded(amount: int, factor: float, spread: float = 0.002) -> list[AbSession]:
        """Final losses that differ by ``factor``, seeds of their own."""
        return [
            made_session(
                session=number,
                step=0.004 * _UNIT[number],
                seed_of_loss=number,
                loss=lambda _, number=number: factor + spread * _UNIT[number],
            )
            for number in range(amount)
        ]

    noisy = made_sessions(8, spread=0.8)
    made = {
        "same": one("same", 0, made_sessions(5)),
        "slower step": one("slower", 1, made_sessions(5, step=slow, total=0.0, spread=0.002), ["step"]),
        "slower total": one("slower", 1, made_sessions(5, step=0.0, total=slow, spread=0.002), ["total"]),
        "slower": one("slower", 1, made_sessions(5, step=slow, spread=0.002), ["step", "total"]),
        "faster": one("faster", 0, made_faster()),
        "more memory": one("more", 1, made_sessions(5, more=0.08), ["memory"]),
        "less memory": one("less", 0, made_sessions(5, more=-0.08)),
        "changed loss": one("changed", 1, made_sessions(5, loss=drifted), ["loss"]),
        "declared": one("declared", 0, seeded(5, 1.001), gate=margin),
        "beyond the margin": one("changed", 1, seeded(5, 1.03), ["loss"], gate=margin),
        "margin open": one("inconclusive", 0, seeded(3, 1.001), gate=margin),
        "broken": one("broken", 1, [*made_sessions(1), made_session(session=1, broken={"cand": FAILED})], ["step"]),
        "no base": one("no base", 3, [made_session(broken={"base": FAILED})]),
        "both broken": one("no base", 3, [made_session(broken={"base": FAILED, "cand": FAILED})]),
        "budget over": one("inconclusive", 0, made_sessions(4, spread=0.02)),
        "too noisy": one("inconclusive", 0, noisy),
        "too few": one("inconclusive", 0, made_sessions(1)),
        "not begun": one("inconclusive", 0, []),
        "never settled": one("inconclusive", 0, made_sessions(20, step=math.log(1.03), spread=0.042)),
        "strict": one("inconclusive", 1, made_sessions(4, spread=0.02), strict=True),
        "strict and same": one("same", 0, made_sessions(5), strict=True),
        "self-check": one("same", 0, made_sessions(5), self_check=True),
        "false alarm": one("slower", 1, made_sessions(5, step=slow, spread=0.002), ["step", "total"], self_check=True),
        "false praise": one("faster", 0, made_faster(), self_check=True),
        "apart": one(
            "slower",
            1,
            [
                made_session(broken={"cand": OUT_OF_MEMORY, "base": OUT_OF_MEMORY}),
                *(
                    made_session(
                        session=number, step=math.log(1.3) + 0.01 * _UNIT[number], design="apart", rounds=1, steps=30
                    )
                    for number in range(1, 6)
                ),
            ],
            ["step", "total"],
        ),
        "empty": Scenario([], 0, made_ab([]), []),
        "empty and strict": Scenario([], 1, made_ab([]), [], strict=True),
        "modes": Scenario(
            ["faster"],
            0,
            made_ab([made_case(CASE, "compile")]),
            made_faster(loss=lambda _: 1.00001),
        ),
    }
    return made | {"mixed": mixed()}


def mixed(**changes: Any) -> Scenario:
    """Every outcome but two of the declared loss, each in a case of its own."""
    slow = math.log(1.061)
    cases: dict[str, tuple[Outcome, list[str], list[AbSession]]] = {}

    def add(name: str, outcome: Outcome, worse: list[str], *sessions: AbSession) -> None:
        cases[name] = (outcome, worse, list(sessions))

    def some(name: str, amount: int = 5, **each: Any) -> list[AbSession]:
        return made_sessions(amount, name, **each)

    name = "bert-tiny/eager/ws1"
    add(name, "same", [], *some(name, spread=0.003))
    name = "bert-tiny/compile/ws1"
    add(name, "broken", ["step"], made_session(name, 0, broken={"cand": FAILED}))
    name = "gpt-tiny/eager/ws1"
    add(name, "slower", ["step", "total", "memory"], *some(name, 8, step=slow, spread=0.002, more=0.06))
    name = "gpt-tiny/compile/ws1"
    add(name, "slower", ["total"], *some(name, 8, total=slow, step=0.003, spread=0.002))
    name = "gpt-tiny/bf16/ws1"
    add(name, "changed", ["loss"], *some(name, loss=lambda at: 1.0 if at < 31 else 1.03))
    name = "gpt-tiny/compile+bf16/ws1"
    add(name, "inconclusive", [], *some(name, 8, spread=0.8))
    name = "lora-tiny/eager/ws1"
    add(name, "faster", [], *made_faster(name))
    name = "lora-tiny/bf16/ws1"
    add(name, "less", [], *some(name, more=-0.1))
    name = "regression-linear/eager/ws1"
    add(name, "no base", [], made_session(name, 0, broken={"base": FAILED}))
    name = "regression-linear/bf16/ws1"
    add(name, "more", ["memory"], *some(name, more=0.07))
    ab = made_ab(list(cases), **changes)
    sessions = [one for _, _, those in cases.values() for one in those]
    worse = [(name, metric) for name, (_, metrics, _) in cases.items() for metric in metrics]
    return Scenario([outcome for outcome, _, _ in cases.values()], 1, ab, sessions, worse)


def large(cases: int = 12, sessions: int = 20, steps: int = 10) -> Scenario:
    """As heavy as a comparison gets."""
    names = [f"gpt-tiny/m{number}/ws1" for number in range(cases)]
    made = [one for name in names for one in made_sessions(sessions, name, step=0.03, spread=0.02, steps=steps)]
    return Scenario(["inconclusive"] * cases, 0, made_ab(names), made)


SCENARIOS = _scenarios()
