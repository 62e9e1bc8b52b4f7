"""A diagnosis as annotations of GitHub Actions: workflow commands, one a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.outline import outline, words

_COMMAND = re.compile(r"^(\s*)(?=::|##\[)", re.MULTILINE)


def workflow_commands(document: Mapping[str, Any]) -> str:
    """``::error`` for what fails, ``::warning`` for what warns, and a notice of what it all means."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    for problem in outline(document).problems:
        verdict = problem.finding["verdict"]
        message = "\n".join(f"{label}: {value}" for label, value in words(problem))
        yield _command("warning" if verdict == "warn" else "error", f"llmbench doctor: {problem.id}", message)
    yield _command("notice", "llmbench doctor", str(document.get("headline") or ""))


def _command(name: str, title: str, message: str) -> str:
    """As in GitHub's toolkit: what would end a property or the line is escaped, the percent sign first."""
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    title = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{name} title={title}::{escaped}"


def harmless(text: str) -> str:
    """The text with no line that GitHub would take for a command: what was read from a machine must not give any."""
    return _COMMAND.sub(r"\1| ", text)
