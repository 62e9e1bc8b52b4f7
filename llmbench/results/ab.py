"""An A/B comparison on disk: ``ab.json``, and ``sessions.jsonl`` with a line for each session of each case.

A rerun adds sessions to those that are there; nothing is ever taken out. Verdicts are not stored: they follow from the
sessions (``stats/ab.py``).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llmbench.results.schema import SCHEMA_VERSION, Error, Git, Memory, Part, PlannedCase, Status

SideName = Literal["base", "cand"]
SIDES: tuple[SideName, SideName] = ("base", "cand")

Seconds = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, lt=1)]
Chance = Annotated[float, Field(ge=1e-9, lt=0.5)]


class Turn(Part):
    """What one side did while it held the token; of several ranks, step by step the slowest.

    All of it is of the steps alone: passing the token takes no time of any.
    """

    steps: list[float] = Field(description="wall seconds of each step")
    wall: float = Field(description="seconds of the turn, the device synchronised at its end")
    cpu: float | None = Field(None, description="CPU seconds of all threads, summed over the ranks")
    waited: float | None = Field(None, description="seconds in which its main thread was ready, but had no CPU")


class Round(Part):
    """A turn of each side."""

    first: SideName
    base: Turn
    cand: Turn

    def of(self, side: SideName) -> Turn:
        return self.base if side == "base" else self.cand


class Trained(Part):
    """What one side's process told at its end, beside its turns; or why it could not."""

    status: Status = "ok"
    error: Error | None = None
    memory: Memory | None = None
    loss: list[float | None] = Field([], description="of every training step; null where it was not finite")
    facts: dict[str, Any] = Field({})
    preempted: int | None = Field(None, description="how often another process was given the CPU")
    log: str | None = Field(None, description="file, relative to the comparison")


class AbSession(Part):
    """A line of ``sessions.jsonl``: pairs of fresh processes, one after the other, each with its part of the rounds."""

    schema_version: int = SCHEMA_VERSION
    case: str
    session: int = Field(description="from 0, by case")
    design: Literal["lockstep", "apart"] = Field(
        "lockstep", description="apart: one after the other, since both do not fit into memory at once"
    )
    seed: int = Field(description="of the order of start and turns")
    first: SideName = Field(description="which process was started first")
    cpus: list[int] | None = Field(None, description="to which both were pinned")
    rounds: list[Round] = Field([])
    base: Trained
    cand: Trained
    load_1min: float | None = None
    started_at: str
    seconds: Seconds

    def of(self, side: SideName) -> Trained:
        return self.base if side == "base" else self.cand

    @property
    def whole(self) -> bool:
        """Whether both sides came to the end."""
        return bool(self.rounds) and self.base.status == self.cand.status == "ok"


class AbSide(Part):
    """One of the two environments."""

    asked: str = Field(description="as given: a Python, requirements, a revision …")
    label: str = Field(description="short, for people")
    kind: Literal["python", "requirements", "revision"]
    python: str
    folder: str | None = Field(None, description="working folder of the side's processes, if not the caller's")
    paths: list[str] = Field([], description="in front of its import path")
    git: Git | None = None
    environment: dict[str, Any] = Field({})


class AbCase(Part):
    """A case of each side; they differ if modes or suites are compared."""

    id: str
    base: PlannedCase
    cand: PlannedCase


class AbGate(Part):
    """The rules, as chosen; what they mean stands in ``stats/lockstep.py``."""

    tolerance: Share
    limit: Share
    alpha: Chance
    beta: Chance
    looks: list[Annotated[int, Field(ge=2, le=10_000)]] = Field(
        min_length=1, description="numbers of sessions after which to look, ascending"
    )
    loss_margin: Share | None = Field(
        None, description="a change of the loss was declared: the final losses must agree within this share"
    )

    @field_validator("looks")
    @classmethod
    def _ascending(cls, looks: list[int]) -> list[int]:
        if any(one >= other for one, other in pairwise(looks)):
            raise ValueError("numbers of sessions should ascend")
        return looks


class Ab(Part):
    """One comparison: ``ab.json``."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["ab"] = "ab"
    id: str
    suite: str
    description: str = ""
    cases: list[AbCase]
    base: AbSide
    cand: AbSide
    gate: AbGate
    seed: int
    rounds: int = Field(description="of a session")
    budget_seconds: float = Field(description="for each case")
    self_check: bool = Field(False, description="both sides are the same: every verdict but `same` is an error")
    command: list[str]
    working_folder: str
    llmbench: str
    device: str
    data: dict[str, Any] = Field({})
    status: Literal["running", "done", "interrupted"] = "running"
    started_at: str
    finished_at: str | None = None
    resumed: int = 0

    def of(self, side: SideName) -> AbSide:
        return self.base if side == "base" else self.cand
