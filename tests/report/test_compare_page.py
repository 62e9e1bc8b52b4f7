"""The page of a comparison: verdicts, what differs, the forest plot, the table, hostile records."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from llmbench.report.charts.forest import Effect, forest
from llmbench.report.compare import compare_page
from llmbench.report.compare.environment import environments
from llmbench.results.schema import Error
from llmbench.results.sides import load
from llmbench.results.store import RunFolder
from llmbench.stats.comparison import Rules
from llmbench.stats.judge import compare_sides
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_browser import downloaded
from tests.report.test_run_page import HOSTILE

COMMAND = ["llmbench", "compare", "base", "cand", "--fail-slower", "5%"]


def page_of(base, cand, **rules):
    sides = load(base, cand)
    comparison = compare_sides(*sides, Rules(**rules))
    return compare_page(comparison, environments(sides[0].runs, sides[1].runs), COMMAND)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return [folder.path for folder in factory.compared_runs(tmp_path_factory.mktemp("compared"))]


@pytest.fixture(scope="module")
def page(runs):
    return Page(page_of(*runs))


def row_of(page, case):
    """The texts of the table's row of a case."""
    rows = [" ".join(row.text.split()) for row in page.all("tr") if "data-record" in row.attributes]
    return next(row for row in rows if f" {case} " in row)


def test_the_title_is_the_verdict(page):
    title = "1 broken now, 1 slower, 1 with more memory, 1 loss changed, 1 faster, 5 same, 1 inconclusive"
    assert page.one("h1").text.strip() == title
    assert page.all("title")[0].text == f"{title} · llmbench"


def test_pills_count_every_verdict(page):
    told = [" ".join(pill.text.split()) for pill in page.all("li", class_="pill")]
    assert told == [
        "✖ 1 broken now",
        "▼ 1 slower",
        "▲ 1 with more memory",
        "≠ 1 loss changed",
        "? 1 inconclusive",
        "≠ 2 not comparable",
        "○ 1 only in BASE",
        "○ 1 not run any more",
        "– 1 broken on both sides",
        "○ 1 only in CAND",
        "▲ 1 faster",
        "✓ 1 fixed",
        "= 5 same within ±2 %",
    ]


def test_gate_exit_code_command_and_what_got_worse_are_on_the_first_card(page):
    body = page.body
    assert "Gate failed: 4 cases got worse." in body
    assert "exit 1" in body
    assert "llmbench compare base cand --fail-slower 5%" in body
    assert "gpt-tiny/eager/ws1 −8.0 % throughput" in body
    assert [value.text for value in page.all("dd", class_="value")] == ["−0.3 %", "+0.9 %", "–", "8 / 9", "exit 1"]


def test_only_keys_that_differ_are_shown_first_and_the_rest_is_folded(page):
    assert "What differs: 2 of 25 keys" in page.body
    keys = page.one("table", class_="differs").text.partition("CAND")[2].split()
    assert keys == ["torch.version", "2.13.0+cpu", "2.14.0+cpu", "packages.torch", "2.13.0", "2.14.0"]
    same = page.one("table", class_="keys").text
    assert "host.cpu" in same
    assert "torch.version" not in same


def test_forest_plot_has_a_row_and_a_marker_for_each_change(page):
    drawn = page.source[page.source.index("<title>Throughput, CAND over BASE</title>") :]
    drawn = drawn[: drawn.index("</svg>")]
    assert len(re.findall(r'transform="translate', drawn)) == 8
    assert drawn.count("hollow grey") == 1
    assert drawn.count("fill c1") == drawn.count("fill c0") == 1
    assert "−8.0 % (▼ slower)" in drawn
    assert "+9.0 % (▲ faster)" in drawn


def test_rows_tell_estimate_interval_and_what_could_have_been_seen(page):
    row = row_of(page, "gpt-tiny/eager/ws1")
    for text in ("▼ slower", "✖ −8.0 % throughput", "[−9.6, −6.4]", "4.3 %", "= bitwise"):
        assert text in row, text


def test_losses_are_overlaid_those_that_changed_first(page):
    shown = [" ".join(heading.text.split()) for heading in page.all("h3", class_="case")]
    assert shown[0] == "bert-tiny/compile/ws1 ≠ 0.19"
    assert len(shown) == 10


