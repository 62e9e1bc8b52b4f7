"""``llmbench ab``: two environments, revisions, modes or suites against each other, in lock-step."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.names import complete_mode, complete_suite, complete_workload
from llmbench.cli.options import BenchmarkFile, DeviceKind, JunitFile, MarkdownFile, ProgressKind
from llmbench.cli.outputs import Outputs

if TYPE_CHECKING:
    from llmbench.launch.ab import AbRunner
    from llmbench.results.ab import AbCase, AbSide
    from llmbench.results.ab_folder import AbFolder

_SIDES = "The two sides"
_CASES = "What they train"
_RULES = "What counts as worse, and how sure to be"
_OUTPUT = "What is told"
SUITE = "smoke"
BUDGET_SECONDS = 100.0


def ab(
    suite: Annotated[
        str | None,
        typer.Argument(help="Shipped suite, or path of a TOML file. Default: smoke.", autocompletion=complete_suite),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="SIDE", help="What is known: PYTHON, SPEC or git:REV.", rich_help_panel=_SIDES),
    ] = None,
    cand: Annotated[
        str | None, typer.Option("--cand", metavar="SIDE", help="What is to be judged.", rich_help_panel=_SIDES)
    ] = None,
    base_mode: Annotated[
        str | None,
        typer.Option("--base-mode", help="Mode of the base.", autocompletion=complete_mode, rich_help_panel=_SIDES),
    ] = None,
    cand_mode: Annotated[
        str | None,
        typer.Option(
            "--cand-mode", help="Mode of the candidate.", autocompletion=complete_mode, rich_help_panel=_SIDES
        ),
    ] = None,
    cand_suite: Annotated[
        str | None,
        typer.Option("--cand-suite", help="Suite of the candidate, if another.", rich_help_panel=_SIDES),
    ] = None,
    itself: Annotated[
        bool, typer.Option("--self", help="Both sides are the same (A/A): counts false alarms.", rich_help_panel=_SIDES)
    ] = False,
    python: Annotated[
        str, typer.Option("--python", help="Interpreter of a side that names none.", rich_help_panel=_SIDES)
    ] = sys.executable,
    constraints: Annotated[
        Path | None,
        typer.Option("--constraints", metavar="FILE", help="Pins for what SPEC installs.", rich_help_panel=_SIDES),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", "-w", help="Train this instead.", autocompletion=complete_workload, rich_help_panel=_CASES
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode", "-m", help="In this mode instead.", autocompletion=complete_mode, rich_help_panel=_CASES
        ),
    ] = None,
    world_size: Annotated[
        list[int] | None,
        typer.Option("--world-size", min=1, help="Processes of a parallel mode.", rich_help_panel=_CASES),
    ] = None,
    device: Annotated[DeviceKind, typer.Option(help="Where to train.", rich_help_panel=_CASES)] = DeviceKind.auto,
    data: Annotated[
        str | None, typer.Option(help="Text to train on, as for `llmbench run`.", rich_help_panel=_CASES)
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: SETTING=VALUE.", rich_help_panel=_CASES)
    ] = None,
    tolerance: Annotated[
        str, typer.Option(metavar="PERCENT", help="A slowdown so small is none.", rich_help_panel=_RULES)
    ] = "1",
    limit: Annotated[
        str, typer.Option(metavar="PERCENT", help="A slowdown so large must not pass.", rich_help_panel=_RULES)
    ] = "5",
    alpha: Annotated[
        float,
        typer.Option(
            min=1e-6, max=0.2, help="Chance of any false alarm in the whole comparison.", rich_help_panel=_RULES
        ),
    ] = 0.01,
    beta: Annotated[
        float,
        typer.Option(
            min=1e-6, max=0.2, help="Chance to miss a case that is slower by --limit.", rich_help_panel=_RULES
        ),
    ] = 0.05,
    loss_may_change: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="The loss is meant to change; the final one by so much at most.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="For each case; then what is open stays so. Default: 100.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=4, help="Rounds of turns in a session.", rich_help_panel=_RULES)] = 8,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart",
            help="One side after the other; if both do not fit in memory, that is done anyway.",
            rich_help_panel=_RULES,
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the order of starts and turns.", rich_help_panel=_RULES)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also where nothing could be told.", rich_help_panel=_RULES)
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison. Default: reports/ab/ID.", rich_help_panel=_OUTPUT)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Add sessions to this comparison.", rich_help_panel=_OUTPUT)
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what would be compared.", rich_help_panel=_OUTPUT)
    ] = False,
    progress: Annotated[
        ProgressKind, typer.Option(help="How to show progress, on stderr.", rich_help_panel=_OUTPUT)
    ] = ProgressKind.auto,
    junit: JunitFile = None,
    markdown: MarkdownFile = None,
    benchmark_json: BenchmarkFile = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the page here, too.", rich_help_panel=_OUTPUT)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Did it get worse? Both sides train at once, taking turns of a few steps, until the verdict is in.

    A side is a Python (path, venv folder or name), requirements or a wheel (installed in front of --python's packages),
    or a git revision of this checkout (git:REV; git:. is the working tree). Or the sides differ only in mode or suite.

    Exit codes: 0 nothing got worse · 1 it did (with --strict also what could not be told) · 2 wrong usage ·
    3 the base could not be run · 130 interrupted; all sessions that are done are kept.

    Examples:
        llmbench ab smoke --base ~/venvs/stable --cand ~/venvs/nightly

        llmbench ab smoke -w gpt --base git:main --cand git:.

        llmbench ab smoke -w gpt -m eager --base numpy==1.26.4 --cand numpy==2.1.0 --constraints pins.txt

        llmbench ab smoke -w gpt --base-mode eager --cand-mode compile

        llmbench ab --resume reports/ab/20260101-120000-ab12

        llmbench ab smoke -w gpt -m eager --self
    """
    from llmbench.cli.compare import share
    from llmbench.errors import UserError

    outputs = Outputs(as_json, junit, markdown, benchmark_json, html)
    outputs.check(plan=plan)
    if resume is not None:
        if any(
            (suite, base, cand, base_mode, cand_mode, cand_suite, itself, workload, mode, world_size, data, out, change)
        ):
            raise UserError("--resume goes on with a comparison as it was begun", "leave the other choices out")
        raise typer.Exit(_resume(resume, budget, apart, outputs, strict, progress))
    from llmbench.results.ab import AbGate
    from llmbench.stats.sequential import LOOKS

    gate = AbGate(
        tolerance=share("--tolerance", tolerance),
        limit=share("--limit", limit),
        alpha=alpha,
        beta=beta,
        looks=list(LOOKS),
        loss_margin=None if loss_may_change is None else share("--loss-may-change", loss_may_change),
    )
    if gate.limit <= gate.tolerance:
        raise UserError(f"--limit {limit} is not above --tolerance {tolerance}", "such as --tolerance 1 --limit 5")
    from llmbench.cli.ab_progress import ab_progress
    from llmbench.cli.run import interpreter

    own = interpreter(python)
    asked = _asked(base, cand, base_mode, cand_mode, cand_suite, itself, own)
    with ab_progress(progress) as told:
        from llmbench.launch.sides import check_side, make_side

        for one in asked:
            check_side(one, checkout=Path.cwd())
        sides = [
            make_side(one, python=own, constraints=constraints, checkout=Path.cwd(), on_progress=told.preparing)
            for one in asked
        ]
        choices = _Choices(workload, mode, world_size, change)
        cases, suite_name, description = _pairs(sides, suite or SUITE, cand_suite, base_mode, cand_mode, choices)
        if plan:
            _plan(cases, as_json)
            return
        from llmbench.launch.ab import Request, start
        from llmbench.launch.session import new_id

        runner = start(
            Request(
                suite=suite_name,
                description=description,
                cases=cases,
                base=sides[0],
                cand=sides[1],
                gate=gate,
                seed=seed,
                rounds=rounds,
                budget_seconds=budget or BUDGET_SECONDS,
                self_check=itself,
                device=device.value,
                data=data,
                out=out or Path("reports", "ab", new_id()),
                command=["llmbench", *sys.argv[1:]],
            ),
            told,
            always_apart=apart,
        )
        code = _execute(runner)
    raise typer.Exit(_finish(runner.folder, code, outputs, strict))


