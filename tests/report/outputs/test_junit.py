"""JUnit, read back by a parser of XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report.outputs.junit import Case, Problem, Suite, junit_xml
from llmbench.report.untrusted import printable

CASES = [
    Case("eager/ws1", "smoke.gpt-tiny", 2.5, {"throughput.value": "11240"}),
    Case("bf16/ws1", "smoke.gpt-tiny", 1.25, failure=Problem("Invalid", "it strays", "all\nof it"), output="a log"),
    Case("fp8/ws1", "smoke.gpt-tiny", skipped="needs a CUDA device"),
    Case("ddp/ws2", "smoke.gpt-tiny", math.nan, error=Problem("NotRun", "interrupted")),
]


def read(*suites: Suite) -> ElementTree.Element:
    return ElementTree.fromstring(junit_xml(suites).encode())


def test_every_outcome_has_its_element_and_is_counted() -> None:
    root = read(Suite("smoke", CASES, {"run": "1"}, None, "2026-11-22T08:12:04", "node-17"), Suite("ci", CASES[:1]))
    counted = {"tests": "5", "failures": "1", "errors": "1", "skipped": "1", "time": "6.250"}
    assert counted.items() <= root.attrib.items()
    first, second = root.findall("testsuite")
    assert first.attrib == {
        "name": "smoke",
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
        "time": "3.750",
        "timestamp": "2026-11-22T08:12:04",
        "hostname": "node-17",
    }
    assert first.find("properties/property").attrib == {"name": "run", "value": "1"}
    eager, bf16, fp8, ddp = first.findall("testcase")
    assert eager.attrib == {"name": "eager/ws1", "classname": "smoke.gpt-tiny", "time": "2.500"}
    assert [child.tag for child in eager] == ["properties"]
    assert eager.find("properties/property").attrib == {"name": "throughput.value", "value": "11240"}
    assert bf16.find("failure").attrib == {"type": "Invalid", "message": "it strays"}
    assert bf16.find("failure").text == "all\nof it"
    assert bf16.find("system-out").text == "a log"
    assert fp8.find("skipped").attrib == {"message": "needs a CUDA device"}
    assert ddp.find("error").attrib == {"type": "NotRun", "message": "interrupted"}
    assert ddp.get("time") == "0.000"
    assert second.get("tests") == "1"


def test_a_suite_tells_its_own_time_where_it_knows_it() -> None:
    assert read(Suite("smoke", CASES, seconds=9.0)).find("testsuite").get("time") == "9.000"
    assert read(Suite("smoke", CASES, seconds=math.inf)).find("testsuite").get("time") == "3.750"


def test_nothing_at_all_is_a_document_too() -> None:
    assert read().get("tests") == "0"
    assert read(Suite("", [])).find("testsuite").get("tests") == "0"


HOSTILE = "</failure>]]><x a='1'>&amp;\"\x00\x1b[31m\x0b\ud800\ufffe\u202e\r end"
SHOWN = "</failure>]]><x a='1'>&amp;\"\\u{0}\\u{1b}[31m\\u{b}\\u{d800}\\u{fffe}\\u{202e}\\u{d} end"


def test_hostile_text_is_shown_everywhere() -> None:
    case = Case(HOSTILE, HOSTILE, properties={HOSTILE: HOSTILE}, skipped=HOSTILE, output=HOSTILE)
    broken = Case("x", "y", failure=Problem(HOSTILE, HOSTILE, HOSTILE), error=Problem(HOSTILE, HOSTILE, HOSTILE))
    root = read(Suite(HOSTILE, [case, broken], {HOSTILE: HOSTILE}, timestamp=HOSTILE, hostname=HOSTILE))
    found = [value for element in root.iter() for value in (*element.attrib.values(), (element.text or "").strip())]
    assert found.count(SHOWN) == 17
    assert "\u202e" not in "".join(found)


@given(st.text())
def test_any_text_comes_back(anything: str) -> None:
    case = read(Suite("s", [Case(anything, "c", output=anything + ".")])).find("testsuite/testcase")
    assert case.get("name") == printable(anything)
    assert case.find("system-out").text == printable(anything + ".")


@pytest.mark.parametrize("seconds", [-1.0, math.inf, -math.inf, math.nan])
def test_a_time_that_is_none_is_zero(seconds: float) -> None:
    assert read(Suite("s", [Case("n", "c", seconds)])).find("testsuite/testcase").get("time") == "0.000"
