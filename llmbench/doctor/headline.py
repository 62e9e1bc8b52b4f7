"""The first line: what the diagnosis means for training."""

from __future__ import annotations

from typing import Any

from llmbench.doctor.checks.registry import title_of
from llmbench.doctor.model import Check, Diagnosis, Finding

# Where one of these fails, nothing trains.
_ESSENTIAL = ("python", "torch", "numerics")
_GPU = ("cuda",)


def headline(diagnosis: Diagnosis) -> str:
    """One sentence."""
    failures = diagnosis.of("fail")
    for areas, meaning in (
        (_ESSENTIAL, "This install will not train"),
        (_GPU, "This install will not train on the GPU"),
    ):
        decisive = [pair for pair in failures if pair[0].area in areas]
        if decisive:
            return f"{meaning}: {_reason(decisive[0])}{_more(len(failures) - 1)}"
    if failures:
        return f"Training will run into trouble: {_reason(failures[0])}{_more(len(failures) - 1)}"
    unknown = diagnosis.of("incomplete")
    if unknown:
        return f"Not everything could be checked: {_reason(unknown[0])}{_more(len(unknown) - 1)}"
    return _ready(diagnosis) + _warnings(diagnosis)


def _reason(pair: tuple[Check, Finding]) -> str:
    """The title of the fault: its cause and evidence are told below."""
    check, finding = pair
    return title_of(finding.fault) or finding.cause or f"{check.id}: {finding.evidence}"


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""


def _ready(diagnosis: Diagnosis) -> str:
    torch: Any = diagnosis.facts.get("torch") or {}
    if not torch.get("version"):
        areas = ", ".join(dict.fromkeys(answer.check.area for answer in diagnosis.answers))
        return f"Nothing fails in {areas}" if diagnosis.counts["warn"] else f"No fault found in {areas}"
    return f"Ready to train {_device(diagnosis)} with torch {torch['version']}{_compile(diagnosis)}"


def _warnings(diagnosis: Diagnosis) -> str:
    count = diagnosis.counts["warn"]
    return f"; {count} warning{'s' if count > 1 else ''}" if count else ""


def _device(diagnosis: Diagnosis) -> str:
    devices = diagnosis.facts.get("devices")
    if not devices:
        return "on the CPU"
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    return f"on {count}{devices[0]['name']}"


def _compile(diagnosis: Diagnosis) -> str:
    verdicts = {answer.check.id: answer.verdict for answer in diagnosis.answers}
    if diagnosis.facts.get("compile_works"):
        compiler: Any = diagnosis.facts.get("compiler") or {}
        return f"; torch.compile works ({compiler['short']})" if compiler.get("short") else "; torch.compile works"
    if verdicts.get("compile.compiler") == "warn":
        return "; no C++ compiler, so torch.compile will be skipped"
    return ""
