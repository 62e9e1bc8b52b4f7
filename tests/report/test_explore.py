"""Explore in a real Chromium: choosing, zooming, reading values, and a link that shows the same."""

from __future__ import annotations

import math

import pytest

from llmbench.report import run_page, write_run_report
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page

STEPS = 600  # beyond what four workloads in four modes can be carried step by step

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = factory.smoke_run(tmp_path_factory.mktemp("explore") / "run", steps=100)
    return folder, write_run_report(folder)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Curves of many steps; one of them is lost on the way, and one has a spike."""
    cases = [factory.planned(name, mode) for name in factory.WORKLOADS for mode in factory.MODES]
    folder = RunFolder.create(tmp_path_factory.mktemp("long") / "run", factory.make_run(cases))
    for case in cases:
        record, series = factory.ok_record(case, steps=STEPS)
        if case.case == "regression-linear/compile/ws1":
            series.loss[300] = 1000.0
        if case.case == "regression-linear/bf16/ws1":
            series.loss[400:] = [math.nan] * (STEPS - 400)
        factory.add(folder, record, series)
    return folder, write_run_report(folder)


class Explore:
    """What a person does with the panel, and sees there."""

    def __init__(self, page):
        self.page = page
        self.panel = page.locator("#explore-panel")
        self.panel.scroll_into_view_if_needed()
        self.plot = page.locator("[data-plot]")
        self.plot.locator("svg").wait_for()

    def tick(self, name):
        self.panel.get_by_label(name, exact=True).click()

    def curves(self):
        return self.panel.locator(".values tbody th").all_inner_texts()

    def values(self):
        return self.panel.locator(".values tbody td:nth-child(2)").all_inner_texts()

    def ranges(self):
        return self.panel.locator(".values tbody td:nth-child(3)").all_inner_texts()

    def lines(self):
        return self.plot.locator("path.line[stroke-width='2']:not([d*='l6'])")

    def said(self):
        return self.page.locator("[data-said]").inner_text()

    def at(self):
        return self.page.locator("[data-at]").inner_text()

    def spoken(self):
        return self.page.locator("[data-live]").text_content()

    def ticks(self):
        return self.plot.locator("text[text-anchor=middle]").all_text_contents()

    def hash(self):
        return self.page.evaluate("location.hash")

    def drag(self, start, end):
        """From one share of the width of the chart's own area to another."""
        self.plot.scroll_into_view_if_needed()
        box = self.plot.bounding_box()
        frame = self.plot.locator("clipPath rect")
        left, width = (float(frame.get_attribute(name)) for name in ("x", "width"))
        y = box["y"] + 60
        self.page.mouse.move(box["x"] + left + start * width, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + left + end * width, y, steps=4)
        assert self.plot.locator(".selection").get_attribute("visibility") == "visible"
        self.page.mouse.up()


@pytest.fixture
def explore(smoke, open_page):
    return Explore(open_page(smoke[1]).page)


def test_shows_the_first_workload_from_the_start(explore):
    assert explore.curves() == factory.MODES
    assert explore.lines().count() == 4
    assert explore.said() == "4 of at most 8 curves"
    assert explore.at() == "at the last step"
    assert explore.hash() == ""


def test_is_read_and_drawn_only_when_it_comes_near(smoke, open_page):
    page = open_page(smoke[1]).page
    page.wait_for_load_state("networkidle")
    assert page.locator("[data-plot] svg").count() == 0
    page.locator("#explore").scroll_into_view_if_needed()
    page.locator("[data-plot] svg").wait_for()


def test_colour_and_dash_are_those_of_the_mode(explore):
    drawn = explore.lines().evaluate_all(
        "lines => lines.map(line => [line.getAttribute('class'), line.getAttribute('stroke-dasharray')])"
    )
    legend = explore.page.locator("#workloads ~ .legend line.line").evaluate_all(
        "lines => lines.map(line => [line.getAttribute('class'), line.getAttribute('stroke-dasharray')])"
    )
    assert drawn == legend[:4]


def test_a_mode_of_two_workloads_has_one_colour_and_two_dashes(explore):
    explore.tick("gpt-tiny")
    assert explore.curves()[0] == "regression-linear eager"
    looks = explore.lines().evaluate_all(
        "lines => lines.map(line => line.getAttribute('class') + line.getAttribute('stroke-dasharray'))"
    )
    assert len(set(looks)) == 8
    assert len({look.split("null")[0][:7] for look in looks}) == 4


