"""The options of ``llmbench run`` that a submission passes on to the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """What is to be run, as ``llmbench run`` takes it.

    Attributes:
        suite: None with ``resume``.
        resume: the folder of a run to go on with.
    """

    suite: str | None
    workloads: Sequence[str] = ()
    modes: Sequence[str] = ()
    world_sizes: Sequence[int] = ()
    changes: Sequence[str] = ()
    device: str = "auto"
    data: str | None = None
    python: str | None = None
    resume: str | None = None

    def arguments(self, out: str | None = None) -> list[str]:
        """The arguments of ``llmbench run``.

        Args:
            out: the folder of the run; a run that is gone on with has one.
        """
        if self.resume is not None:
            return ["--resume", self.resume]
        found = [self.suite] if self.suite is not None else []
        for name, values in (
            ("--workload", self.workloads),
            ("--mode", self.modes),
            ("--world-size", self.world_sizes),
            ("--set", self.changes),
        ):
            found += [part for value in values for part in (name, str(value))]
        for name, value in (("--data", self.data), ("--python", self.python), ("--out", out)):
            found += [name, value] if value is not None else []
        return found + (["--device", self.device] if self.device != "auto" else [])
