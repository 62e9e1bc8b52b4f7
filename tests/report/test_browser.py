"""The page in a real Chromium, opened from disk."""

from __future__ import annotations

import csv
import io
import json

import pytest

from llmbench.report import doctor_page, write_run_report
from llmbench.report.benchmarks import benchmarks_page
from llmbench.report.doctor_nodes import doctor_nodes_page
from llmbench.report.format import flatten
from llmbench.report.page import write_page
from llmbench.results.schema import Record, Run
from tests import factory
from tests.doctor.nodes.test_page import gathered, made  # noqa: F401 (a fixture)
from tests.report.test_doctor_page import document  # noqa: F401 (a fixture)
from tests.report.test_run_page import HOSTILE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = factory.smoke_run(tmp_path_factory.mktemp("browser") / "run")
    return folder, write_run_report(folder)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    return write_run_report(factory.ladder_run(tmp_path_factory.mktemp("ladder") / "run"))


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    folder = factory.modes_run(tmp_path_factory.mktemp("modes") / "run")
    return folder, write_run_report(folder)


def visible_rows(page):
    return page.locator("#cases-table tbody tr:visible th").all_inner_texts()


def test_opens_from_disk_silently_and_asks_for_nothing(smoke, open_page):
    _, path = smoke
    opened = open_page(path)
    opened.page.wait_for_load_state("networkidle")
    assert opened.messages == []
    assert opened.requests == [path.resolve().as_uri()]


def test_first_screen_answers_without_scrolling(smoke, open_page):
    page = open_page(smoke[1]).page
    for text in ("smoke on node-17", "Needs attention", "compile+bf16 over eager", "llmbench run smoke"):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text
    matrix = page.locator("table.matrix").bounding_box()
    assert matrix["y"] + matrix["height"] <= 900


@pytest.mark.parametrize("width", [390, 1440, 2200])
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_charts_are_visible_and_nothing_sticks_out(smoke, open_page, scripts, width):
    page = open_page(smoke[1], java_script_enabled=scripts, viewport={"width": width, "height": 900}).page
    charts = page.locator(".panel svg[role=img]")
    assert charts.count() == 12
    for index in range(charts.count()):
        box = charts.nth(index).bounding_box()
        assert charts.nth(index).is_visible()
        assert box["width"] > 200
        assert box["height"] > 40
        assert box["x"] + box["width"] <= width
    assert page.locator("#cases-table tbody tr:visible").count() == 16
    if scripts:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


OUTSIDE = """() => [...document.querySelectorAll('.panel svg[role=img]')].flatMap((svg) => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1;
    }).map((text) => text.textContent);
})"""