def test_eight_curves_are_the_most_and_it_says_so(explore):
    explore.tick("gpt-tiny")
    assert explore.said() == "8 of at most 8 curves"
    explore.tick("bert-tiny")
    assert explore.said() == "8 curves at most, and this would make 12: take something away first."
    assert not explore.panel.get_by_label("bert-tiny", exact=True).is_checked()
    assert len(explore.curves()) == 8
    explore.tick("bf16")
    explore.tick("compile+bf16")
    explore.tick("bert-tiny")
    assert len(explore.curves()) == 6
    assert explore.hash() == "#explore=regression-linear,bert-tiny,gpt-tiny;eager,compile"


def test_nothing_chosen_says_what_to_do(explore):
    explore.tick("regression-linear")
    assert explore.said() == "Choose a workload and a mode."
    explore.plot.focus()
    for key in ("ArrowRight", "+", "End", "Escape"):
        explore.page.keyboard.press(key)
    explore.drag(0.2, 0.6)
    assert explore.lines().count() == 0


def test_a_mode_without_a_curve_cannot_be_added(explore):
    explore.tick("regression-linear")
    explore.tick("compile+bf16")
    explore.tick("lora-tiny")
    box = explore.panel.get_by_label("compile+bf16", exact=True)
    assert box.is_disabled()
    assert explore.curves() == ["eager", "compile", "bf16"]


def test_values_under_the_pointer_are_those_of_the_record(smoke, explore):
    box = explore.plot.bounding_box()
    explore.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    step = int(explore.at().removeprefix("step "))
    assert 40 < step < 60
    folder = smoke[0]
    recorded = {
        record.mode: folder.read_series(record) for record in folder.records() if "regression" in record.workload
    }
    for mode, shown in zip(explore.curves(), explore.values(), strict=True):
        assert float(shown) == pytest.approx(recorded[mode].loss[step], rel=1e-4)
    assert explore.plot.locator("circle[visibility=visible]").count() == 4
    explore.page.mouse.move(5, 5)
    assert explore.at() == "at the last step"


def test_the_keyboard_moves_the_cursor_and_it_is_announced(explore):
    explore.page.get_by_label("logarithmic").focus()
    for _ in range(5):
        explore.page.keyboard.press("Tab")
        if explore.plot.evaluate("plot => plot === document.activeElement"):
            break
    assert explore.at() == "step 0"
    press = explore.page.keyboard.press
    press("ArrowRight")
    press("PageDown")
    press("ArrowLeft")
    assert explore.at() == "step 10"
    assert explore.spoken().startswith(f"step 10: eager {explore.values()[0]}, compile ")
    press("End")
    assert explore.at() == "step 99"
    press("ArrowRight")
    assert explore.at() == "step 99"
    press("Home")
    assert explore.at() == "step 0"
    assert explore.plot.evaluate("plot => getComputedStyle(plot).outlineStyle") != "none"


def test_the_keyboard_zooms_about_the_cursor_and_escape_goes_back(explore):
    explore.plot.focus()
    press = explore.page.keyboard.press
    for _ in range(5):
        press("PageDown")
    press("+")
    assert explore.hash() == "#x=25-75"
    press("+")
    assert explore.hash() == "#x=38-63"
    press("-")
    assert explore.hash() == "#x=26-76"
    press("Escape")
    assert explore.hash() == ""
    assert explore.at() == "step 50"


def test_drag_zooms_and_double_click_goes_back(explore):
    assert explore.ticks()[0] == "0"
    explore.drag(0.25, 0.5)
    assert explore.hash() == "#x=25-50"
    assert explore.ticks() == ["25", "30", "35", "40", "45", "step 50"]
    explore.drag(0.8, 0.4)  # backwards
    assert explore.hash() == "#x=35-45"
    explore.plot.dblclick()
    assert explore.hash() == ""
    assert explore.ticks()[0] == "0"


