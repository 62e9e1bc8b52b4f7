"""Runs as JUnit: a test suite for each, a test case for each of its cases, its metrics as properties."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmbench.report import environment
from llmbench.report.format import shorten
from llmbench.report.outputs.junit import Case, Problem, Suite, junit_xml
from llmbench.report.run.cases import CaseView, read_cases
from llmbench.report.run.heading import wall_seconds
from llmbench.report.run.matrix import matrix
from llmbench.report.run.speedup import Speedup
from llmbench.report.run.summary import explain, resume_command, why_missing
from llmbench.results.redact import redact
from llmbench.results.schema import BROKEN, Part, Record, Run
from llmbench.results.store import RunFolder

_LONGEST = 16_000  # characters of an error's text


def run_junit(folders: Sequence[RunFolder]) -> str:
    """The document: one suite for each run.

    Raises:
        UserError: a folder holds no run.
    """
    runs = [(folder, folder.recorded_run()) for folder in folders]
    amounts = Counter(run.suite for _, run in runs)
    return junit_xml(
        _suite(folder, run, run.suite if amounts[run.suite] == 1 else f"{run.suite}@{folder.path}")
        for folder, run in runs
    )


def metrics(part: Part, before: str = "") -> dict[str, str]:
    """Each metric of the schema that there is, by its place in the record: ``throughput.value``."""
    found: dict[str, str] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        extra = field.json_schema_extra
        if isinstance(value, Part):
            found |= metrics(value, f"{before}{name}.")
        elif value is not None and isinstance(extra, Mapping) and "direction" in extra:
            found[before + name] = str(value)
    return found


def _suite(folder: RunFolder, run: Run, name: str) -> Suite:
    cases = read_cases(folder, run)
    speedups = matrix(cases).speedups()
    return Suite(
        name=name,
        cases=[_case(case, name, run, folder, speedups.get(case.id)) for case in cases],
        properties={
            "run": run.id,
            "folder": str(folder.path),
            "command": redact(shlex.join(run.command)),
            "status": run.status,
        }
        | {key.lower(): redact(value) for key, value in environment.summary(run)},
        seconds=wall_seconds(run),
        timestamp=run.started_at,
        hostname=environment.host(run),
    )


def _case(case: CaseView, suite: str, run: Run, folder: RunFolder, speedup: Speedup | None) -> Case:
    mode = f"{case.column.mode}/ws{case.column.world_size}"
    record = case.record
    common = Case(
        name=f"{mode}/{case.variant}" if case.variant else mode,
        classname=f"{suite}.{case.workload}",
        seconds=record.wall_seconds or 0.0 if record else 0.0,
        properties=_properties(case, speedup),
    )
    if record is None:
        again = f"Continue the run: {resume_command(str(folder.path))}"
        return replace(common, error=Problem("NotRun", why_missing(run)), output=again)
    if record.status == "skipped":
        cause, hint = explain(case)
        return replace(common, skipped=redact(f"{cause}. {hint}" if hint else cause))
    output = "\n".join([*(redact(line) for line in case.log), f"Run it again: {redact(case.rerun)}"])
    if record.status == "aborted":
        return replace(common, error=_problem(case, record), output=output)
    if record.status in BROKEN:
        return replace(common, failure=_problem(case, record), output=output)
    return replace(common, output=output)


def _problem(case: CaseView, record: Record) -> Problem:
    cause, hint = explain(case)
    error = record.error
    if error is None:
        return Problem(case.verdict.word, redact(cause), "")
    place = f"rank {error.rank}" + (f" on {error.host}" if error.host else "") if error.rank is not None else ""
    lines = filter(None, (shorten(error.message, _LONGEST), place, hint))
    return Problem(error.type, redact(cause), redact("\n".join(lines)))


def _properties(case: CaseView, speedup: Speedup | None) -> dict[str, str]:
    """The verdict, every metric, and what it takes to judge them."""
    record = case.record
    found = {"verdict": case.verdict.word}
    if record is None:
        return found
    found |= metrics(record)
    found |= {f"metrics.{name}": str(value) for name, value in record.metrics.items() if value is not None}
    if record.throughput:
        low, high = record.throughput.ci95
        found |= {
            "throughput.unit": record.throughput.unit,
            "throughput.ci95": f"{low} {high}",
            "throughput.n": str(record.throughput.n),
        }
    if speedup:
        found["speedup_over_eager"] = f"{speedup.value:.4g}"
    if record.parity:
        found |= {
            "parity.verdict": record.parity.verdict,
            "parity.value": str(record.parity.value),
            "parity.limit": str(record.parity.limit),
        }
    if record.noise:
        found |= {"noise.verdict": record.noise.verdict, "noise.cv": str(record.noise.cv)}
        if record.noise.cause:
            found["noise.cause"] = redact(record.noise.cause)
    return found
