"""What is trained: the options by which ``run`` and ``submit`` choose it, and the cases that they mean."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.names import complete_mode, complete_suite, complete_workload
from llmbench.cli.options import DeviceKind

if TYPE_CHECKING:
    from llmbench.submit.passed_on import RunOptions
    from llmbench.suite.cases import Case
    from llmbench.suite.load import SuiteFile

SuiteName = Annotated[
    str | None,
    typer.Argument(help="Name of a shipped suite, or path of a TOML file.", autocompletion=complete_suite),
]
Workloads = Annotated[
    list[str] | None,
    typer.Option("--workload", "-w", help="Run this workload or family instead.", autocompletion=complete_workload),
]
Modes = Annotated[
    list[str] | None, typer.Option("--mode", "-m", help="Run this mode instead.", autocompletion=complete_mode)
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting of the suite: SETTING=VALUE (`llmbench list settings`)."),
]
Device = Annotated[DeviceKind, typer.Option(help="Where to train.")]
# Those of a job on several nodes.
AllRanks = Annotated[
    list[int] | None,
    typer.Option("--world-size", min=1, help="Processes of a parallel mode. Default: all of all nodes."),
]
RanksOfNode = Annotated[
    int | None, typer.Option(min=1, help="Processes of a parallel mode on each node. Default: one a GPU, else 1.")
]
GpusPerNode = Annotated[int | None, typer.Option(min=1, help="GPUs to ask for. Default: none.")]


def only_resume(*others: object) -> None:
    """Raises: UserError: beside ``--resume`` something is chosen that a run keeps from its beginning."""
    from llmbench.errors import UserError

    if any(others):
        raise UserError("--resume goes on with a run as it was begun", "leave the suite and the other choices out")


def cases_of(
    python: str,
    suite: str | None,
    workloads: list[str] | None,
    modes: list[str] | None,
    world_sizes: list[int] | None,
    changes: list[str] | None,
) -> tuple[list[Case], SuiteFile]:
    """The cases that are chosen, and the file of their suite.

    Raises:
        UserError: no suite is named, there is no such one, or it has no such cases.
    """
    from llmbench.errors import UserError
    from llmbench.launch.foreign import lookup
    from llmbench.suite.cases import resolve
    from llmbench.suite.load import find, shipped

    if suite is None:
        raise UserError("which suite?", f"shipped: {', '.join(shipped())}; or the path of a TOML file, or --resume DIR")
    known = lookup(python)
    file = find(suite, known)
    cases = resolve(
        file, lookup=known, workloads=workloads, modes=modes, world_sizes=world_sizes, changes=changes or []
    )
    return cases, file


def cases_of_job(options: RunOptions, ranks: int) -> tuple[list[Case], SuiteFile]:
    """The same of a job that is to be submitted: what is wrong is told here and now, not by the job.

    Args:
        ranks: of a parallel mode, unless the options say how many.
    """
    return cases_of(
        options.python or sys.executable,
        options.suite,
        list(options.workloads) or None,
        list(options.modes) or None,
        list(options.world_sizes) or [ranks],
        list(options.changes),
    )
