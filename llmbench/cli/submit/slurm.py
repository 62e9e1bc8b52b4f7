"""``llmbench submit slurm``: a suite as a job of SLURM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.names import complete_mode, complete_suite, complete_workload
from llmbench.cli.options import DeviceKind
from llmbench.cli.submit.jobs import DEFAULT
from llmbench.cli.submit.options import JobsFolder

if TYPE_CHECKING:
    from llmbench.results.schema import Node
    from llmbench.submit.jobs import JobFolder
    from llmbench.submit.passed_on import RunOptions
    from llmbench.submit.sbatch import SlurmOptions


def slurm(
    suite: Annotated[
        str | None,
        typer.Argument(help="Name of a shipped suite, or path of a TOML file.", autocompletion=complete_suite),
    ] = None,
    sbatch_args: Annotated[
        list[str] | None, typer.Argument(metavar="[-- SBATCH_ARGS…]", help="Given to sbatch as they are; they win.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", "-N", min=1, help="How many. Default: one; with --resume, as before.")
    ] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs to ask for. Default: none.")] = None,
    nproc_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes of a parallel mode on each node. Default: one a GPU, else 1.")
    ] = None,
    partition: Annotated[str | None, typer.Option("--partition", "-p", help="Default: SLURM's.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", "-t", help="Wall limit: minutes, HH:MM:SS or D-HH. Default: SLURM's.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", "-A", help="Who pays. Default: SLURM's.")] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(metavar="LINE", help="Line of shell before llmbench, such as `module load cuda`. Repeatable."),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", "-w", help="Run this workload or family instead.", autocompletion=complete_workload),
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option("--mode", "-m", help="Run this mode instead.", autocompletion=complete_mode)
    ] = None,
    world_size: Annotated[
        list[int] | None,
        typer.Option("--world-size", min=1, help="Processes of a parallel mode. Default: all of all nodes."),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the suite: SETTING=VALUE.")
    ] = None,
    device: Annotated[DeviceKind, typer.Option(help="Where to train.")] = DeviceKind.auto,
    data: Annotated[str | None, typer.Option(help="Text to train on, as for `llmbench run`.")] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="Interpreter that trains, as the nodes see it. Default: this one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, on a disk that the nodes share. Default: reports/runs/ID.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print the script and the command.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job: print its id.")] = False,
    jobs: JobsFolder = DEFAULT,
) -> None:
    """Run a suite as a job of SLURM: submit it, follow it, print its summary.

    The job takes whole nodes. It runs `llmbench run` once, on its first node; each parallel case is one `srun` step
    over all of them. This folder must be on a disk that the nodes share, and llmbench installed where they see it.

    Ctrl-C asks whether to cancel the job. Exit code as that of `llmbench run`: 0 all cases trained, and trained
    right; 3 a case did not.

    Examples:
    - `llmbench submit slurm smoke-ddp --nodes 2 --gpus-per-node 8 --partition gpu --time 30`

    - `llmbench submit slurm my-suite.toml -N 4 --setup "module load cuda" --plan`

    - `llmbench submit slurm smoke-ddp -N 2 --detach -- --qos=low --reservation=tests`

    - `llmbench submit slurm --resume reports/runs/20260101-120000-ab12`
    """
    from llmbench.submit.sbatch import SlurmOptions

    passed = _passed_on(suite, workload, mode, world_size, change, device, data, python, resume, out)
    before = _nodes_before(resume)
    if before and gpus_per_node is None:
        nproc_per_node = nproc_per_node or before[0].processes
    options = SlurmOptions(
        nodes or len(before) or 1,
        gpus_per_node,
        nproc_per_node,
        partition,
        time,
        account,
        setup or (),
        sbatch_args or (),
    )
    options.check()
    cases = _cases_before(passed.resume) if passed.resume else _checked_suite(passed, options)
    name, run = _names(passed, out)
    if plan:
        _plan(options, passed, name, run, jobs)
        return
    from llmbench.cli.submit.following import detached, follow_to_the_end
    from llmbench.submit.slurm import SlurmJob

    folder = _submitted(options, passed, name, run, jobs, cases)
    if detach:
        detached(folder)
        return
    raise typer.Exit(follow_to_the_end(SlurmJob(folder)))


def _passed_on(
    suite: str | None,
    workload: list[str] | None,
    mode: list[str] | None,
    world_size: list[int] | None,
    change: list[str] | None,
    device: DeviceKind,
    data: str | None,
    python: str | None,
    resume: Path | None,
    out: Path | None,
) -> RunOptions:
    from llmbench.cli.run import interpreter
    from llmbench.errors import UserError
    from llmbench.results.store import RunFolder
    from llmbench.submit.passed_on import RunOptions

    if resume is not None:
        if any((suite, workload, mode, world_size, change, data, python, out, device is not DeviceKind.auto)):
            raise UserError("--resume goes on with a run as it was begun", "leave the suite and the other choices out")
        RunFolder(resume).read_run()
        return RunOptions(None, resume=str(resume.absolute()))
    return RunOptions(
        suite,
        workload or (),
        mode or (),
        world_size or (),
        change or (),
        device.value,
        data,
        interpreter(python) if python else None,
    )


def _nodes_before(resume: Path | None) -> list[Node]:
    """The nodes of the run that is gone on with; none of a new one."""
    from llmbench.results.store import RunFolder

    return RunFolder(resume).read_run().nodes if resume else []


def _cases_before(resume: str) -> int:
    from llmbench.results.store import RunFolder

    return len(RunFolder(Path(resume)).read_run().cases)


def _checked_suite(passed: RunOptions, options: SlurmOptions) -> int:
    """How many cases it has. What is wrong with it is told here and now, not by the job.

    Raises:
        UserError: there is no such suite, or it has no such cases.
    """
    from llmbench.errors import UserError
    from llmbench.launch.foreign import lookup
    from llmbench.suite.cases import resolve
    from llmbench.suite.load import find, shipped

    if passed.suite is None:
        raise UserError("which suite?", f"shipped: {', '.join(shipped())}; or the path of a TOML file, or --resume DIR")
    known = lookup(passed.python or sys.executable)
    file = find(passed.suite, known)
    cases = resolve(
        file,
        lookup=known,
        workloads=list(passed.workloads) or None,
        modes=list(passed.modes) or None,
        world_sizes=list(passed.world_sizes) or [options.nodes * options.ranks_per_node],
        changes=passed.changes,
    )
    return len(cases)


def _names(passed: RunOptions, out: Path | None) -> tuple[str, Path]:
    """The name of the suite, and the absolute folder of the run."""
    from llmbench.launch.session import new_id
    from llmbench.results.store import RunFolder

    if passed.resume is not None:
        run = Path(passed.resume)
        return RunFolder(run).read_run().suite, run
    assert passed.suite is not None
    return Path(passed.suite).stem, (out or Path("reports", "runs", new_id())).absolute()


def _run_command(options: SlurmOptions, passed: RunOptions, run: Path) -> list[str]:
    from llmbench.submit.slurm import run_command

    nodes = ["--nnodes", str(options.nodes), "--nproc-per-node", str(options.ranks_per_node)]
    return run_command(sys.executable, [*passed.arguments(str(run)), *nodes])


def _plan(options: SlurmOptions, passed: RunOptions, name: str, run: Path, jobs: Path) -> None:
    import shlex

    from llmbench.submit import sbatch

    folder = jobs.absolute() / "ID"
    typer.echo(sbatch.script(options, _run_command(options, passed, run), name, folder, Path.cwd()), nl=False)
    typer.echo(f"\n# {shlex.join(sbatch.command(options, folder / 'job.sh', folder))}")


def _submitted(options: SlurmOptions, passed: RunOptions, name: str, run: Path, jobs: Path, cases: int) -> JobFolder:
    """Writes the script, lets SLURM judge it, and submits it. Nothing is left of what SLURM refuses."""
    from llmbench.launch.record import utc_now
    from llmbench.launch.session import new_id
    from llmbench.results.redact import command as redacted
    from llmbench.submit import sbatch
    from llmbench.submit.jobs import Job, JobFolder
    from llmbench.submit.slurm import check, send

    folder = JobFolder.create(jobs.absolute(), new_id())
    file = folder.path / "job.sh"
    try:
        text = sbatch.script(options, _run_command(options, passed, run), name, folder.path, Path.cwd())
        file.write_text(text, encoding="utf-8")
        check(options, file, folder.path)
        system_id = send(options, file, folder.path)
    except BaseException:  # Ctrl-C too
        folder.discard()
        raise
    folder.write(
        Job(
            id=folder.path.name,
            kind="slurm",
            system_id=system_id,
            suite=name,
            nodes=options.nodes,
            run=str(run),
            cases=cases,
            submitted_at=utc_now(),
            command=redacted(["llmbench", *sys.argv[1:]]),
            working_folder=str(Path.cwd()),
        )
    )
    return folder
