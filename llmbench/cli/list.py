"""``llmbench list``: what there is."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmbench.cli.options import DeviceKind


class What(StrEnum):
    """The lists."""

    workloads = "workloads"
    modes = "modes"
    suites = "suites"
    checks = "checks"
    faults = "faults"
    settings = "settings"
    schema = "schema"


def list_(
    what: Annotated[What, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    python: Annotated[
        str, typer.Option("--python", help="Of modes: the interpreter in which they shall run.")
    ] = sys.executable,
    device: Annotated[DeviceKind, typer.Option(help="Of modes: where they shall run.")] = DeviceKind.auto,
) -> None:
    """List what there is: workloads, modes, suites, checks, faults, settings of a suite, or the JSON schema of records.

    Examples:
        llmbench list workloads

        llmbench list modes --device cuda

        llmbench list schema > llmbench.schema.json
    """
    rows = _ROWS[what]()
    if what is What.modes:
        rows = _with_here(rows, python, device.value)
    if as_json or what is What.schema:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _table(rows)
        if what is What.modes:
            typer.echo("\nCombine them with +, one of each kind: llmbench run smoke --mode compile+bf16+ac")


def _workloads() -> list[dict[str, Any]]:
    from llmbench.suite.workloads import WORKLOADS

    return [
        {
            "workload": name,
            "parameters": f"{_parameters(w):,}",
            "batch": " × ".join(
                str(w.size.settings[key]) for key in ("micro_batch_size", "sequence_length") if key in w.size.settings
            ),
            "what": w.family.title,
        }
        for name, w in WORKLOADS.items()
    ]


def _parameters(workload: Any) -> int:
    from llmbench.suite import costs

    rank = 8 if workload.family.base else None
    return costs.parameters(workload.family.name, workload.size.model, lora_rank=rank)[0]


def _modes() -> list[dict[str, Any]]:
    from llmbench.suite.modes import COMPOSED, EAGER, FP32, MODES

    rows = [
        {"mode": EAGER, "kind": "", "what": "fp32, as written: the reference of all others", "needs": "nothing"},
        {"mode": FP32, "kind": "precision", "what": "the same as leaving it out: eager is fp32", "needs": "nothing"},
    ]
    return rows + [
        {"mode": mode.name, "kind": mode.axis, "what": mode.title, "needs": mode.needs}
        for mode in (*MODES.values(), *COMPOSED)
    ]


def _with_here(rows: list[dict[str, Any]], python: str, device: str) -> list[dict[str, Any]]:
    """The modes, with whether each can run in an environment: it is asked."""
    import tempfile

    from llmbench.errors import UserError
    from llmbench.launch.prepare import describe
    from llmbench.launch.target import Target

    with tempfile.NamedTemporaryFile(suffix=".log") as log, Target(python) as target:
        try:
            found = describe(target, device, Path(log.name), [row["mode"] for row in rows])["modes"]
        except UserError as error:  # the list is worth showing without torch, too
            return [row | {"here": f"unknown: {error.message}"} for row in rows]
    return [row | {"here": f"no: {found[row['mode']]}" if found[row["mode"]] else "yes"} for row in rows]


def _suites() -> list[dict[str, Any]]:
    from llmbench.suite.cases import resolve
    from llmbench.suite.load import SuiteFile, shipped

    files = [SuiteFile(path) for path in shipped().values()]
    return [{"suite": file.name, "cases": len(resolve(file)), "what": file.suite.description} for file in files]


def _checks() -> list[dict[str, Any]]:
    from llmbench.doctor.checks import all_checks, all_faults

    faults = [fault.check for fault in all_faults()]
    return [
        {"check": check.id, "area": check.area, "faults": faults.count(check.id), "what": check.title}
        for check in all_checks()
    ]


def _faults() -> list[dict[str, Any]]:
    from llmbench.doctor.checks import all_faults

    return [{"fault": fault.id, "verdict": fault.verdict, "what": fault.title} for fault in all_faults()]


def _settings() -> list[dict[str, Any]]:
    from llmbench.suite.load import Settings

    return [
        {"setting": name, "default": "by size" if field.default is None else field.default, "what": field.description}
        for name, field in Settings.model_fields.items()
    ]


def _schema() -> Any:
    from llmbench.results.documents import json_schema

    return json_schema()


_ROWS = {
    What.workloads: _workloads,
    What.modes: _modes,
    What.suites: _suites,
    What.checks: _checks,
    What.faults: _faults,
    What.settings: _settings,
    What.schema: _schema,
}


def _table(rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in columns}
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        typer.echo("  ".join(str(row[name]).ljust(widths[name]) for name in columns).rstrip())
