"""A diagnosis as annotations of GitHub Actions: workflow commands, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.outline import outline, words
from llmbench.report.outputs.github import command


def workflow_commands(document: Mapping[str, Any]) -> str:
    """``::error`` for what fails, ``::warning`` for what warns, and a notice of what it all means."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    for problem in outline(document).problems:
        verdict = problem.finding["verdict"]
        message = "\n".join(f"{label}: {value}" for label, value in words(problem))
        yield command("warning" if verdict == "warn" else "error", message, f"llmbench doctor: {problem.id}")
    yield command("notice", str(document.get("headline") or ""), "llmbench doctor")
