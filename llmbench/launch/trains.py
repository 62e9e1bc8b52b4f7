"""What a run needs of whoever trains its cases: one interpreter here, several nodes, or an allocation of SLURM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.results.schema import Node, PlannedCase

if TYPE_CHECKING:
    from llmbench.launch.target import Outcome

OnEvent = Callable[[dict[str, Any]], None]
Waited = Callable[[], float]


@dataclass(frozen=True)
class Needs:
    """What every node of a run must have before the first case begins.

    Attributes:
        cases: of the run.
        data: the ``--data`` of the run.
        sha256: of the text's splits, and of the token files that the cases train on, by name.
        device: on which to train, ``cpu`` or ``cuda``.
        environment: of the first node, as it is recorded.
        nodes: as they were when the run began, of one that is resumed; else empty.
    """

    cases: Sequence[PlannedCase]
    data: str | None
    sha256: Mapping[str, str]
    device: str
    environment: Mapping[str, Any]
    nodes: Sequence[Node] = field(default_factory=list)


class Trains(Protocol):
    """Who trains the cases of a session, one job at a time."""

    @property
    def python(self) -> str:
        """The interpreter."""
        ...

    @property
    def environ(self) -> Mapping[str, str]:
        """Variables of the processes that train."""
        ...

    @property
    def hello(self) -> Mapping[str, Any]:
        """What the interpreter said of itself: ``torch`` and ``python``, their versions; once it is ready."""
        ...

    def ready(self) -> Mapping[str, Any]:
        """Waits until it can train; ``hello``. Raises: UserError: it never will."""
        ...

    def prepare(self, needs: Needs) -> list[Node]:
        """Sees to it that every node has what it needs; the nodes, and none for a run on this machine alone.

        Raises:
            UserError: a node lacks something; the node is named.
        """
        ...

    def run(
        self,
        job: dict[str, Any],
        log: Path,
        deadline: float,
        on_event: OnEvent = lambda event: None,
        waited: Waited = lambda: 0.0,
    ) -> Outcome:
        """Does one job in fresh processes: see ``Target.run``. A job that is ``distributed`` has ``world_size``."""
        ...

    def steps_done(self) -> int | None:
        """Training steps of the job in flight; None while there is none."""
        ...

    def kill_job(self) -> None:
        """Kills the job in flight and all that it started, wherever."""
        ...
