import json

import pytest

from llmbench.report import doctor_page
from tests.report.html_reader import Page
from tests.report.test_run_page import HOSTILE, pills


def finding(verdict, evidence, **more):
    return {"verdict": verdict, "evidence": evidence, "cause": None, "fix": None, "link": None} | more


@pytest.fixture
def document():
    def check(identity, title, *findings):
        return {"id": identity, "area": identity.split(".")[0], "title": title, "findings": list(findings)}

    return {
        "schema_version": 1,
        "llmbench": "0.1.0",
        "headline": "This install will not train on the GPU",
        "verdict": "fail",
        "python": "/opt/venv/bin/python",
        "started_at": "2026-11-22T08:10:00+00:00",
        "seconds": 6.4,
        "checks": [
            check("python.version", "Interpreter", finding("pass", "3.12.8, 64-bit, venv")),
            check(
                "gpu.driver",
                "Driver and CUDA runtime",
                finding(
                    "fail",
                    "driver 535.104, torch built for CUDA 13.0",
                    cause="the driver is older than the runtime",
                    fix="install driver 580, or `pip install` an older torch",
                    link="https://docs.nvidia.com/deploy/cuda-compatibility/",
                ),
            ),
            check("dist.nccl", "nccl", finding("skip", "one GPU")),
            check("compile.cxx", "C++ compiler", finding("warn", "gcc not found", cause="none installed", fix="`apt`")),
        ],
        "facts": {"torch": {"version": "2.13.0+cu130"}, "driver": "535.104"},
        "environment": {"CUDA_VISIBLE_DEVICES": "0"},
    }


def test_verdict_first_and_the_worst_at_the_top(document):
    page = Page(doctor_page(document))
    assert page.one("h1").text.strip() == "This install will not train on the GPU"
    assert pills(page) == ["✖ 1 fail", "! 1 warn", "✓ 1 pass", "– 1 skip"]
    rows = [" ".join(row.text.split()) for row in page.all("tr") if "data-tone" in row.attributes]
    assert [row.split()[1] for row in rows] == ["fail", "warn", "pass", "skip"]
    assert "the driver is older than the runtime install driver 580, or pip install an older torch" in page.body
    assert "4 checks in 6.40 s" in page.body
    assert "FAIL gpu.driver: driver 535.104, torch built for CUDA 13.0" in page.body
    assert page.data == json.loads(json.dumps(document))


def test_a_fault_is_told_with_what_follows_from_it(document):
    document["checks"][1]["findings"][0] |= {"fault": "gpu.driver.old", "title": "The driver is too old"}
    document["checks"] += [
        {"id": "gpu.use", "findings": [finding("skip", "follows from gpu.driver: no kernel runs", root="gpu.driver")]},
        {"id": "gpu.speed", "findings": [finding("skip", "needs gpu.use", root="gpu.use")]},
    ]
    page = Page(doctor_page(document))
    first = " ".join(page.one("ul", class_="needs").text.split())
    assert first.index("The driver is too old gpu.driver.old") < first.index("2 more follow from it")
    assert "gpu.use no kernel runs Not asked: gpu.speed" in first
    assert "llmbench doctor --explain gpu.driver.old" in first
    assert "FAIL gpu.driver.old: driver 535.104" in page.body


def test_the_script_of_safe_fixes_is_there_if_there_is_one(document):
    assert "Script of the safe fixes" not in Page(doctor_page(document)).body
    document["checks"][3]["findings"][0]["script"] = "unset CXX"
    page = Page(doctor_page(document))
    assert "Script of the safe fixes" in page.body
    assert "# WARN compile.cxx: gcc not found unset CXX" in page.body


def test_only_https_links_are_links(document):
    document["checks"][3]["findings"][0]["link"] = "javascript:alert(1)"
    page = Page(doctor_page(document))
    outward = [a.attributes["href"] for a in page.all("a") if not a.attributes["href"].startswith("#")]
    assert set(outward) == {"https://docs.nvidia.com/deploy/cuda-compatibility/"}


@pytest.mark.parametrize("missing", ["headline", "checks", "facts", "environment", "seconds", "started_at", "python"])
def test_a_missing_key_leaves_its_part_out(document, missing):
    del document[missing]
    assert Page(doctor_page(document)).one("h1").text.strip()


def test_an_empty_document_has_a_page():
    page = Page(doctor_page({}))
    assert page.one("h1").text.strip() == "Nothing was checked"
    assert "Nothing to fix." in page.body


def test_a_check_without_an_answer_is_not_a_pass():
    page = Page(doctor_page({"checks": [{"id": "a.b"}, {"id": "c.d", "findings": [{"verdict": "odd"}]}, 7]}))
    assert pills(page) == ["? 3 incomplete"]


def test_hostile_text_stays_text(document):
    document["headline"] = document["python"] = document["started_at"] = HOSTILE
    document["checks"][1] = {
        "id": HOSTILE,
        "area": HOSTILE,
        "title": HOSTILE,
        "findings": [finding("fail", HOSTILE, cause=HOSTILE, fix=HOSTILE, link=f"https://x/{HOSTILE}")],
    }
    document["facts"] = document["environment"] = {HOSTILE: HOSTILE}
    page = Page(doctor_page(document))
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert not [name for element in page.elements for name in element.attributes if name.startswith("on")]
    assert page.data["facts"] == {HOSTILE: HOSTILE}