@dataclass(frozen=True)
class _Choices:
    """What of the suite is trained."""

    workloads: list[str] | None
    modes: list[str] | None
    world_sizes: list[int] | None
    changes: list[str] | None


def _asked(
    base: str | None,
    cand: str | None,
    base_mode: str | None,
    cand_mode: str | None,
    cand_suite: str | None,
    itself: bool,
    python: str,
) -> tuple[str, str]:
    """Both sides as the user named them; the interpreter where they differ in something else.

    Raises:
        UserError: nothing differs, or too much is said.
    """
    from llmbench.errors import UserError

    differ = base is not None or cand is not None or base_mode or cand_mode or cand_suite
    if itself and differ:
        raise UserError("--self compares --python with itself", "leave --base, --cand and their modes and suites out")
    if not itself and not differ:
        raise UserError(
            "which two sides?",
            "--base SIDE --cand SIDE, or --base-mode and --cand-mode, or --cand-suite; --self compares one with itself",
        )
    if bool(base_mode) != bool(cand_mode):
        raise UserError("--base-mode and --cand-mode belong together", "such as --base-mode eager --cand-mode compile")
    return base or python, cand or python


def _pairs(
    sides: list[AbSide],
    suite: str,
    cand_suite: str | None,
    base_mode: str | None,
    cand_mode: str | None,
    choices: _Choices,
) -> tuple[list[AbCase], str, str]:
    """The cases, and name and description of what they are from."""
    from llmbench.errors import UserError
    from llmbench.launch.foreign import lookup
    from llmbench.results.ab import AbCase
    from llmbench.start import complain
    from llmbench.suite.cases import resolve
    from llmbench.suite.load import find
    from llmbench.suite.pairs import pair_id, pair_up

    if base_mode and choices.modes:
        raise UserError("--mode and --base-mode exclude each other", "name the modes of both sides, or one for both")
    files, resolved = [], []
    for side, name, mode in ((sides[0], suite, base_mode), (sides[1], cand_suite or suite, cand_mode)):
        known = lookup(side.python, side.folder, side.paths)
        file = find(name, known)
        files.append(file)
        cases = resolve(
            file,
            lookup=known,
            workloads=choices.workloads,
            modes=[mode] if mode else choices.modes,
            world_sizes=choices.world_sizes,
            changes=choices.changes or [],
        )
        for case in cases:
            if case.refused:
                complain(f"llmbench: left out: {case.id}: {case.refused}")
        resolved.append([case for case in cases if not case.refused])
    pairs, alone = pair_up(*resolved)
    if alone:
        complain(f"llmbench: left out, since only one side has it: {', '.join(alone)}")
    found = [AbCase(id=pair_id(pair), base=pair[0].planned(), cand=pair[1].planned()) for pair in pairs]
    return found, "..".join(dict.fromkeys(file.name for file in files)), files[0].suite.description


