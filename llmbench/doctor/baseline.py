"""Compares a diagnosis with one of a machine that is known to be right (``--baseline``)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbench.doctor.checks import all_checks
from llmbench.doctor.checks.baseline import DIFFERS, MISSING, WORSE
from llmbench.doctor.facts import flatten
from llmbench.doctor.model import SCHEMA_VERSION, VERDICTS, Answer, Diagnosis, Finding, clean, passed
from llmbench.errors import UserError

ID = "baseline.same"

VOLATILE = (
    (r"(^|[._])seconds$|[._]ms$|[._]us$", "times differ from run to run"),
    (
        r"(^|[._])(available|free|used|cached|load|loadavg|utilization)([._]bytes|[.]|$)",
        "changes with what runs beside",
    ),
    (r"(^|[._])(pids?|ppid|uptime|boot_id|time|now|port|date|started_at)([._]|$)", "of this moment"),
    (r"(^|[._])(uuid|serial|bus_id|pci_bus_id|machine_id|minor)([._]|$)", "of this piece of hardware"),
    (r"(^|[._])(host|hostname|addresses?|name\.name|fqdn|ip|mac)([._]|$)", "of this machine's place in the network"),
    (
        r"^(?!storage\.file_systems).*(^|[._])(executable|prefix|file|path|origin|folders?|home|cwd|include|scripts)$",
        "where things lie, not what they are",
    ),
    (r"^packages\.requirements", "follows from the versions, which are compared"),
    (r"temperature|celsius|watts?([._]|$)|power_draw|clocks?[._](?!max)|throttl|(^|[._])fan", "changes with the work"),
    (r"(^|[._])(errors?|counters?|corrected|replay)([._]|$)", "counts up; its check judges it"),
    (r"^numerics\.|worst_of|relative_error|bandwidth|gb_per_s|tflops", "measured; its check judges it"),
)
"""Facts that are not compared, and why: patterns of their dotted names."""

_VOLATILE = re.compile("|".join(f"(?:{pattern})" for pattern, _ in VOLATILE))
_VOLATILE_VARIABLES = re.compile(
    r"^(SLURM_|PET_|RANK$|LOCAL_RANK$|GROUP_RANK$|NODE_RANK$|WORLD_SIZE$|LOCAL_WORLD_SIZE$|MASTER_ADDR$|MASTER_PORT$"
    r"|TORCHELASTIC_|CONDA_PREFIX$|VIRTUAL_ENV$|PYTHONPATH$|TMPDIR$|LLMBENCH_)"
)
"""Of this job, or where things lie."""
_NEARLY = 0.02
"""Sizes in bytes of two equal machines differ by what firmware and kernel keep for themselves."""


@dataclass(frozen=True)
class Baseline:
    """The document of another run.

    Attributes:
        name: of its file, as given.
        facts, environment: as in the document.
        checks: by id.
    """

    name: str
    facts: Mapping[str, Any]
    environment: Mapping[str, str]
    checks: Mapping[str, Mapping[str, Any]]


def load(file: Path) -> Baseline:
    """Reads what ``llmbench doctor --json`` has printed.

    Raises:
        UserError: it cannot be read, or is no such document; names file, line and field.
    """
    hint = "record it on the other machine: llmbench doctor --json > golden.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--baseline {file}: {error.strerror}", hint) from None
    except json.JSONDecodeError as error:
        raise UserError(f"--baseline {file}: line {error.lineno} column {error.colno}: {error.msg}", hint) from None
    except (UnicodeDecodeError, RecursionError):
        raise UserError(f"--baseline {file}: line 1: this is no JSON in UTF-8", hint) from None
    try:
        return _baseline(str(file), document)
    except _WrongFieldError as error:
        raise UserError(f"--baseline {file}: {error}", hint) from None


class _WrongFieldError(Exception):
    pass


def _baseline(name: str, document: Any) -> Baseline:
    _expect(document, dict, "the document")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise _WrongFieldError(f"schema_version is {version!r}, this llmbench reads {SCHEMA_VERSION}")
    checks = {}
    for number, check in enumerate(_expect(document.get("checks"), list, "checks")):
        field = f"checks[{number}]"
        _expect(check, dict, field)
        checks[_expect(check.get("id"), str, f"{field}.id")] = check
        if check.get("verdict") not in VERDICTS:
            raise _WrongFieldError(f"{field}.verdict is {check.get('verdict')!r}, not one of {', '.join(VERDICTS)}")
        for place, finding in enumerate(_expect(check.get("findings"), list, f"{field}.findings")):
            _expect(finding, dict, f"{field}.findings[{place}]")
    facts = _expect(document.get("facts"), dict, "facts")
    return Baseline(name, facts, _expect(document.get("environment"), dict, "environment"), checks)


def _expect(value: Any, kind: type, field: str) -> Any:
    if not isinstance(value, kind):
        words = {"dict": "an object", "list": "a list", "str": "a text"}
        raise _WrongFieldError(f"{field} is {'missing' if value is None else f'not {words[kind.__name__]}'}")
    return value


def compared(diagnosis: Diagnosis, baseline: Baseline) -> Diagnosis:
    """The diagnosis with the answer of ``baseline.same`` at its end."""
    check = next(check for check in all_checks() if check.id == ID)
    others = tuple(answer for answer in diagnosis.answers if answer.check.id != ID)
    rest = replace(diagnosis, answers=others)
    found = [*_checks(rest, baseline), *_facts(rest, baseline), *_variables(rest, baseline)]
    if not any(finding.verdict != "pass" for finding in found):
        found.append(passed(f"{len(others)} checks and their facts are as in {baseline.name}"))
    return replace(diagnosis, answers=(*others, Answer(check, tuple(found), 0.0)))


def _checks(diagnosis: Diagnosis, baseline: Baseline) -> Iterator[Finding]:
    for answer in diagnosis.answers:
        there = baseline.checks.get(answer.check.id)
        if there is not None:
            yield from _check(answer, there, baseline.name)


def _check(answer: Answer, there: Mapping[str, Any], name: str) -> Iterator[Finding]:
    id, before, now = answer.check.id, there["verdict"], answer.verdict
    new = [finding for finding in answer.findings if finding.verdict in ("fail", "incomplete", "warn")]
    known = {finding.get("fault") for finding in there["findings"]}
    for finding in new:
        label = finding.fault or id
        if finding.verdict != "warn" and before in ("pass", "warn"):
            yield WORSE.found(
                f"{id}: {before} in {name}, {finding.verdict} here ({label}: {finding.evidence})", check=label
            )
        elif finding.fault not in known and before not in ("skip", "incomplete"):
            yield DIFFERS.found(f"{label} is found here, and not in {name}: {finding.evidence}")
    if now == "skip" and before == "pass" and not any(finding.root for finding in answer.findings):
        yield MISSING.found(f"{id}: pass in {name}, does not apply here: {answer.findings[0].evidence}")
    here = {finding.fault for finding in answer.findings}
    gone = [finding for finding in there["findings"] if finding.get("fault") and finding["fault"] not in here]
    for finding in gone:
        if now in ("pass", "warn", "fail"):
            yield passed(f"{finding['fault']} is in {name}, and not here")


def _facts(diagnosis: Diagnosis, baseline: Baseline) -> Iterator[Finding]:
    # As they would be read again: redacted, and in JSON's types.
    here, there = clean(diagnosis.facts), baseline.facts
    asked = {answer.check.id for answer in diagnosis.answers}
    known = {check.id for check in all_checks()}
    all_asked = not (set(baseline.checks) & known) - asked - {ID}
    yield from _difference("", there, here, baseline.name, all_asked)


def _difference(key: str, there: Any, here: Any, name: str, all_asked: bool) -> Iterator[Finding]:
    """What differs at and below a fact. What is gone as a whole is told once."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for part in there:
            below = f"{key}.{part}" if key else str(part)
            if _VOLATILE.search(below):
                continue
            if part in here:
                yield from _difference(below, there[part], here[part], name, all_asked)
            elif all_asked and there[part] not in (None, [], {}):
                yield MISSING.found(f"{below}: {_shown(there[part])} in {name}, not known here")
    elif isinstance(there, list) and isinstance(here, list) and any(isinstance(item, Mapping) for item in there):
        if len(there) != len(here):
            fault = MISSING if len(here) < len(there) else DIFFERS
            yield fault.found(f"{key}: {len(there)} in {name}, {len(here)} here")
        for number, (old, new) in enumerate(zip(there, here, strict=False)):
            yield from _difference(f"{key}.{number}", old, new, name, all_asked)
    elif there not in (None, [], {}) and here in (None, [], {}):
        yield MISSING.found(f"{key}: {_shown(there)} in {name}, none here")
    elif not _alike(key, there, here):
        yield DIFFERS.found(f"{key}: {_shown(there)} in {name}, {_shown(here)} here")


def _alike(key: str, there: Any, here: Any) -> bool:
    numbers = [value for value in (there, here) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2 and ("bytes" in key or any(isinstance(value, float) for value in numbers)):
        return abs(numbers[0] - numbers[1]) <= _NEARLY * max(map(abs, numbers))
    return bool(there == here)


def _variables(diagnosis: Diagnosis, baseline: Baseline) -> Iterator[Finding]:
    here = clean(diagnosis.environment)
    for variable in sorted({*here, *baseline.environment}):
        there, now = baseline.environment.get(variable), here.get(variable)
        if there != now and not _VOLATILE_VARIABLES.search(variable):
            shown = [f"{variable}={value}" if value is not None else f"{variable} is not set" for value in (there, now)]
            yield DIFFERS.found(f"{shown[0]} in {baseline.name}, {shown[1].removeprefix(f'{variable} ')} here")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        flat = flatten(value) if isinstance(value, Mapping) else {}
        text = ", ".join(f"{key} {item}" for key, item in flat.items()) or json.dumps(value)
        return text if len(text) <= 120 else f"{text[:117]}..."
    return "none" if value is None else str(value)
