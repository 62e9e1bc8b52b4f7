"""The first line: what the diagnosis means for training."""

from __future__ import annotations

from llmbench.doctor.model import Check, Diagnosis, Finding

# Where one of these fails, nothing trains.
_ESSENTIAL = ("python", "torch", "numerics")


def headline(diagnosis: Diagnosis) -> str:
    """One sentence."""
    failures = diagnosis.of("fail", "incomplete")
    essential = [pair for pair in failures if pair[0].area in _ESSENTIAL and pair[1].verdict == "fail"]
    if essential:
        return f"This install will not train: {_reason(essential[0])}"
    if failures:
        others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        return f"Training will run into trouble: {_reason(failures[0])}{others}"
    if "torch" not in diagnosis.facts:
        return f"No fault found in {', '.join(dict.fromkeys(answer.check.area for answer in diagnosis.answers))}"
    return f"Ready to train {_device(diagnosis)} with torch {diagnosis.facts['torch']['version']}{_compile(diagnosis)}"


def _reason(pair: tuple[Check, Finding]) -> str:
    check, finding = pair
    return finding.cause or f"{check.id}: {finding.evidence}"


def _device(diagnosis: Diagnosis) -> str:
    devices = diagnosis.facts.get("devices")
    if not devices:
        return "on the CPU"
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    return f"on {count}{devices[0]['name']}"


def _compile(diagnosis: Diagnosis) -> str:
    verdicts = {answer.check.id: answer.verdict for answer in diagnosis.answers}
    if diagnosis.facts.get("compile_works"):
        return f"; torch.compile works ({diagnosis.facts['compiler']['short']})"
    if verdicts.get("compile.compiler") == "warn":
        return "; no C++ compiler, so torch.compile will be skipped"
    return ""