def _plan(cases: list[AbCase], as_json: bool) -> None:
    rows = [{"case": case.id, "base": case.base.case, "cand": case.cand.case} for case in cases]
    typer.echo(json.dumps(rows, indent=2) if as_json else "\n".join(row["case"] for row in rows))


def _resume(path: Path, budget: float | None, apart: bool, outputs: Outputs, strict: bool, kind: ProgressKind) -> int:
    from llmbench.cli.ab_progress import ab_progress
    from llmbench.launch.ab import resume
    from llmbench.results.ab_folder import AbFolder

    with ab_progress(kind) as told:
        runner = resume(AbFolder(path), budget, told, always_apart=apart)
        code = _execute(runner)
    return _finish(runner.folder, code, outputs, strict)


def _execute(runner: AbRunner) -> int:
    """Adds sessions; what is told of them is up to those that are there in the end."""
    from llmbench.cli.interrupts import interruptible

    with interruptible() as ending:
        runner.execute()
    return ending.code


def _beside(folder: Path) -> list[Path]:
    """The comparisons in the same folder as one, itself among them; not what lies deeper, which may be anything."""
    return sorted(file.parent for file in folder.resolve().parent.glob("*/ab.json"))


def _finish(folder: AbFolder, interrupted: int, outputs: Outputs, strict: bool) -> int:
    from llmbench.cli.ab_text import ab_text
    from llmbench.report.ab import ab_page, write_ab_report
    from llmbench.report.ab.document import ab_document
    from llmbench.report.ab.github import tell
    from llmbench.report.ab.outputs import ab_junit, ab_markdown
    from llmbench.report.history import selfchecks
    from llmbench.report.outputs.benchmarks import ab_benchmarks
    from llmbench.report.outputs.files import write
    from llmbench.report.outputs.github import annotate
    from llmbench.start import complain
    from llmbench.stats.ab import compared
    from llmbench.stats.selfcheck import SelfChecks, self_checks

    ab, sessions = folder.read(), folder.sessions()
    comparison = compared(ab, sessions, strict=strict)
    report = write_ab_report(folder, comparison)
    if outputs.junit:
        write(outputs.junit, ab_junit(comparison, ab.command))
    if outputs.markdown:
        write(outputs.markdown, ab_markdown(comparison, ab.command))
    if outputs.benchmarks:
        write(outputs.benchmarks, ab_benchmarks(ab, sessions, "cand"))
    if outputs.html:
        write(outputs.html, ab_page(comparison, folder))
    checks = self_checks(_beside(folder.path)) if ab.self_check else SelfChecks()
    code = interrupted or comparison.exit_code or int(checks.distrusted)
    if outputs.json:
        told = {"self_checks": selfchecks.document(checks), "report": str(report), "exit_code": code}
        typer.echo(json.dumps(ab_document(comparison) | told, indent=2))
    else:
        parts = [ab_text(comparison), "\n".join(selfchecks.texts(selfchecks.lines(checks))), f"report: {report}"]
        typer.echo("\n\n".join(filter(None, parts)))
    if checks.distrusted:
        warning = "more false alarms than alpha allows: do not trust the verdicts of this machine"
        complain(f"llmbench: warning: {warning}")
        annotate("warning", warning, "llmbench ab --self")
    tell(comparison)
    return code
