"""JUnit XML, as Jenkins, GitLab, GitHub and junitparser read it. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from llmbench.report.untrusted import printable


@dataclass(frozen=True)
class Problem:
    """What went wrong.

    Attributes:
        type: of the exception, or the verdict.
        message: one line.
        text: all that is known, in lines.
    """

    type: str
    message: str
    text: str = ""


@dataclass(frozen=True)
class Case:
    """A test case: passed, unless it says otherwise.

    Attributes:
        failure: what was tested is wrong.
        error: it could not be tested.
        skipped: why it does not apply.
        output: what it wrote, and how to run it again.
    """

    name: str
    classname: str
    seconds: float = 0.0
    properties: Mapping[str, str] = field(default_factory=dict)
    failure: Problem | None = None
    error: Problem | None = None
    skipped: str | None = None
    output: str = ""


@dataclass(frozen=True)
class Suite:
    """Test cases that ran together.

    Attributes:
        seconds: from begin to end; None: the sum over the cases.
        timestamp: of the begin, ISO 8601.
    """

    name: str
    cases: Sequence[Case]
    properties: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    timestamp: str | None = None
    hostname: str | None = None


def junit_xml(suites: Iterable[Suite]) -> str:
    """The document. Characters that XML forbids are shown as their escapes; a time that is not finite counts as 0."""
    suites = list(suites)
    root = ElementTree.Element("testsuites", _counts([case for suite in suites for case in suite.cases]))
    root.set("name", "llmbench")
    root.set("time", _seconds(sum(map(_of_suite, suites))))
    for suite in suites:
        root.append(_suite(suite))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(suite: Suite) -> ElementTree.Element:
    element = ElementTree.Element("testsuite", {"name": printable(suite.name)} | _counts(suite.cases))
    element.set("time", _seconds(_of_suite(suite)))
    for name, value in (("timestamp", suite.timestamp), ("hostname", suite.hostname)):
        if value:
            element.set(name, printable(value))
    _add_properties(element, suite.properties)
    for case in suite.cases:
        element.append(_case(case))
    return element


def _case(case: Case) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase", name=printable(case.name), classname=printable(case.classname), time=_seconds(case.seconds)
    )
    _add_properties(element, case.properties)
    if case.skipped is not None:
        ElementTree.SubElement(element, "skipped", message=printable(case.skipped))
    for tag, problem in (("error", case.error), ("failure", case.failure)):
        if problem is not None:
            found = ElementTree.SubElement(
                element, tag, type=printable(problem.type), message=printable(problem.message)
            )
            found.text = printable(problem.text) or None
    if case.output:
        ElementTree.SubElement(element, "system-out").text = printable(case.output)
    return element


def _add_properties(element: ElementTree.Element, properties: Mapping[str, str]) -> None:
    if properties:
        parent = ElementTree.SubElement(element, "properties")
        for name, value in properties.items():
            ElementTree.SubElement(parent, "property", name=printable(name), value=printable(value))


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.failure is not None for case in cases)),
        "errors": str(sum(case.error is not None for case in cases)),
        "skipped": str(sum(case.skipped is not None for case in cases)),
    }


def _of_suite(suite: Suite) -> float:
    if suite.seconds is not None and math.isfinite(suite.seconds):
        return suite.seconds
    return sum(case.seconds for case in suite.cases if math.isfinite(case.seconds))


def _seconds(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) and value > 0 else "0.000"
