"""GitHub Actions is told what was found: in the step's summary, and as annotations of the job."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.report.ab import verdicts
from llmbench.report.ab.outputs import ab_markdown
from llmbench.report.format import count, one_line
from llmbench.report.outputs.github import MOST_ANNOTATIONS, annotate, append_summary
from llmbench.report.verdict import CHANGES
from llmbench.stats.ab import BASE_FAILED, AbComparison

_TITLE = "llmbench ab"


def tell(comparison: AbComparison, command: Sequence[str] | None = None) -> None:
    """Adds to the summary, where there is one, and annotates the job, where there is one; else nothing.

    Args:
        command: argv to be shown; that of the comparison unless told.
    """
    append_summary(ab_markdown(comparison, comparison.ab.command if command is None else command))
    for row in comparison.failures[:MOST_ANNOTATIONS]:
        annotate("error", one_line(f"{row.case}: {verdicts.failure(row)}"), _TITLE)
    if comparison.exit_code == BASE_FAILED or (comparison.exit_code and not comparison.failures):
        annotate("error", one_line(verdicts.gate(comparison)), _TITLE)
    elif comparison.undecided:
        kinds = {CHANGES[case.outcome].word: None for case in comparison.undecided}
        told = f"{count(len(comparison.undecided), 'case')} could not be told ({', '.join(kinds)})"
        annotate("warning", told, _TITLE)
