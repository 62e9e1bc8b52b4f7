"""What is told of the run of a job when it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from llmbench.submit.jobs import Job, Submitted


def fetched(submitted: Submitted, out: Path | None) -> int:
    """Brings the run of a job and prints its summary; returns the exit code that the run deserves.

    Raises:
        UserError: there is no run.
    """
    from llmbench.cli.peers import peers_table
    from llmbench.cli.report import tell_damage
    from llmbench.cli.tables import summary
    from llmbench.report import write_run_report
    from llmbench.results.schema import BROKEN
    from llmbench.results.store import RunFolder
    from llmbench.start import CASE_FAILED, USAGE

    folder = RunFolder(submitted.fetch(out))
    run, records = folder.recorded_run(), [one.record for one in folder.recorded() if not one.damage]
    report = write_run_report(folder)
    again = submit_again(submitted.folder.read())
    typer.echo("\n\n".join(filter(None, [peers_table(records), summary(run, records, folder.path, report, again)])))
    missing = len(run.cases) - len(records)
    if missing > 0:
        typer.echo(f"{missing} of {len(run.cases)} cases have no record yet", err=True)
    failed = missing > 0 or any(record.status in BROKEN for record in records)
    return CASE_FAILED if failed else USAGE if tell_damage(folder) else 0


def submit_again(job: Job) -> str:
    """How what is missing or failed of a job's run is run as another job."""
    import shlex

    words = ["llmbench", "submit", job.kind, "--nodes", str(job.nodes)]
    if job.kind == "slurm":
        return shlex.join([*words, "--resume", job.run]) + ", with the options for SLURM as before"
    volume = job.details.get("volume")
    if volume is None:
        return "the whole suite as before: only a run on a --volume can be gone on with"
    words += ["--image", job.details["image"], "--volume", volume, "--resume", job.run]
    return shlex.join(words) + ", with the other options for the pods as before"
