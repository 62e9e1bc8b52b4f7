"""A run in GitHub Actions: annotations of what went wrong, and the summary of the step."""

from __future__ import annotations

from llmbench.report.format import count
from llmbench.report.outputs.github import MOST_ANNOTATIONS, Level, annotate, append_summary, has_summary, on_actions
from llmbench.report.run.cases import read_cases
from llmbench.report.run.markdown import run_markdown
from llmbench.report.run.summary import Attention, attention, names
from llmbench.results.redact import redact
from llmbench.results.store import RunFolder


def tell_github(folder: RunFolder) -> None:
    """Annotates what failed, was not run or cannot be trusted; appends the run to the summary. Elsewhere nothing."""
    if on_actions():
        _annotate(folder)
    if has_summary():
        append_summary(run_markdown(folder))


def _annotate(folder: RunFolder) -> None:
    run = folder.recorded_run()
    groups = [
        group for group in attention(read_cases(folder, run), run, str(folder.path)) if group.verdict.key != "skipped"
    ]
    warnings = [group for group in groups if group.verdict.tone == "warn"]
    _tell("error", run.suite, [group for group in groups if group not in warnings])
    _tell("warning", run.suite, warnings)


def _tell(level: Level, suite: str, groups: list[Attention]) -> None:
    """The first groups, the last of them with how many more there are: GitHub shows no more."""
    for number, group in enumerate(groups[:MOST_ANNOTATIONS], start=1):
        lines = [group.cause, group.hint or ""]
        if len(group.cases) == 1 and group.cases[0].record is not None:
            lines.append(f"again: {group.cases[0].rerun}")
        if number == MOST_ANNOTATIONS < len(groups):
            lines.append(f"… and {count(len(groups) - MOST_ANNOTATIONS, 'more cause', 'more causes')}")
        title = f"llmbench {suite}: {group.verdict.word}: {names(group.cases)}"
        annotate(level, redact("\n".join(filter(None, lines))), title)
