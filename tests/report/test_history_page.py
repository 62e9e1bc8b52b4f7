"""The page of many runs: what it says, what it links to, hostile records, its weight, and how it works in Chromium."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.report.charts.trend import Course, Dot, Mark, sparkline, trend_chart, values_to_tick
from llmbench.report.history import history_page
from llmbench.report.history.views import change, interval, shown
from llmbench.report.page import style_sheet
from llmbench.results.history import read_history
from llmbench.stats.metrics import METRICS
from llmbench.stats.trends import trends
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_browser import downloaded
from tests.report.test_run_page import HOSTILE, pills
from tests.report.test_style import contrast

THROUGHPUT = METRICS["throughput"]
CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile")]


def page_of(path, metric="throughput", file=None, **options):
    past = read_history([path])
    found = trends(past, METRICS[metric], **options)
    return history_page(past, found, METRICS[metric], reference=options.get("reference"), file=file)


@pytest.fixture(scope="module")
def eventful(tmp_path_factory):
    """A history, its page beside it, and the report of its newest run."""
    path = tmp_path_factory.mktemp("history")
    folders = factory.eventful_history(path / "my runs")
    (folders[-1].path / "report.html").write_text("<!doctype html><title>the run</title>")
    file = path / "pages" / "history.html"
    file.parent.mkdir()
    file.write_text(page_of(path / "my runs", file=file), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page(eventful):
    return Page(eventful.read_text(encoding="utf-8"))


def rows(page):
    return [row for row in page.all("tr") if "data-record" in row.attributes]


def words(element):
    return " ".join(element.text.split())


def test_the_title_is_the_verdict(page):
    assert page.one("h1").text.strip().startswith("History: 2 steps down, 1 step up")
    assert pills(page) == ["✖ 1 failing", "▼ 2 steps down", "▲ 1 step up", "= 12 steady"]
    assert "40 runs · 2026-08-01 to 2026-09-09 · 16 cases · AMD EPYC 9654, 16 CPUs · suite nightly" in page.body


def test_what_fails_and_steps_with_run_commits_and_environment(page):
    items = [words(item) for item in page.all("ul", class_="needs")]
    assert "✖ fails now regression-linear/bf16/ws1 OutOfMemoryError: killed by the kernel" in items[0]
    assert "since 20260825-020000-0018 2026-08-25, for 16 runs · commit e47682e..2ebe579" in items[0]
    assert "torch 2.12.1+cpu → 2.13.0+cpu" in items[0]
    assert "same environment" in items[0]


def test_a_row_for_each_case(page):
    assert len(rows(page)) == 16
    failing, down, *_ = map(words, rows(page))
    assert failing.startswith("✖ failing regression-linear/bf16/ws1")
    assert down.startswith("▼ step down bert-tiny/eager/ws1")
    assert "for 4 runs" in down
    assert [row.attributes["data-tone"] for row in rows(page)] == ["warn"] * 4 + ["good"] * 12


def test_rows_point_to_their_records(page):
    records = page.data["records"]
    for row in rows(page):
        mine = [records[int(place)] for place in row.attributes["data-record"].split()]
        assert len(mine) == 40
        assert mine[0]["case"] in words(row)
        assert len({record["case"] for record in mine}) == 1


def test_links_lead_to_the_reports_that_exist(page, eventful):
    links = {link.attributes["href"] for link in page.all("a") if not link.attributes["href"].startswith("#")}
    [link] = links
    assert os.path.samefile(eventful.parent / unquote(link), next(eventful.parent.parent.rglob("report.html")))
    assert " " not in link


def test_every_link_inside_has_its_place(page):
    ids = {element.attributes["id"] for element in page.elements if "id" in element.attributes}
    inside = [unquote(link.attributes["href"][1:]) for link in page.all("a") if link.attributes["href"].startswith("#")]
    assert set(inside) <= ids
    assert "gpt-tiny/compile+bf16/ws1" in inside


def test_steps_of_one_run_stand_together(tmp_path):
    cases = [factory.planned(f"gpt-{number}", "eager") for number in range(5)]
    factory.nights(tmp_path, 30, cases, lambda number, case: (0.9 if number >= 15 else 1.0) * (1 + 1e-3 * (number % 3)))
    page = Page(page_of(tmp_path))
    steps = words(page.all("ul", class_="needs")[0])
    assert steps.count("since") == 1
    assert "5 cases" in steps
    assert "gpt-4/eager/ws1" in steps


def test_nothing_happened(tmp_path):
    factory.nights(tmp_path, 10, CASES, lambda number, case: 1.0 + 1e-3 * (number % 3))
    page = Page(page_of(tmp_path))
    assert page.one("h1").text.strip().startswith("History: no step in 2 cases")
    assert "No level changed and stayed so." in page.body
    assert "All runs recorded the same." in page.body


def test_a_case_that_fails_is_in_the_title_where_no_step_is(tmp_path):
    factory.nights(tmp_path, 10, CASES, lambda number, case: None if number == 9 and case.mode == "compile" else 1.0)
    page = Page(page_of(tmp_path))
    assert page.one("h1").text.strip().startswith("History: 1 case failing, no step")
    assert words(page.one("h2", id="steps")) == "Failing"


def test_too_few_runs_to_tell(tmp_path):
    factory.nights(tmp_path, 2, CASES, lambda number, case: 1.0)
    page = Page(page_of(tmp_path))
    assert page.one("h1").text.strip().startswith("History: too few runs to tell")
    assert pills(page) == ["… 2 too few runs"]


def test_runs_without_records_have_a_page(tmp_path):
    factory.nights(tmp_path, 2, [], lambda number, case: 1.0)
    page = Page(page_of(tmp_path))
    assert page.one("h1").text.strip().startswith("History: nothing was measured")


def test_of_what_is_better_low_up_is_worse(tmp_path):
    factory.nights(tmp_path, 30, CASES, lambda number, case: (0.9 if number >= 15 else 1.0) * (1 + 1e-3 * (number % 3)))
    page = Page(page_of(tmp_path, "step"))
    assert page.one("h1").text.strip().startswith("History: 2 steps up")
    assert pills(page) == ["▲ 2 steps up, worse"]
    assert "▲ step up" in words(rows(page)[0])
    assert len(page.all("path", class_="worse")) == 4


def test_what_could_not_be_read_is_on_the_page(tmp_path):
    [folder] = factory.nights(tmp_path, 1, CASES, lambda number, case: 1.0)
    with open(folder.path / "records.jsonl", "a") as file:
        file.write("broken\n")
    page = Page(page_of(tmp_path))
    assert "1 thing could not be read" in page.body
    assert "line 3: not JSON" in page.body


def test_hostile_names_stay_text(tmp_path):
    case = CASES[0].model_copy(update={"case": f"w/{HOSTILE}/ws1"})
    environment = {HOSTILE: HOSTILE, "host": {"cpu": HOSTILE, "name": HOSTILE}, "variables": {"TORCH_X": HOSTILE}}

    def factor(number, case):
        return None if number == 19 else (0.8 if number >= 10 else 1.0)

    folders = factory.nights(
        tmp_path,
        20,
        [case],
        factor,
        id=lambda number: f"{number}{HOSTILE}".replace("/", "-"),
        suite=lambda _: HOSTILE,
        environment=lambda number: environment | {"torch": {"version": f"{HOSTILE}{number}"}},
        git=lambda number: factory.Git(commit=f"{HOSTILE}{number}", dirty=True),
    )
    for folder in folders:
        (folder.path / "report.html").touch()
    page = Page(page_of(tmp_path, file=tmp_path / "h.html"))
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert not [name for element in page.elements for name in element.attributes if name.startswith("on")]
    assert not [element for element in page.elements if "style" in element.attributes]
    assert not any("javascript:" in link.attributes["href"] for link in page.all("a"))
    assert "\u202e" not in page.body
    assert page.data["records"][0]["case"] == case.case


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
parts = st.fixed_dictionaries(
    {"case": st.sampled_from(["a/b/ws1", "c", HOSTILE]), "status": st.sampled_from(["ok", "oom", HOSTILE])},
    optional={
        "device": anything,
        "config": anything,
        "error": anything | st.fixed_dictionaries({"type": anything, "message": anything}),
        "throughput": anything
        | st.fixed_dictionaries(
            {
                "value": st.floats(),
                "unit": st.sampled_from(["tokens/s", HOSTILE]),
                "ci95": anything | st.lists(st.floats()),
            }
        ),
        "loss": anything | st.fixed_dictionaries({"eval": st.floats()}),
        "memory": anything | st.fixed_dictionaries({"peak_rss_bytes": st.integers()}),
    },
)
runs = st.fixed_dictionaries(
    {"id": st.text(min_size=1), "started_at": st.datetimes().map(str)},
    optional=dict.fromkeys(("suite", "status", "git", "environment", "data", "device", "llmbench"), anything),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.tuples(runs, st.lists(parts, max_size=4)), min_size=1, max_size=9), st.sampled_from(list(METRICS)))
def test_any_records_have_a_page(tmp_path_factory, written, metric):
    path = tmp_path_factory.mktemp("any")
    for number, (run, records) in enumerate(written):
        folder = path / str(number)
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(run))
        (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    past = read_history([path])
    found = trends(past, METRICS[metric])
    page = Page(history_page(past, found, METRICS[metric]))
    assert len(page.all("script")) == 2
    assert not page.all("img")
    shown_or_named = {record["case"] for record in page.data["records"]}
    assert shown_or_named == {record.case for record in past.records}


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "cases"), [(60, 60), (6, 600)])
def test_weight(tmp_path, runs, cases):
    """3,600 records: as many charts and rows as the page has at most, in less than a page of 10,000 may weigh."""
    from suites.history_budget import history_folder

    history_folder(tmp_path, runs, cases)
    text = page_of(tmp_path)
    assert len(text.encode()) <= 1.5e6
    page = Page(text)
    assert len(rows(page)) == min(cases, 300)
    assert len(page.all("details", class_="one")) == min(cases, 120)
    assert len(page.data["records"]) == runs * cases
    assert (f"{cases - 300} more cases are in the JSON" in page.body) == (cases > 300)


def test_points_are_left_out_but_no_step_and_no_spike():
    values = [1.0] * 500 + [0.8] * 500
    values[300] = 3.0
    course = Course([Dot(at, value) for at, value in enumerate(values)], [Mark(500, False, True)], [500])
    text = str(sparkline("x", course, 1000))
    path = next(part for part in text.split("<path")[1:] if 'fill="none"' in part)
    assert len(path) < 2000
    assert len(text) < 3000
    assert text.count('class="worse"') == 1
    assert text.count('class="shift"') == 1
    line = path.split('d="')[1].split('"')[0]
    assert re.search(r"-\d\d", line)  # up to the spike, in pixels


def test_a_chart_of_one_run_of_none_and_of_failed_ones():
    assert "circle" in str(sparkline("x", Course([Dot(0, 5.0)]), 1))
    assert "0 values" in str(sparkline("x", Course([]), 0))
    failed = Course([Dot(0, None, broken=True, text="oom"), Dot(1, None, broken=True)])
    assert "broken" in str(trend_chart("x", failed, [], ("a", "b")))
    assert values_to_tick(Course([Dot(0, 1e300), Dot(1, 1e-300)]))


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(None, "–"), (0.0042, "+0.4 %"), (-0.0813, "−8.1 %"), (0.0001, "±0.0 %"), (-0.0001, "±0.0 %"), (12.0, "+1200 %")],
)
def test_changes_as_text(fraction, text):
    assert change(fraction) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "–"),
        (0.0123, "s", "12.3 ms"),
        (3 * 2**30, "bytes resident", "3.00 GiB"),
        (12.0, "J a step", "12.0 J"),
        (1.8766, "×", "1.877×"),
        (11240.0, "tokens/s", "11.24 k"),
        (4.1234, "held out", "4.123"),
    ],
)
def test_values_as_text(value, unit, text):
    assert shown(value, unit) == text


def test_an_interval_as_text(tmp_path):
    factory.nights(tmp_path, 30, CASES, lambda number, case: 0.9 if number >= 15 else 1.0)
    [step] = trends(read_history([tmp_path]), THROUGHPUT)[0].steps
    assert interval(step).startswith("[−10.")


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["better", "worse"])
def test_colours_of_steps_can_be_read(theme, name):
    pair = re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", style_sheet("history"))
    card = re.search(r"--card: light-dark\((#\w+), (#\w+)\)", style_sheet())
    assert contrast(pair.groups()[theme], card.groups()[theme]) >= 4.5


@pytest.mark.browser
def test_opens_from_disk_silently_and_asks_for_nothing(eventful, open_page):
    opened = open_page(eventful)
    opened.page.wait_for_load_state("networkidle")
    assert opened.messages == []
    assert opened.requests == [eventful.resolve().as_uri()]


@pytest.mark.browser
def test_first_screen_shows_verdict_steps_and_charts(eventful, open_page):
    page = open_page(eventful).page
    for text in ("History: 2 steps down", "−13.", "Where the environment changed", "vs median of 30"):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text
    assert page.locator("td.chart svg").nth(4).bounding_box()["y"] < 860


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440, 2200])
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_charts_are_visible_and_nothing_sticks_out(eventful, open_page, scripts, width):
    page = open_page(eventful, java_script_enabled=scripts, viewport={"width": width, "height": 900}).page
    charts = page.locator("td.chart svg")
    assert charts.count() == 16
    for index in range(16):
        box = charts.nth(index).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 15
    if scripts:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_filter_only_steps_sort_and_the_address(eventful, open_page):
    page = open_page(eventful).page
    visible = page.locator("#cases-table tbody tr:visible")
    page.get_by_label("only with steps").check()
    assert visible.count() == 4
    page.get_by_label("Filter").fill("compile")
    assert visible.count() == 2
    assert "problems=1" in page.url
    again = open_page(eventful, page.url[page.url.index("#") :]).page
    assert again.locator("#cases-table tbody tr:visible").count() == 2
    page = open_page(eventful).page
    page.get_by_role("button", name="Newest step").click()
    assert "lora-tiny/compile/ws1" in page.locator("#cases-table tbody tr").first.inner_text()
    page.get_by_role("button", name="State").click()
    assert "failing" in page.locator("#cases-table tbody tr").first.inner_text()


@pytest.mark.browser
def test_a_deep_link_opens_its_case(eventful, open_page):
    page = open_page(eventful, "#gpt-tiny/compile+bf16/ws1").page
    assert page.locator("details.one[open]").count() == 1
    assert page.locator("details.one[open] svg").bounding_box()["y"] < 900
    page.locator("#cases-table").get_by_role("link", name="bert-tiny/eager/ws1").click()
    page.locator("details.one[open]").nth(1).wait_for(timeout=5000)


@pytest.mark.browser
def test_downloads_parse_back(eventful, open_page):
    page = open_page(eventful).page
    page.get_by_label("Filter").fill("gpt-tiny compile+bf16")
    name, text = downloaded(page, "CSV")
    assert name == "history-throughput.csv"
    table = list(csv.DictReader(io.StringIO(text)))
    assert len(table) == 40
    assert {row["case"] for row in table} == {"gpt-tiny/compile+bf16/ws1"}
    name, text = downloaded(page, "JSON")
    assert name == "history-throughput.json"
    document = json.loads(text)
    assert len(document["records"]) == 640
    mine = [row for row in document["records"] if row["case"] == "gpt-tiny/compile+bf16/ws1"]
    assert [float(row["value"]) for row in table] == [row["value"] for row in mine]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(eventful, open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    opened = open_page(eventful, color_scheme=scheme, bypass_csp=True)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d, i) => (d.open = i < 6))")
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.browser
def test_paper_is_light_and_has_no_filter(eventful, open_page):
    page = open_page(eventful, color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert not page.locator(".filter").first.is_visible()
    assert page.locator("td.chart svg").first.is_visible()