def test_the_document_holds_a_record_for_each_row(page):
    data = page.data
    rows = [row.attributes for row in page.all("tr") if "data-record" in row.attributes]
    assert sorted(int(row["data-record"]) for row in rows) == list(range(len(data["records"])))
    assert (data["title"], data["exit_code"]) == (page.one("h1").text.strip(), 1)
    assert {failure["case"] for failure in data["failures"]} == {
        "gpt-tiny/eager/ws1",
        "bert-tiny/eager/ws1",
        "bert-tiny/compile/ws1",
        "bert-tiny/bf16/ws1",
    }


def test_unchanged_rows_are_those_that_the_filter_hides(page):
    tones = {page.data["records"][int(row.attributes["data-record"])]["case"]: row.attributes["data-tone"]
             for row in page.all("tr") if "data-record" in row.attributes}  # fmt: skip
    hidden = {case for case, tone in tones.items() if tone == "good"}
    assert hidden == {
        "regression-linear/bf16/ws1",
        "regression-linear/compile+bf16/ws1",
        "regression-linear/eager/ws1",
        "gpt-tiny/bf16/ws1",
    }


def test_other_hardware_is_said_and_nothing_is_called_worse(tmp_path):
    other = factory.ENVIRONMENT | {"host": factory.ENVIRONMENT["host"] | {"cpu": "Intel Xeon 8592+"}}
    base = factory.steady_run(tmp_path / "base", [("gpt-tiny", "eager")])
    cand = factory.steady_run(
        tmp_path / "cand", [("gpt-tiny", "eager")], {"gpt-tiny/eager/ws1": 0.5}, environment=other
    )
    page = Page(page_of(base.path, cand.path))
    assert page.one("h1").text.strip() == "Other hardware: 1 slower"
    assert "The hardware differs: cpu: AMD EPYC 9654 → Intel Xeon 8592+." in page.body
    assert "--across-hardware judges all the same" in page.body
    assert "exit 0" in page.body
    assert "✖" not in page.body


def test_several_runs_on_a_side_are_counted(tmp_path):
    for name in ("base", "cand"):
        (tmp_path / name).mkdir()
        for number in range(3):
            factory.steady_run(tmp_path / name / str(number), [("gpt-tiny", "eager")], id=f"{name}-{number}")
    page = Page(page_of(tmp_path / "base", tmp_path / "cand"))
    assert "BASE base, 3 runs" in page.body
    assert "3 / 3" in row_of(page, "gpt-tiny/eager/ws1")


def test_more_cases_than_the_plot_holds_are_counted(tmp_path):
    cases = [("gpt-tiny", f"m{number}") for number in range(50)]
    slower = {"gpt-tiny/m49/ws1": 0.5}
    base = factory.steady_run(tmp_path / "base", cases)
    cand = factory.steady_run(tmp_path / "cand", cases, slower)
    page = Page(page_of(base.path, cand.path))
    assert "10 more in the table" in page.body
    drawn = page.source[page.source.index("<title>Throughput, CAND over BASE</title>") :]
    assert "gpt-tiny/m49/ws1" in drawn[: drawn.index("</svg>")]
    assert len(page.all("section", class_="overlay")) == 24


