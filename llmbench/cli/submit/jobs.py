"""``llmbench submit status | fetch | cancel``: what becomes of jobs that were submitted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbench.cli.submit.options import DEFAULT, JobName, JobsFolder

if TYPE_CHECKING:
    from llmbench.submit.jobs import Job, JobFolder, Kind

FetchedTo = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Copy the run to this folder. Default: where it lies.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document and nothing else.")]


def status(
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="Of one job. Default: all.")] = None,
    jobs: JobsFolder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """How submitted jobs are: waiting and why, running and where, ended and how.

    Examples:
    - `llmbench submit status`

    - `llmbench submit status 4711 --json`
    """
    from llmbench.submit.jobs import find_job, submitted_jobs

    rows = [_row(folder) for folder in ([find_job(job, jobs)] if job else submitted_jobs(jobs))]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        typer.echo(f"no job was submitted from here: there is none in {jobs}")
    else:
        typer.echo("\n".join(_line(row) for row in rows))


def fetch(job: JobName, out: FetchedTo = None, jobs: JobsFolder = DEFAULT) -> None:
    """Bring what there is of a job's run, and print its summary; a job that is under way goes on.

    Exit code as that of `llmbench run`: 0 all cases trained, and trained right; 3 a case did not, or is missing.

    Examples:
    - `llmbench submit fetch 4711 --out runs/nightly`
    """
    from llmbench.cli.submit.summary import fetched
    from llmbench.submit.jobs import find_job
    from llmbench.submit.opened import opened

    raise typer.Exit(fetched(opened(find_job(job, jobs)), out))


def cancel(job: JobName, jobs: JobsFolder = DEFAULT) -> None:
    """End a job; what is finished of its run stays, and `--resume` goes on with it.

    Examples:
    - `llmbench submit cancel 4711`
    """
    from llmbench.submit.jobs import find_job
    from llmbench.submit.opened import opened

    folder = find_job(job, jobs)
    opened(folder).cancel()
    typer.echo(f"asked the scheduler to end {folder.path.name}")


def new_job(
    folder: JobFolder,
    kind: Kind,
    system_id: str,
    suite: str,
    nodes: int,
    run: str,
    cases: int | None,
    details: dict[str, str] | None = None,
) -> Job:
    """What is kept of a job that this command has just submitted."""
    from llmbench.launch.record import utc_now
    from llmbench.results.redact import command as redacted
    from llmbench.submit.jobs import Job

    return Job(
        id=folder.path.name,
        kind=kind,
        system_id=system_id,
        suite=suite,
        nodes=nodes,
        run=run,
        cases=cases,
        submitted_at=utc_now(),
        command=redacted(["llmbench", *sys.argv[1:]]),
        working_folder=str(Path.cwd()),
        details=details or {},
    )


def _row(folder: JobFolder) -> dict[str, Any]:
    """One job as data; a scheduler that does not answer, or a damaged folder, is told in ``problem``."""
    from llmbench.errors import UserError
    from llmbench.submit.opened import opened

    row: dict[str, Any] = {"id": folder.path.name, "problem": None}
    try:
        job = folder.read()
        row |= {key: getattr(job, key) for key in ("kind", "system_id", "suite", "nodes", "run", "cases", "state")}
        submitted = opened(folder)
        condition = submitted.look()
        folder.seen(condition.state)
        row |= {"state": condition.state, "reason": condition.reason, "place": condition.place, "code": condition.code}
        row["done"] = submitted.done()
    except UserError as error:
        row["problem"] = error.message
    return row


def _line(row: dict[str, Any]) -> str:
    from llmbench.submit.jobs import Condition

    parts = [row["id"]]
    if "kind" in row:
        condition = Condition(row["state"], row.get("reason"), row.get("place"), row.get("code"))
        parts += [
            f"{row['kind']} {row['system_id']}",
            f"{row['suite']} on {row['nodes']} node{'s' * (row['nodes'] > 1)}",
            str(condition),
        ]
    if row.get("done") is not None:
        parts.append(f"{row['done']}{' of ' + str(row['cases']) if row['cases'] else ''} cases recorded")
    return "  ".join([*parts, *filter(None, [row["problem"]])])
