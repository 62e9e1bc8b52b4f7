"""What was found on several nodes, as text and as Markdown: problems by node, each told once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.markdown import problem_lines
from llmbench.doctor.nodes.document import Section, host_labels, sections
from llmbench.doctor.nodes.words import named
from llmbench.doctor.outline import findings, outline, summary
from llmbench.doctor.render import WIDTH, Page
from llmbench.report.outputs.markdown import details, table
from llmbench.report.outputs.markdown import text as escaped


def text(document: Mapping[str, Any], width: int = 80, colours: bool = False, verbose: bool = False) -> str:
    """Draws what ``document.document`` gives.

    Args:
        width: columns.
        colours: whether the reader is a terminal.
        verbose: whether to list the checks between nodes that are fine, with what they found.
    """
    page = Page(max(20, min(width, WIDTH)), colours)
    return "\n".join(_lines(document, page, verbose)) + "\n"


def _lines(document: Mapping[str, Any], page: Page, verbose: bool) -> Iterator[str]:
    yield from page.wrapped(str(document["headline"]), "bold")
    yield ""
    told = sections(document)
    for section in told:
        yield from page.wrapped(f"— {section.title} —", "bold")
        for problem in section.problems:
            yield from page.problem(problem)
            yield ""
    if verbose:
        for check in outline(document).fine:
            for finding in findings(check):
                yield from page.wrapped(f"ok {check['id']}: {finding['evidence']}", "pass")
        yield ""
    fine = quiet(document, told)
    if fine:
        yield from page.wrapped(fine, "dim")
    yield from page.wrapped(f"{_asked(document)}: {summary(document)}. More: llmbench doctor --explain ID", "dim")


def quiet(document: Mapping[str, Any], told: list[Section]) -> str:
    """Who has nothing of its own to mend."""
    blamed = {node for section in told for node in section.nodes if not section.title.startswith("On all")}
    blamed |= {node for section in told for p in section.problems for node in p.finding.get("nodes") or ()}
    fine = [node["node"] for node in document["nodes"] if node["state"] == "there" and node["node"] not in blamed]
    own = " but what all nodes have" if any(section.title.startswith("On all") for section in told) else ""
    return f"Nothing to mend on {named(fine, host_labels(document))}{own}" if fine else ""


def _asked(document: Mapping[str, Any]) -> str:
    most = max((node["asked"] for node in document["nodes"]), default=0)
    between = f"{len(document['checks'])} between them"
    return f"{most} checks on each node, {between}" if most else f"No check on each node, {between}"


def markdown(document: Mapping[str, Any]) -> str:
    """The same as one paste for a bug report."""
    return "\n\n".join(_parts(document)) + "\n"


def _parts(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"### llmbench doctor: {escaped(str(document['headline']))}"
    yield table(("Node", "Host", "State", "Verdict"), [_row(node) for node in document["nodes"]])
    for section in sections(document):
        yield f"#### {escaped(section.title)}"
        for problem in section.problems:
            yield "\n".join(problem_lines(problem))
    rows = [
        (str(f["verdict"]), str(check["id"]), str(f["evidence"]))
        for check in document["checks"]
        for f in findings(check)
    ]
    yield details(f"{_asked(document)}: {summary(document)}", table(("Verdict", "Check", "Found"), rows))


def _row(node: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return str(node["node"]), str(node["host"] or "?"), str(node["reason"] or node["state"]), str(node["verdict"])