def test_empty_runs_have_a_page(tmp_path):
    base, cand = (factory.steady_run(tmp_path / name, []) for name in ("base", "cand"))
    page = Page(page_of(base.path, cand.path))
    assert page.one("h1").text.strip() == "Nothing to compare"
    assert "no case" in page.body


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    case = factory.planned(f"w{HOSTILE}", f"m{HOSTILE}")
    for name in ("base", "cand"):
        environment = {HOSTILE: HOSTILE + name, "host": HOSTILE, "devices": [{"name": HOSTILE + name}], "torch": [1]}
        run = factory.make_run([case], id=HOSTILE, suite=HOSTILE, environment=environment, started_at=HOSTILE)
        side = RunFolder.create(folder / name, run)
        record, series = factory.ok_record(factory.planned("gpt-tiny", "eager"))
        record.case, record.workload, record.mode, record.device = case.case, case.workload, case.mode, HOSTILE
        record.noise.cause, record.noise.verdict = HOSTILE, "noisy"
        record.config, record.facts = {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE, "weights_sha256": {}}
        if name == "cand":
            series.loss = [None, 1e308, *series.loss[2:]]
        factory.add(side, record, series)
        broken = factory.broken_record(factory.planned("gpt-tiny", "bf16"), "failed", None)
        broken.error = Error(type=HOSTILE, message=HOSTILE, hint=HOSTILE)
        factory.add(
            side, *(factory.ok_record(factory.planned("gpt-tiny", "bf16")) if name == "base" else (broken, None))
        )
        with open(side.path / "records.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"case": HOSTILE, "status": HOSTILE}) + "\n")
    return folder / "base", folder / "cand"


def test_hostile_records_stay_text(hostile):
    page = Page(page_of(*hostile, across_hardware=True))
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert "49" not in page.one("h1").text
    assert "\u202e" not in page.body
    names = {name for element in page.elements for name in element.attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}
    assert "\\u{202e}" in page.body
    assert "faults in the files" in page.body
    assert page.data["exit_code"] == 1


@pytest.mark.parametrize(
    ("ratio", "low", "high"),
    [(1.0, 1.0, 1.0), (1e-300, 0.0, 1e300), (float("inf"), 0.0, float("inf")), (0.92, 0.9, 0.94), (3.0, 0.1, 90.0)],
)
@pytest.mark.parametrize("equal_within", [0.0, 0.02, 0.9])
def test_forest_draws_any_interval_within_its_frame(ratio, low, high, equal_within):
    effects = [Effect("a", "slower", ratio, low, high, "text"), Effect("b", "same", 1.0, 0.99, 1.01, "text")]
    drawn = forest("title", effects, equal_within)
    places = [float(x) for x in re.findall(r'(?:M|H|translate\(| x="| x1=")(-?[\d.]+|nan|inf)', drawn)]
    assert places
    assert all(-10 <= x <= 1110 for x in places)


@pytest.fixture
def files(runs, hostile, tmp_path):
    made = {"every": page_of(*runs), "hostile": page_of(*hostile)}
    for name, text in made.items():
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: tmp_path / f"{name}.html" for name in made}


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["every", "hostile"])
def test_it_is_silent_asks_for_nothing_and_does_not_stick_out(files, open_page, name, scheme, width):
    opened = open_page(files[name], viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.messages == []
    assert opened.requests == [files[name].resolve().as_uri()]


@pytest.mark.browser
def test_the_first_screen_answers(files, open_page):
    page = open_page(files["every"]).page
    for text in ("1 broken now, 1 slower", "Gate failed", "What differs", "torch.version", "marker: estimate"):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text


@pytest.mark.browser
def test_unchanged_rows_are_hidden_and_csv_holds_what_is_left(files, open_page):
    page = open_page(files["every"]).page
    page.get_by_label("hide unchanged").check()
    assert page.locator("[role=status]").inner_text() == "12 of 16"
    page.locator("[data-filter]").fill("gpt")
    _, text = downloaded(page, "CSV")
    found = {row["case"]: row for row in csv.DictReader(io.StringIO(text))}
    assert list(found) == ["gpt-tiny/eager/ws1", "gpt-tiny/compile+bf16/ws1", "gpt-tiny/compile/ws1"]
    assert float(found["gpt-tiny/eager/ws1"]["throughput.ratio"]) == pytest.approx(0.92)
    assert found["gpt-tiny/compile/ws1"]["verdict"] == "faster"


@pytest.mark.browser
def test_without_scripts_charts_and_tables_are_there(files, open_page):
    page = open_page(files["every"], java_script_enabled=False).page
    assert page.locator("button:visible").count() == 0
    assert page.locator(".forest svg").is_visible()
    assert page.locator("#cases-table tbody tr:visible").count() == 16


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["every", "hostile"])
def test_axe_finds_nothing(files, open_page, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is injected as a script, which the page's own policy rightly forbids.
    opened = open_page(files[name], color_scheme=scheme, bypass_csp=True)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()
