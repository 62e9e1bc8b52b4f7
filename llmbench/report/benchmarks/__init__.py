"""The page of a JSON file of pytest-benchmark, such as the micro suite writes (``pytest suites/ --benchmark-only``)."""

from __future__ import annotations

from pathlib import Path

from llmbench.report.benchmarks import summary
from llmbench.report.benchmarks.panels import panels
from llmbench.report.benchmarks.table import table
from llmbench.report.benchmarks.views import VERDICTS, groups, inks_by_dtype
from llmbench.report.format import count, timestamp
from llmbench.report.page import plain_json, render
from llmbench.report.verdict import pills
from llmbench.results.benchmarks import BenchmarkFile, read_benchmarks


def benchmarks_page(path: Path) -> str:
    """The HTML of a file that ``pytest --benchmark-json`` or ``--benchmark-save`` wrote.

    Raises:
        UserError: the file cannot be read, or is none of pytest-benchmark's.
    """
    file = read_benchmarks(path)
    found = groups(file)
    seen = sorted((view for group in found for view in group.seen), key=lambda view: view.number)
    return render(
        "benchmarks.html.j2",
        plain_json(file.document | {"run": {"id": path.stem}}),  # names the downloads
        title=f"Benchmarks on {summary.host(file) or 'an unnamed machine'}",
        subtitle=f"{count(len(seen), 'benchmark')} in {count(len(found), 'group')}",
        meta=_meta(file, path),
        pills=pills((view.verdict for view in seen), VERDICTS),
        attention=summary.attention(seen),
        environment=summary.environment(file),
        every_key=summary.every_key(file),
        figures=summary.figures(seen),
        panels=panels(found),
        inks=inks_by_dtype(file),
        table=table(seen),
    )


def _meta(file: BenchmarkFile, path: Path) -> list[str]:
    written = timestamp(file.datetime) if file.datetime else None
    version = f"pytest-benchmark {file.version}" if file.version else None
    return [part for part in (written, version, path.name) if part]
