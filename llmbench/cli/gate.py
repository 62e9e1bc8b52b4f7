"""``llmbench gate``: what a project needs to let its CI ask whether it got worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.names import complete_suite, complete_workload

if TYPE_CHECKING:
    from llmbench.ci.project import Project, Service
    from llmbench.ci.workflow import Start

gate = typer.Typer(no_args_is_help=True)


@gate.callback()
def _group() -> None:
    """Let your CI ask whether a change made training worse.

    Examples:
    - `llmbench gate init` writes a workflow to start with.
    """


@gate.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the project.")] = Path(),
    github: Annotated[bool, typer.Option("--github", help="For GitHub Actions.")] = False,
    gitlab: Annotated[bool, typer.Option("--gitlab", help="For GitLab CI.")] = False,
    suite: Annotated[
        str, typer.Option(help="What is trained: a shipped suite, or a TOML file.", autocompletion=complete_suite)
    ] = "ci",
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="Train this instead, such as your own PACKAGE.MODULE:WORKLOAD.",
            autocompletion=complete_workload,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of the usual file, from the project's root.")
    ] = None,
    llmbench: Annotated[
        str | None,
        typer.Option(
            "--llmbench",
            metavar="SOURCE",
            help="Where CI gets llmbench: OWNER/llmbench@REV on GitHub, what pip installs on GitLab. Default: where "
            "this one came from.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    only_print: Annotated[bool, typer.Option("--print", help="Only print; write nothing.")] = False,
) -> None:
    """Write a workflow to start with: a gate for pull or merge requests, and a nightly check of the gate itself.

    For the service that the project seems to use. What is there already is never overwritten without `--force`.

    Exit codes: 0 written · 2 no project, no telling for which service, or a file that is there or cannot be written.

    Examples:
    - `llmbench gate init`

    - `llmbench gate init --workload mypackage.bench:Training` judges your own code.

    - `llmbench gate init --gitlab --suite bench/gate.toml`

    - `llmbench gate init --github --print`
    """
    from llmbench.ci.project import find_project
    from llmbench.ci.workflow import starting

    project = find_project(folder)
    service = _service(project, github, gitlab)
    _check_suite(project, suite)
    if out is not None:
        out = _inside(project, out)
    start = starting(project, service, suite=suite, workloads=workload or (), source=llmbench, out=out)
    if only_print:
        _print(start)
        return
    _write(project, start, force)


def _service(project: Project, github: bool, gitlab: bool) -> Service:
    from llmbench.errors import UserError

    if github and gitlab:
        raise UserError("--github and --gitlab are two workflows", "ask for one at a time")
    if github or gitlab:
        return "github" if github else "gitlab"
    found = project.services
    if len(found) == 1:
        return found[0]
    said = "both GitHub's and GitLab's CI are there" if found else "nothing tells which CI this project has"
    raise UserError(f"{project.root}: {said}", "say --github or --gitlab")


def _check_suite(project: Project, suite: str) -> None:
    """A name must be shipped; a file must be there, and within the project, where CI has it too."""
    from llmbench.errors import UserError, nearest
    from llmbench.suite.load import shipped

    if suite in shipped():
        return
    file = (project.root / suite).resolve()
    if Path(suite).is_absolute() or not file.is_relative_to(project.root):
        raise UserError(f"--suite {suite} lies outside of the project", f"name a path from {project.root}")
    if not file.is_file():
        raise UserError(
            f"--suite {suite}: neither a shipped suite nor a file of the project", nearest(suite, shipped())
        )


def _inside(project: Project, out: Path) -> Path:
    from llmbench.errors import UserError

    place = (project.root / out).resolve()
    if not place.is_relative_to(project.root):
        raise UserError(f"--out {out} lies outside of the project", f"name a path from {project.root}")
    return place.relative_to(project.root)


def _print(start: Start) -> None:
    many = len(start.files) > 1
    parts = [f"# {file.path}\n{file.text}" if many else file.text for file in start.files]
    typer.echo("\n".join(parts).rstrip("\n"))


def _write(project: Project, start: Start, force: bool) -> None:
    from llmbench.errors import UserError
    from llmbench.report.outputs.files import check_writable, write

    places = [project.root / file.path for file in start.files]
    there = [str(file.path) for file, place in zip(start.files, places, strict=True) if place.exists()]
    if there and not force:
        raise UserError(f"{' and '.join(there)}: there already", "--print shows the new one; --force overwrites")
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {place.parent}: {error.strerror}", "choose another file with --out") from None
        check_writable(out=place)
    for file, place in zip(start.files, places, strict=True):
        write(place, file.text)
        typer.echo(f"written: {file.path}")
    typer.echo("next:")
    for number, step in enumerate(start.next, start=1):
        typer.echo(f"  {number}. " + step.rstrip("\n").replace("\n", "\n     "))
