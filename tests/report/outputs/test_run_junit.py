"""Runs as JUnit, read back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from llmbench.report.run.junit import metrics, run_junit
from llmbench.report.untrusted import printable
from llmbench.results.documents import json_schema
from llmbench.results.schema import Error
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.outputs.conftest import SECRET


def read(*folders: RunFolder) -> ElementTree.Element:
    return ElementTree.fromstring(run_junit(folders).encode())


def by_name(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {case.get("name"): case for case in root.iter("testcase")}


def properties(element: ElementTree.Element) -> dict[str, str]:
    return {one.get("name"): one.get("value") for one in element.findall("properties/property")}


def test_every_verdict_has_its_outcome(every: RunFolder) -> None:
    root = read(every)
    assert {"tests": "10", "failures": "4", "errors": "2", "skipped": "1"}.items() <= root.attrib.items()
    cases = by_name(root)
    outcomes = {name: [child.tag for child in case if child.tag != "properties"] for name, case in cases.items()}
    assert {name: tags[0] for name, tags in outcomes.items()} == {
        **dict.fromkeys(("eager/ws1", "noisy/ws1", "doubtful/ws1"), "system-out"),
        **dict.fromkeys(("invalid/ws1", "failed/ws1", "oom/ws1", "timeout/ws1"), "failure"),
        **dict.fromkeys(("aborted/ws1", "missing/ws1"), "error"),
        "skipped/ws1": "skipped",
    }
    assert {name for name, tags in outcomes.items() if tags[-1] != "system-out"} == {"skipped/ws1"}
    assert {case.get("classname") for case in cases.values()} == {"smoke.gpt-tiny"}
    told = {name: properties(case)["verdict"] for name, case in cases.items()}
    assert told["noisy/ws1"] == "noisy"
    assert told["doubtful/ws1"] == "did not learn"
    assert told["eager/ws1"] == "passed"


def test_a_failure_tells_all_that_is_known(every: RunFolder) -> None:
    cases = by_name(read(every))
    failure = cases["failed/ws1"].find("failure")
    assert failure.attrib == {"type": "RuntimeError", "message": "RuntimeError: no such tensor"}
    assert failure.text == "no such tensor\nat ***\nrank 1 on node-18\nsee `llmbench doctor`"
    said = cases["failed/ws1"].find("system-out").text.splitlines()
    assert said[0] == "line 21"
    assert said[-3:-1] == ["line 59", "HF_TOKEN=***"]
    assert said[-1].startswith("Run it again: llmbench run smoke")
    assert said[-1].endswith("--workload gpt-tiny --mode failed")
    assert cases["oom/ws1"].find("failure").get("type") == "OutOfMemoryError"
    assert cases["invalid/ws1"].find("failure").get("type") == "Invalid"
    assert cases["aborted/ws1"].find("error").get("type") == "Interrupted"
    assert cases["missing/ws1"].find("error").attrib == {"type": "NotRun", "message": "the run was interrupted"}
    assert f"llmbench run --resume {every.path}" in cases["missing/ws1"].find("system-out").text
    assert cases["skipped/ws1"].find("skipped").get("message") == "fp8 needs a CUDA device. --device cuda"


def test_metrics_are_properties_and_parse_back(every: RunFolder) -> None:
    record = next(record for record in every.records() if record.mode == "noisy")
    told = properties(by_name(read(every))["noisy/ws1"])
    assert float(told["throughput.value"]) == record.throughput.value
    assert told["throughput.unit"] == "tokens/s"
    assert tuple(map(float, told["throughput.ci95"].split())) == record.throughput.ci95
    assert int(told["memory.peak_rss_bytes"]) == record.memory.peak_rss_bytes
    assert float(told["metrics.perplexity"]) == record.metrics["perplexity"]
    assert told["noise.verdict"] == "noisy"
    assert told["noise.cause"] == record.noise.cause
    assert float(told["speedup_over_eager"]) > 0
    assert "energy.joules" not in told


def test_each_metric_of_the_schema_is_told(tmp_path: Path) -> None:
    """Those that have a direction there: nobody has to remember a new one here."""
    record, _ = factory.ok_record(factory.planned("gpt-tiny", "compile+ddp", 2))
    told = {name.rpartition(".")[2] for name in metrics(record)}
    schema = json_schema()["Record"]
    known = {
        name
        for part in (schema, *schema["$defs"].values())
        for name, field in part["properties"].items()
        if "direction" in field
    }
    cpu = {"peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes", "joules", "mfu"}
    assert told == known - cpu


def test_a_suite_tells_where_and_when(every: RunFolder) -> None:
    suite = read(every).find("testsuite")
    assert {"name": "smoke", "hostname": "node-17", "time": "162.000"}.items() <= suite.attrib.items()
    told = properties(suite)
    assert told["status"] == "interrupted"
    assert told["run"] == "20261122-081204-7f3a"
    assert told["torch"].startswith("2.13.0+cpu")


def test_several_runs_are_several_suites_with_names_of_their_own(every: RunFolder, tmp_path: Path) -> None:
    other = factory.plain_run(tmp_path / "r2", ["gpt-tiny"], ["eager"])
    ladder = factory.ladder_run(tmp_path / "r3")
    names = [suite.get("name") for suite in read(every, other, ladder).findall("testsuite")]
    assert names == [f"smoke@{every.path}", f"smoke@{other.path}", "ladder"]
    ids = [(case.get("classname"), case.get("name")) for case in read(every, other).iter("testcase")]
    assert len(set(ids)) == len(ids) == 11


@pytest.mark.parametrize("text", ["]]></failure><x/>", "\x00\x1b[31m\u202e", "a\nb", "é", "<![CDATA[", ""])
def test_hostile_runs_parse(tmp_path: Path, text: str) -> None:
    case = factory.planned("gpt-tiny", "eager").model_copy(update={"workload": text})
    run = factory.make_run([case], suite=text, command=["llmbench", text], environment={"host": {"name": text}})
    folder = RunFolder.create(tmp_path / "r", run)
    error = Error(type=text, message=text, hint=text)
    factory.add(folder, factory.broken_record(case, "failed", error), log=text)
    root = read(folder)
    assert root.find("testsuite/testcase").get("classname") == printable(f"{text}.{text}")
    assert root.find("testsuite/testcase/failure").get("type") == printable(text)
    assert "\u202e" not in run_junit([folder])


def test_no_secret_is_told(every: RunFolder) -> None:
    assert SECRET not in run_junit([every])