def test_a_click_is_no_drag_and_escape_gives_a_drag_up(explore):
    explore.plot.click()
    assert explore.hash() == ""
    box = explore.plot.bounding_box()
    explore.plot.focus()
    explore.page.mouse.move(box["x"] + 200, box["y"] + 50)
    explore.page.mouse.down()
    explore.page.mouse.move(box["x"] + 400, box["y"] + 50)
    explore.page.keyboard.press("Escape")
    explore.page.mouse.up()
    assert explore.hash() == ""
    assert explore.plot.locator(".selection").get_attribute("visibility") == "hidden"


def test_buttons_zoom_as_far_as_there_are_points(explore):
    whole = explore.panel.get_by_role("button", name="All steps")
    assert whole.is_disabled()
    for _ in range(8):
        explore.panel.get_by_role("button", name="Zoom in").click()
    start, end = (int(step) for step in explore.hash().removeprefix("#x=").split("-"))
    assert end - start == 4
    for _ in range(8):
        explore.panel.get_by_role("button", name="Zoom out").click()
    assert explore.hash() == ""
    explore.panel.get_by_role("button", name="Zoom in").click()
    whole.click()
    assert explore.hash() == ""


def test_the_axis_of_values_fits_what_is_in_view(explore):
    def ends():
        ticks = explore.plot.locator("text[text-anchor=end]").all_text_contents()
        return float(ticks[0]), float(ticks[-1])

    # From 8.9 down to 0.1: logarithmic without being asked.
    assert explore.page.get_by_label("logarithmic").is_checked()
    assert ends() == (0.1, 10)
    explore.page.get_by_label("logarithmic").click()
    assert explore.hash() == "#log=0"
    assert ends() == (0, 10)
    explore.drag(0.8, 1)
    assert ends()[1] < 1
    explore.page.get_by_label("logarithmic").click()
    assert "log=1" in explore.hash()


def test_a_link_shows_the_same_beside_the_state_of_the_table(smoke, open_page, explore):
    explore.tick("gpt-tiny")
    explore.tick("compile")
    explore.drag(0.25, 0.5)
    explore.page.get_by_label("logarithmic").click()
    explore.page.locator("[data-filter]").fill("gpt bf16")
    link = explore.hash()
    assert "q=gpt+bf16" in link
    again = open_page(smoke[1], link).page
    again.locator("[data-plot] svg").wait_for()
    box = again.locator("#explore-panel").bounding_box()
    assert 0 <= box["y"] < 450  # the link goes there
    shown = Explore(again)
    assert shown.curves() == explore.curves()
    assert shown.ticks() == explore.ticks()
    assert shown.page.get_by_label("logarithmic").is_checked() == explore.page.get_by_label("logarithmic").is_checked()
    assert again.locator("#cases-table tbody tr:visible").count() == 2
    assert shown.hash() == link


def test_changing_the_address_changes_what_is_shown(explore):
    explore.page.evaluate("location.hash = '#explore=bert-tiny;eager,bf16&x=10-20'")
    explore.page.wait_for_function("document.querySelectorAll('.values tbody tr').length === 2")
    assert explore.curves() == ["eager", "bf16"]
    assert explore.ticks()[0] == "10"


@pytest.mark.parametrize(
    "fragment",
    [
        "#explore=gone;nothing",
        "#explore=;;;&x=9-1",
        "#explore=gpt-tiny&x=a-b&log=7&show=joules",
        "#x=-5",
        "#x=1e9-2e9",
        "#explore=%E0%A4%A",
    ],
)
def test_a_damaged_link_breaks_nothing(smoke, open_page, fragment):
    opened = open_page(smoke[1], fragment)
    explore = Explore(opened.page)
    explore.drag(0.2, 0.6)
    assert opened.messages == []
    assert explore.plot.locator("svg").count() == 1


def test_a_link_with_more_than_eight_shows_eight(smoke, open_page):
    keys = "regression-linear,bert-tiny,gpt-tiny,lora-tiny;eager,compile,bf16,compile%2Bbf16"
    explore = Explore(open_page(smoke[1], f"#explore={keys}").page)
    assert 1 <= len(explore.curves()) <= 8


