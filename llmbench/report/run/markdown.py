"""A run as Markdown, for the summary of a CI step or a comment: verdict, what is wrong and why, then every case."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from llmbench.report import environment
from llmbench.report.format import NOTHING, shorten
from llmbench.report.outputs.markdown import Markdown, block, capped, code, details, spans, table, text
from llmbench.report.run.cases import CaseView, read_cases
from llmbench.report.run.heading import meta, title
from llmbench.report.run.matrix import Matrix, matrix
from llmbench.report.run.summary import attention, figures, names, resume_command, unmeasured
from llmbench.report.run.table import table as all_cases
from llmbench.report.verdict import VERDICTS, pills
from llmbench.results.nodes import difference_lines
from llmbench.results.redact import redact
from llmbench.results.schema import Run
from llmbench.results.store import RunFolder

_LONGEST = 300  # characters of what stands in one cell


def run_markdown(folder: RunFolder) -> str:
    """At most 64 KiB; of more, the first lines.

    Raises:
        UserError: the folder holds no run.
    """
    run = folder.recorded_run()
    cases = read_cases(folder, run)
    return capped("\n\n".join(filter(None, _parts(run, cases, str(folder.path)))) + "\n")


def verdict_line(run: Run, cases: Sequence[CaseView]) -> str:
    """``✖ smoke on node-17: 1 out of memory, 1 noisy, 14 passed``"""
    said = pills((case.verdict for case in cases), VERDICTS)
    ended = {case.verdict.key for case in cases}
    symbol = next((one.symbol for one in VERDICTS.values() if one.key in ended - {"skipped"}), "–")
    return f"{symbol} {title(run)}: {', '.join(pill.text for pill in said) or 'no case'}"


def _parts(run: Run, cases: Sequence[CaseView], path: str) -> Iterator[str]:
    speeds = matrix(cases)
    yield f"### {text(verdict_line(run, cases))}"
    yield text(" · ".join(meta(run)))
    yield block(redact("\n".join(_commands(run, cases, path))), "sh")
    lines, more = difference_lines(run.nodes)
    yield "\n".join(f"- ! {text(line)}" for line in [*lines, *([f"and {more} more"] if more else [])])
    yield _attention(run, cases, path)
    yield "\n".join(
        f"- **{text(figure.value)}** {text(figure.label)}{_note(figure.note)}"
        for figure in figures(cases, speeds)
        if figure.value != NOTHING
    )
    yield details(f"All cases: {len(cases)}", _every_case(cases, speeds))
    yield details("Environment", _environment(run, path))


def _commands(run: Run, cases: Sequence[CaseView], path: str) -> list[str]:
    """How it was run; and how to run what failed or is missing, where anything is."""
    bad = any(case.verdict.tone == "bad" or case.verdict.key == "missing" for case in cases)
    return [shlex.join(run.command), *([resume_command(path)] if bad else [])]


def _attention(run: Run, cases: Sequence[CaseView], path: str) -> str:
    """What needs attention; what was skipped is no fault, and stands among all cases."""
    groups = [group for group in attention(cases, run, path) if group.verdict.key != "skipped"]
    if not groups:
        return ""
    rows = [
        (
            f"{group.verdict.symbol} {group.verdict.word}",
            code(shorten(names(group.cases), _LONGEST)),
            spans(redact(group.cause)),
            spans(redact(group.hint or "")),
        )
        for group in groups
    ]
    return table(("", "Case", "Cause", "What helps"), rows)


def _note(note: str) -> str:
    return f" ({text(note)})" if note else ""


def _every_case(cases: Sequence[CaseView], speeds: Matrix) -> str:
    ran = [case for case in cases if case.verdict.key not in ("skipped", "missing")]
    calm = unmeasured(cases)
    found = all_cases(ran, calm, speeds.speedups())
    rows = [
        (f"{row.case.verdict.symbol} {row.case.verdict.word}", code(row.case.id), *(cell.text for cell in row.cells))
        for row in found.rows
    ]
    whole = table(("", "Case", *found.titles), rows, numbers=range(2, 2 + len(found.titles)))
    groups = "\n".join(
        f"- {group.verdict.symbol} {group.verdict.word} {len(group.cases)}: "
        f"{code(shorten(group.names, _LONGEST))}: {spans(redact(group.cause))}"
        for group in calm
    )
    return "\n\n".join(part for part in (whole if rows else "", groups) if part)


def _environment(run: Run, path: str) -> Markdown:
    lines = [(name, text(redact(value))) for name, value in environment.summary(run)]
    return table(("", ""), [*lines, ("Folder", code(path))])