def test_labels_of_charts_stay_within_them(smoke, ladder, modes, open_page):
    for path in (smoke[1], ladder, modes[1]):
        assert open_page(path).page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_a_run_of_many_nodes_is_silent_and_nothing_sticks_out(tmp_path, open_page, width, scheme):
    changed = {3: {"torch.version": "2.12.0"}, 9: {"driver": "570.10"}}
    path = write_run_report(factory.nodes_run(tmp_path / "run", 32, slow=9, changed=changed))
    opened = open_page(path, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = opened.page
    first = page.get_by_text("torch 2.12.0 on h3; 2.13.0+cu130 on the other 31").bounding_box()
    assert first["y"] + first["height"] < page.get_by_text("Needs attention").bounding_box()["y"]
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.get_by_role("img", name="Step times of the ranks of gpt-tiny/ddp/ws64").scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.messages == []
    assert opened.requests == [path.resolve().as_uri()]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_ladder_and_many_modes_are_silent_and_nothing_sticks_out(ladder, modes, open_page, width, scheme):
    for path in (ladder, modes[1]):
        opened = open_page(path, viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.page.evaluate(
            "document.querySelectorAll('.panel details, .needs details').forEach((d) => (d.open = true))"
        )
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.messages == []
        assert opened.requests == [path.resolve().as_uri()]


def test_the_matrix_of_many_modes_can_be_seen_at_once(modes, open_page):
    """One screen below the verdict, every mode in a row of its own, none beside what it is not."""
    page = open_page(modes[1]).page
    box = page.locator(".kinds").bounding_box()
    assert box["height"] < 750
    assert page.locator(".kinds tbody tr").count() == 37
    names = page.locator(".kinds tbody th").all()
    assert all(name.bounding_box()["height"] < 30 for name in names)
    page.locator(".kinds a", has_text="failed").click()
    page.locator("[id='bert-tiny/hsdp/ws2']").wait_for(state="visible", timeout=5000)


def test_a_link_to_a_skipped_case_opens_its_group(modes, open_page):
    page = open_page(modes[1], "#gpt-tiny/compile-blocks+fp8/ws1").page
    case = page.locator("[id='gpt-tiny/compile-blocks+fp8/ws1']")
    assert case.is_visible()
    assert "compute capability 8.9" in case.locator("xpath=ancestor::details").inner_text()


def test_rows_of_several_cases_are_filtered_counted_and_downloaded_as_cases(modes, open_page):
    folder, path = modes
    page = open_page(path, "#q=fp8").page
    # Modes with fp8 are skipped, in one row.
    assert page.locator("#cases-table tbody tr:visible").count() == 1
    assert page.locator("[data-count]").inner_text() == "4 of 142"
    _, text = downloaded(page, "CSV")
    wanted = [record.case for record in folder.records() if "fp8" in record.mode]
    assert [row["case"] for row in csv.DictReader(io.StringIO(text))] == wanted
    page.get_by_role("button", name="Throughput").click()
    page.locator("[data-filter]").fill("")
    last = page.locator("#cases-table tbody tr:visible").last
    assert "skipped" in last.inner_text()


def test_without_scripts_no_button_is_shown_and_links_open_details(smoke, open_page):
    page = open_page(smoke[1], java_script_enabled=False).page
    assert page.locator("button:visible").count() == 0
    page.locator("#cases-table a", has_text="gpt-tiny/compile/ws1").click()
    body = page.locator("[id='gpt-tiny/compile/ws1']")
    body.wait_for(state="visible", timeout=5000)


def test_sorts_by_number_both_ways_and_keeps_what_has_no_value_last(smoke, open_page):
    folder, path = smoke
    page = open_page(path).page
    measured = [record for record in folder.records() if record.step_seconds]
    wanted = [r.case for r in sorted(measured, key=lambda r: -r.step_seconds.median)]
    head = page.get_by_role("button", name="Step median")
    head.click()
    assert visible_rows(page)[:-1] == wanted
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Step median")
    head.click()
    assert visible_rows(page)[:-1] == wanted[::-1]
    assert visible_rows(page)[-1] == "lora-tiny/compile+bf16/ws1"


def test_sorts_by_urgency(smoke, open_page):
    page = open_page(smoke[1]).page
    page.get_by_role("button", name="Status").click()
    assert visible_rows(page)[:3] == ["lora-tiny/compile+bf16/ws1", "gpt-tiny/bf16/ws1", "bert-tiny/bf16/ws1"]


def test_filters_by_words_and_by_problems_and_keeps_them_in_the_link(smoke, open_page):
    _, path = smoke
    page = open_page(path).page
    page.keyboard.press("/")
    page.keyboard.type("gpt bf16")
    assert visible_rows(page) == ["gpt-tiny/bf16/ws1", "gpt-tiny/compile+bf16/ws1"]
    assert page.locator("[data-count]").inner_text() == "2 of 16"
    page.get_by_label("only with problems").check()
    assert visible_rows(page) == ["gpt-tiny/bf16/ws1"]
    again = open_page(path, "#" + page.evaluate("location.hash.slice(1)")).page
    assert visible_rows(again) == ["gpt-tiny/bf16/ws1"]


def test_a_deep_link_opens_the_case(smoke, open_page):
    opened = open_page(smoke[1], "#lora-tiny/compile+bf16/ws1")
    body = opened.page.locator("[id='lora-tiny/compile+bf16/ws1']")
    assert body.is_visible()
    box = body.locator("xpath=ancestor::details").bounding_box()
    assert 0 <= box["y"] < 900
    assert "can't allocate memory" in body.inner_text()
    assert opened.messages == []


def test_the_script_opens_the_case_where_the_browser_would_not(smoke, open_page):
    page = open_page(smoke[1]).page
    page.evaluate(
        "history.replaceState(null, '', '#gpt-tiny/eager/ws1'); dispatchEvent(new HashChangeEvent('hashchange'))"
    )
    assert page.locator("[id='gpt-tiny/eager/ws1']").is_visible()


def test_a_link_to_a_case_keeps_what_the_table_shows(smoke, open_page):
    page = open_page(smoke[1], "#q=gpt&sort=3d&case=gpt-tiny/bf16/ws1").page
    assert page.locator("[id='gpt-tiny/bf16/ws1']").is_visible()
    assert 0 <= page.locator("[id='gpt-tiny/bf16/ws1']").bounding_box()["y"] < 900
    rows = visible_rows(page)
    assert len(rows) == 4
    page.locator("#cases-table a", has_text="gpt-tiny/eager/ws1").click()
    page.wait_for_function("location.hash.includes('=')")
    assert page.evaluate("location.hash") == "#q=gpt&sort=3d&case=gpt-tiny/eager/ws1"
    assert page.locator("[id='gpt-tiny/eager/ws1']").is_visible()
    again = open_page(smoke[1], page.evaluate("location.hash")).page
    assert visible_rows(again) == rows
    assert again.locator("[id='gpt-tiny/eager/ws1']").is_visible()
    page.locator("nav a", has_text="Environment").click()
    page.wait_for_function("!location.hash.includes('case')")
    assert page.evaluate("location.hash") == "#q=gpt&sort=3d"
    assert page.locator("#environment").is_visible()


def test_a_link_to_a_section_changes_nothing_else(smoke, open_page):
    page = open_page(smoke[1], "#explore").page
    assert page.evaluate("location.hash") == "#explore"
    assert len(visible_rows(page)) == 16


def test_a_click_in_the_matrix_opens_the_case(smoke, open_page):
    page = open_page(smoke[1]).page
    page.locator("table.matrix a", has_text="invalid").click()
    page.locator("[id='gpt-tiny/bf16/ws1']").wait_for(state="visible", timeout=5000)


def test_theme_goes_from_auto_to_light_to_dark_and_is_remembered(smoke, open_page):
    page = open_page(smoke[1], color_scheme="dark").page

    def back():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert back() == "rgb(13, 17, 23)"
    button = page.locator("[data-do=theme]")
    button.click()
    assert (button.inner_text(), back()) == ("Theme: light", "rgb(245, 247, 249)")
    button.click()
    assert (button.inner_text(), back()) == ("Theme: dark", "rgb(13, 17, 23)")
    page.reload()
    assert page.locator("[data-do=theme]").inner_text() == "Theme: dark"
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"


def downloaded(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    with open(waiting.value.path(), encoding="utf-8", newline="") as file:
        return waiting.value.suggested_filename, file.read()


def test_json_download_parses_back_to_the_records(smoke, open_page):
    folder, path = smoke
    name, text = downloaded(open_page(path).page, "JSON")
    assert name == "20261122-081204-7f3a.json"
    whole = json.loads(text)
    assert [Record.model_validate(record) for record in whole["records"]] == folder.records()
    lines = (folder.path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert whole["records"] == [json.loads(line) for line in lines]
    assert Run.model_validate(whole["run"]) == folder.read_run()
    assert len(whole["curves"]) == 16


def test_json_download_of_every_kind_of_case_parses_back_to_the_records(modes, open_page):
    folder, path = modes
    _, text = downloaded(open_page(path).page, "JSON")
    assert [Record.model_validate(record) for record in json.loads(text)["records"]] == folder.records()


def test_downloads_hold_numbers_and_names_that_scripts_find_hard(tmp_path, open_page):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", "bf16"])
    record = folder.records()[0]
    record.config |= {"seed": 2**63 + 1, "__proto__": {"x": 1}, "tiny": 5e-324, "gone": None, "text": "</script>\u2028"}
    folder.append(record)
    page = open_page(write_run_report(folder)).page
    _, text = downloaded(page, "JSON")
    assert [Record.model_validate(one) for one in json.loads(text)["records"]] == folder.records()
    _, text = downloaded(page, "CSV")
    first = next(csv.DictReader(io.StringIO(text)))
    assert first["config.seed"] == str(2**63 + 1)
    assert first["config.__proto__.x"] == "1"


def test_csv_download_parses_back_to_every_number_of_the_records(smoke, open_page):
    folder, path = smoke
    _, text = downloaded(open_page(path).page, "CSV")
    records = {record.case: json.loads(record.model_dump_json(by_alias=True)) for record in folder.records()}
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(records) == 16
    for row in rows:
        for field, told in flatten(records[row["case"]]):
            if isinstance(told, bool) or told is None:
                assert row[field] == {True: "true", False: "false", None: ""}[told]
            elif isinstance(told, int | float):
                assert float(row[field]) == told
            elif isinstance(told, list):
                assert json.loads(row[field]) == told


def test_json_and_csv_of_a_file_of_pytest_benchmark(tmp_path, open_page):
    benchmarks = [{"name": f"test_{n}", "stats": {"median": n / 8, "rounds": 5}} for n in (1, 2, 3)]
    (tmp_path / "micro.json").write_text(json.dumps({"benchmarks": benchmarks}), encoding="utf-8")
    write_page(tmp_path / "micro.html", benchmarks_page(tmp_path / "micro.json"))
    opened = open_page(tmp_path / "micro.html", "#q=test_2")
    name, text = downloaded(opened.page, "CSV")
    assert name == "micro.csv"
    assert [(row["name"], row["stats.median"]) for row in csv.DictReader(io.StringIO(text))] == [("test_2", "0.25")]
    _, text = downloaded(opened.page, "JSON")
    assert json.loads(text)["benchmarks"] == benchmarks
    assert opened.messages == []


def test_csv_download_holds_the_rows_that_are_shown(smoke, open_page):
    folder, path = smoke
    page = open_page(path, "#q=bert").page
    name, text = downloaded(page, "CSV")
    rows = list(csv.DictReader(io.StringIO(text)))
    records = {record.case: record for record in folder.records()}
    assert name == "20261122-081204-7f3a.csv"
    assert [row["case"] for row in rows] == visible_rows(page)
    assert float(rows[0]["throughput.value"]) == records["bert-tiny/eager/ws1"].throughput.value
    assert rows[0]["throughput.unit"] == "tokens/s"


def test_copy_gives_the_command(smoke, open_page):
    page = open_page(smoke[1], permissions=["clipboard-read", "clipboard-write"]).page
    page.locator("[data-do=copy]").first.click()
    page.get_by_role("button", name="Copy: the command of this run").wait_for()
    command = "llmbench run smoke --data '../shared data/wikitext-2' --out r1"
    assert page.evaluate("navigator.clipboard.readText()") == command


def test_hostile_records_run_nothing_and_are_shown(tmp_path, open_page):
    case = factory.planned(f"=1+1{HOSTILE}", "eager")
    folder = factory.RunFolder.create(tmp_path / "run", factory.make_run([case], suite=HOSTILE, id=HOSTILE))
    record, series = factory.ok_record(factory.planned("gpt-tiny", "eager"))
    record.case, record.workload = case.case, case.workload
    record.series = "series/x.json"
    (folder.path / "series/x.json").write_text(series.model_dump_json())
    folder.append(record)
    opened = open_page(write_run_report(folder))
    dialogs = []
    opened.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    opened.page.locator("#cases-table a").click()
    assert opened.page.locator("details.one[open]").count() == 1
    _, text = downloaded(opened.page, "CSV")
    assert next(csv.DictReader(io.StringIO(text)))["workload"].startswith("'=1+1")
    assert (dialogs, opened.messages, len(opened.requests)) == ([], [], 1)
    assert HOSTILE.split("\u202e")[0] in opened.page.locator("#cases-table").inner_text()


def test_prints_on_a_few_pages(smoke, open_page):
    pdf = open_page(smoke[1], color_scheme="dark").page.pdf(prefer_css_page_size=True, print_background=True)
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 8


@pytest.fixture
def pages(smoke, ladder, modes, tmp_path, document, gathered):  # noqa: F811
    doctor, nodes = tmp_path / "doctor.html", tmp_path / "nodes.html"
    doctor.write_text(doctor_page(document), encoding="utf-8")
    nodes.write_text(doctor_nodes_page(made(gathered)), encoding="utf-8")
    empty = factory.RunFolder.create(tmp_path / "empty", factory.make_run([], environment={}))
    known = {"run": smoke[1], "ladder": ladder, "modes": modes[1]}
    return known | {"doctor": doctor, "nodes": nodes, "empty": write_run_report(empty)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    [
        "run",
        "doctor",
        "nodes",
        "empty",
        *(pytest.param(large, marks=pytest.mark.slow) for large in ("ladder", "modes")),
    ],
)
def test_axe_finds_nothing(pages, open_page, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is injected as a script, which the page's own policy rightly forbids.
    opened = open_page(pages[name], color_scheme=scheme, bypass_csp=True)
    # The first ones and the last: axe takes a second for each that is open.
    opened.page.evaluate(
        "[...document.querySelectorAll('details')].forEach((d, i) => (d.open = i < 6 || d.matches('.one:last-child')))"
    )
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()


def test_doctor_page_is_silent_and_filters(pages, open_page):
    opened = open_page(pages["doctor"])
    opened.page.get_by_label("only with problems").check()
    assert opened.page.locator("#checks-table tbody tr:visible").count() == 2
    assert opened.messages == []
    assert len(opened.requests) == 1
    name, text = downloaded(opened.page, "JSON")
    assert name == "doctor.json"
    assert json.loads(text)["verdict"] == "fail"
    assert not opened.page.get_by_role("button", name="CSV").is_visible()  # it has no records
