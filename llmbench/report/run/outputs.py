"""Runs as files for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmbench.report.outputs.files import write
from llmbench.report.outputs.markdown import capped
from llmbench.report.run.junit import run_junit
from llmbench.report.run.markdown import run_markdown
from llmbench.results.store import RunFolder


def write_outputs(folders: Sequence[RunFolder], junit: Path | None, markdown: Path | None) -> None:
    """Writes one JUnit file, and one Markdown file, of all these runs; those that are wanted.

    Raises:
        UserError: a folder holds no run, or a file cannot be written.
    """
    if junit:
        write(junit, run_junit(folders))
    if markdown:
        write(markdown, capped("\n".join(map(run_markdown, folders))))
