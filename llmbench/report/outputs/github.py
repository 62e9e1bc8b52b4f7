"""GitHub Actions: annotations, and the summary of a step. Standard library only: doctor needs it.

Forgejo and Gitea set the same variables and read the same commands.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Literal

from llmbench.report.outputs.markdown import LIMIT, capped

Level = Literal["error", "warning", "notice"]

SUMMARY_LIMIT = 1024 * 1024
"""Bytes of the summary of one step, of all that write to it; GitHub takes nothing of a longer one."""
MOST_ANNOTATIONS = 10
"""Of one level in one step: GitHub leaves out the others."""

_LEAST = 1024  # bytes: in less room nothing can be told
_COMMAND = re.compile(r"^(\s*)(?=::|##\[)", re.MULTILINE)


def on_actions() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def has_summary() -> bool:
    return bool(os.environ.get("GITHUB_STEP_SUMMARY"))


def command(level: Level, message: str, title: str) -> str:
    """A workflow command. As in GitHub's toolkit, what would end a property or the line is escaped, ``%`` first."""
    return f"::{level} title={_escaped(title).replace(':', '%3A').replace(',', '%2C')}::{_escaped(message)}"


def annotate(level: Level, message: str, title: str) -> None:
    """Annotates the job, on stderr, where the runner listens too; nothing outside of GitHub Actions."""
    if on_actions() and sys.stderr is not None:
        print(command(level, message, title), file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """The text with no line that GitHub would take for a command: what was read from a machine must not give any."""
    return _COMMAND.sub(r"\1| ", text)


def append_summary(document: str) -> bool:
    """Appends Markdown to the summary of the step, at most 64 KiB, where there is one: ``GITHUB_STEP_SUMMARY``.

    A file that cannot be written, or is full, is a warning on stderr.

    Returns:
        Whether it was appended.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return False
    try:
        with open(path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            room = min(LIMIT, SUMMARY_LIMIT - size - 1)
            if room < _LEAST:
                return _warn(f"full, with {size:,} bytes")
            if size:
                file.seek(size - 1)
                before = b"" if file.read(1) == b"\n" else b"\n"
            else:
                before = b""
            file.write(before + capped(document, room).encode(errors="replace"))
        return True
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        return _warn(getattr(error, "strerror", None) or str(error))


def _warn(why: str) -> bool:
    if sys.stderr is not None:
        print(f"llmbench: GITHUB_STEP_SUMMARY: {why}", file=sys.stderr)
    return False


def _escaped(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
