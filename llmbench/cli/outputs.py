"""Files that a command writes beside its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outputs:
    """What is told of a run or a comparison beside its report.

    Attributes:
        json: one document on stdout, and nothing else.
    """

    json: bool = False
    junit: Path | None = None
    markdown: Path | None = None
    benchmarks: Path | None = None
    html: Path | None = None

    def check(self, *, plan: bool) -> None:
        """Before anything long begins.

        Raises:
            UserError: a file cannot be written, or there will be nothing that it could tell of.
        """
        from llmbench.errors import UserError
        from llmbench.report.outputs.files import check_writable

        files = {
            "junit": self.junit, "markdown": self.markdown, "benchmark-json": self.benchmarks, "html": self.html
        }  # fmt: skip
        asked = [f"--{name}" for name, file in files.items() if file]
        if plan and asked:
            raise UserError(f"--plan does nothing that {' or '.join(asked)} could tell of", "leave one of them out")
        check_writable(**files)
