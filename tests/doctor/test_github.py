"""Annotations, as GitHub's runner reads them."""

from __future__ import annotations

import re

from llmbench.doctor.github import workflow_commands
from llmbench.doctor.model import Finding, passed
from llmbench.report.outputs.github import harmless

from .made import diagnosis, failed, warned

COMMAND = re.compile(r"^::(?P<name>\w+) title=(?P<title>[^,:]*)::(?P<message>.*)$")


def read(line: str) -> tuple[str, str, str]:
    """Undoes what the toolkit's ``command.ts`` does."""
    match = COMMAND.match(line)
    assert match, line
    title, message = match["title"], match["message"]
    for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        title = title.replace(code, character)
        if character not in ":,":
            message = message.replace(code, character)
    return match["name"], title, message


def commands(*found: tuple[str, Finding]) -> list[tuple[str, str, str]]:
    return [read(line) for line in workflow_commands(diagnosis(*found).to_json()).splitlines()]


def test_failures_are_errors_and_warnings_warnings() -> None:
    told = commands(
        ("a.fine", passed("")),
        ("a.warned", warned("50% full, see a:b\nand more")),
        ("a.unknown", Finding("incomplete", "it broke")),
        ("a.broken", failed("gone", "why", "do this", fault="a.broken.so")),
    )
    assert [(name, title) for name, title, _ in told] == [
        ("error", "llmbench doctor: a.broken.so"),
        ("error", "llmbench doctor: a.unknown"),
        ("warning", "llmbench doctor: a.warned"),
        ("notice", "llmbench doctor"),
    ]
    assert told[0][2] == "found: gone\ncause: why\nfix: do this"
    assert told[2][2].startswith("found: 50% full, see a:b\nand more\n")
    assert told[3][2] == "Training will run into trouble: why"


def test_what_looks_escaped_stays_as_it_is() -> None:
    ((_, _, message), _) = commands(("a.b", warned("%0A %25 %3A")))
    assert message.startswith("found: %0A %25 %3A\n")


def test_text_of_a_machine_gives_no_commands() -> None:
    text = "fine\n::stop-commands::x\n   ::error::y\n##[error]z\na::b\n"
    assert harmless(text) == "fine\n| ::stop-commands::x\n   | ::error::y\n| ##[error]z\na::b\n"
