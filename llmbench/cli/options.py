"""Choices that options offer, and options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DeviceKind(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ProgressKind(StrEnum):
    """auto: live in a terminal, else a line a case."""

    auto = "auto"
    live = "live"
    plain = "plain"
    none = "none"


JunitFile = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML for a CI server to this file.")
]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown for a comment to this file.")
]
BenchmarkFile = Annotated[
    Path | None,
    typer.Option(
        "--benchmark-json", metavar="FILE", help="Write the step times to this file, in the form of pytest-benchmark."
    ),
]