def test_time_by_step_in_its_unit(smoke, explore):
    explore.panel.locator("select").select_option("seconds")
    assert explore.hash() == "#show=seconds"
    assert all(value.endswith(" ms") for value in explore.values())
    folder = smoke[0]
    series = folder.read_series(folder.records()[0])
    explore.plot.focus()
    explore.page.keyboard.press("Home")
    # Time is known from step 1 on: step 0 is phase compile.
    for _ in range(3):
        explore.page.keyboard.press("ArrowRight")
    assert explore.at().startswith(("step", "mean of steps"))
    fastest, slowest = (1e3 * end(series.step_seconds) for end in (min, max))
    assert fastest * 0.99 <= float(explore.values()[0].split()[0]) <= slowest * 1.01


def test_no_spike_is_lost_in_thinning(long, open_page):
    explore = Explore(open_page(long[1], "#x=280-320&log=0").page)
    assert explore.plot.locator("path.band").count() == 4
    explore.plot.focus()
    found = False
    for _ in range(40):
        explore.page.keyboard.press("ArrowRight")
        if "to 1000" in explore.ranges()[1]:
            found = True
            first, last = (int(word) for word in explore.at().removeprefix("mean of steps ").split(" to "))
            assert first <= 300 <= last
            break
    assert found
    assert "pale: from the least to the greatest" in explore.page.locator("[data-note]").inner_text()


def test_what_is_not_finite_is_marked_and_told(long, open_page):
    explore = Explore(open_page(long[1]).page)
    assert explore.plot.locator("path[d*='l6']").count() == 1
    assert explore.values()[2] == "✕ not finite"
    explore.plot.focus()
    explore.page.keyboard.press("End")
    assert "bf16 ✕ not finite" in explore.spoken()


def test_stays_within_a_phone_and_can_be_used_there(smoke, open_page):
    page = open_page(smoke[1], viewport={"width": 390, "height": 800}, has_touch=True).page
    explore = Explore(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert explore.plot.bounding_box()["width"] > 300
    box = explore.plot.bounding_box()
    page.touchscreen.tap(box["x"] + 150, box["y"] + 80)
    assert explore.curves() == factory.MODES


def test_follows_the_width_of_the_window(explore):
    wide = float(explore.plot.locator("svg").get_attribute("width"))
    explore.page.set_viewport_size({"width": 800, "height": 900})
    explore.page.wait_for_function(f"Number(document.querySelector('[data-plot] svg').getAttribute('width')) < {wide}")


def test_is_not_there_without_scripts_nor_on_paper(smoke, open_page):
    page = open_page(smoke[1], java_script_enabled=False).page
    assert not page.locator("#explore-panel").is_visible()
    assert not page.locator("nav a", has_text="Explore").is_visible()
    printed = open_page(smoke[1]).page
    assert printed.locator("#explore-panel").is_visible()
    printed.emulate_media(media="print")
    assert not printed.locator("#explore-panel").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_it(long, open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    opened = open_page(long[1], color_scheme=scheme, bypass_csp=True)
    explore = Explore(opened.page)
    explore.plot.focus()
    explore.page.keyboard.press("End")
    found = axe.Axe().run(opened.page, context="#explore-panel")
    assert found.violations_count == 0, found.generate_report()


def test_hostile_names_stay_text(tmp_path, open_page):
    evil = "</script><img src=x onerror=alert(1)>,;&=%"
    folder = RunFolder.create(tmp_path / "run", factory.make_run([]))
    for index in range(2):
        record, series = factory.ok_record(factory.planned("gpt-tiny", "eager"))
        record.case, record.workload, record.mode = f"case{index}", evil, f"{evil}{index}"
        factory.add(folder, record, series)
    opened = open_page(write_run_report(folder))
    explore = Explore(opened.page)
    explore.panel.locator("input[name=mode]").first.click()
    assert explore.curves() == [f"{evil}1"]
    assert len(explore.hash()) > 5
    again = Explore(open_page(write_run_report(folder), explore.hash()).page)
    assert again.curves() == [f"{evil}1"]
    assert opened.messages == []


def test_a_run_without_a_curve_has_no_explore(tmp_path):
    case = factory.planned("gpt-tiny", "eager")
    folder = RunFolder.create(tmp_path / "run", factory.make_run([case]))
    factory.add(folder, factory.broken_record(case, "oom", factory.OUT_OF_MEMORY))
    page = Page(run_page(folder))
    assert not page.all("section", id="explore-panel")
    assert "Explore" not in page.body
