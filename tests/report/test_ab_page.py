"""The page of an A/B comparison: verdict, sides, forest plot, table, each case at length, damage, hostile texts."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
import typer
from typer.testing import CliRunner

from llmbench.cli.report import report
from llmbench.errors import UserError
from llmbench.report.ab import ab_page, write_ab_report
from llmbench.report.charts.forest import Effect, forest
from llmbench.report.charts.sessions import Look, session_dots
from llmbench.report.charts.turns import TurnSteps, turn_order
from llmbench.report.palette import Ink
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.ab import compared
from tests import ab_factory, factory
from tests.ab_factory import FAILED, SCENARIOS, large, made_ab, made_session, made_sessions
from tests.report.html_reader import Page
from tests.report.test_browser import downloaded
from tests.report.test_run_page import HOSTILE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return SCENARIOS["mixed"].folder(tmp_path_factory.mktemp("mixed") / "ab")


@pytest.fixture(scope="module")
def page(folder):
    return Page(ab_page(SCENARIOS["mixed"].comparison, folder))


def page_of(name):
    return Page(ab_page(SCENARIOS[name].comparison))


def charts(page):
    """Names of the drawings."""
    return [" ".join(title.text.split()) for title in page.all("title")[1:]]


def detail(page, case):
    found = [
        one for one in page.all("details", class_="one") if case in " ".join(one.text.split()).split(" sessions in")[0]
    ]
    return " ".join(found[0].text.split())


# Heading and first card


def test_the_heading_is_the_verdict_in_words(page):
    assert page.one("h1").text == "5 of 10 cases got worse"
    assert page.all("title")[0].text == "5 of 10 cases got worse · llmbench"


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("same", "Nothing got worse"),
        ("slower", "gpt-tiny/eager/ws1 got worse: step, total"),
        ("slower total", "gpt-tiny/eager/ws1 got worse: total"),
        ("more memory", "gpt-tiny/eager/ws1 got worse: memory"),
        ("changed loss", "gpt-tiny/eager/ws1 got worse: loss"),
        ("broken", "gpt-tiny/eager/ws1 is broken"),
        ("no base", "The base could not be run in 1 of 1 case"),
        ("faster", "Nothing got worse; 1 of 1 case got better"),
        ("budget over", "It cannot be told"),
        ("self-check", "Self-check: no false alarm"),
        ("false alarm", "Self-check: a false alarm in 1 of 1 case"),
        ("false praise", "Self-check: a false alarm in 1 of 1 case"),
        ("empty", "Nothing to compare"),
    ],
)
def test_headings(name, heading):
    assert page_of(name).one("h1").text == heading


def test_pills_count_every_outcome(page):
    told = [" ".join(pill.text.split()) for pill in page.all("li", class_="pill")]
    assert told == [
        "✖ 1 broken",
        "▼ 2 slower",
        "▲ 2 with more memory",
        "≠ 1 with a changed loss",
        "✖ 1 no base",
        "? 1 inconclusive",
        "▲ 1 faster",
        "▼ 1 with less memory",
        "= 1 same",
    ]


def test_the_gate_names_metric_and_case_and_the_direction_is_said(page):
    body = page.body
    assert "Gate failed: 5 cases got worse." in body
    assert "It fails if a case is slower by more than 1 %, takes more memory, has another loss, or breaks." in body
    for told in ("gpt-tiny/eager/ws1 step slower: +6.1 % time [", "gpt-tiny/eager/ws1 memory more: +6.0 % of 1.21 GiB"):
        assert told in body
    assert "+ is more: slower, or more memory" in body
    assert "exit 1" in body


def test_both_sides_and_what_differs_are_shown(page):
    assert "What differs: 1 of 15 keys" in page.body
    differs, sides = (" ".join(table.text.split()) for table in page.all("table", class_="differs"))
    assert differs.endswith("packages.numpy 2.3.1 2.4.0")
    for told in (
        "Side main cand",
        "Kind revision python",
        "Revision 4e2b1aa04e2b 9c41e07b9c41, with local changes",
        "Python /envs/main/bin/python · 3.12.8 /envs/cand/bin/python · 3.12.8",
        "torch 2.13.0+cpu 2.13.0+cpu",
    ):
        assert told in sides, told


def test_equal_sides_differ_in_nothing():
    side = ab_factory.made_side("main")
    body = Page(ab_page(compared(made_ab(base=side, cand=side), made_sessions(5)))).body
    assert "What differs: 0 of 15 keys" in body
    assert "Nothing that was recorded." in body


def test_the_command_and_how_to_add_sessions(page, folder):
    assert "llmbench ab --base main --cand . smoke" in page.body
    assert f"llmbench ab --resume {folder.path}" in page.body
    assert "llmbench ab --resume DIR" in page_of("same").body


@pytest.mark.parametrize(
    ("name", "notice"),
    [
        ("self-check", "both sides are the same, so whatever is told to differ is a false alarm"),
        ("apart", "they ran one after the other, so that only larger differences can be seen"),
    ],
)
def test_notices(name, notice):
    assert notice in page_of(name).body
    assert notice not in page_of("same").body


def test_an_unfinished_comparison_says_so():
    for status, told in (("running", "still going on, or was killed"), ("interrupted", "It was interrupted")):
        assert told in Page(ab_page(compared(made_ab(status=status), made_sessions(5)))).body


def test_what_is_open_says_why_and_what_to_do():
    assert (
        "4 sessions did not settle it yet; --resume DIR adds sessions, a longer --budget" in page_of("budget over").body
    )
    assert "compare anew on a quieter machine" in page_of("too noisy").body
    assert "make the base run" in page_of("no base").body


# Forest plot and table


def test_forest_plot_has_a_row_for_each_time_on_an_axis_of_time(page):
    drawn = page.source[page.source.index("<title>Time, CAND over BASE</title>") :]
    drawn = drawn[: drawn.index("</svg>")]
    assert len(re.findall('transform="translate', drawn)) == 16
    assert drawn.count("fill c1") == 3
    assert drawn.count("fill c0") == 1
    assert drawn.count("hollow grey") == 2
    slower = float(re.search(r"translate\(([\d.]+) [\d.]+\)[^>]*fill c1", drawn)[1])
    faster = float(re.search(r"translate\(([\d.]+) [\d.]+\)[^>]*fill c0", drawn)[1])
    assert faster < slower
    assert drawn.index("▲ faster: less time") < drawn.index("more time: slower ▼")


def test_the_limit_is_drawn_where_it_is():
    row = Effect("a", "same", 1.0, 0.99, 1.01, "text")
    assert "stroke-dasharray" not in forest("title", [row], 0.01)
    assert forest("title", [row], 0.01, limit=0.05).count("stroke-dasharray") == 1
    assert forest("title", [row], 0.01, limit=0.9).count("stroke-dasharray") == 1


def test_rows_tell_estimate_interval_sessions_and_what_could_have_been_seen(page):
    rows = [" ".join(row.text.split()) for row in page.all("tr") if "data-record" in row.attributes]
    assert rows[0].startswith("✖ broken bert-tiny/compile/ws1 CAND failed in 1 of 1 sessions: cannot import name")
    row = next(row for row in rows if "gpt-tiny/eager/ws1 step" in row)
    assert re.fullmatch(
        r"▼ slower gpt-tiny/eager/ws1 step \+6.1 % time \[\+\d.\d, \+\d.\d\] \d 1 min 47 s 0.\d\d % ≥ \d.\d %", row
    ), row
    assert any(row.startswith("= same gpt-tiny/eager/ws1 loss bitwise – 8") for row in rows)


# Each case


def test_every_case_has_its_charts(page):
    drawn = charts(page)
    for name in (
        "Typical step of gpt-tiny/eager/ws1, session by session",
        "All time of gpt-tiny/eager/ws1, session by session",
        "Loss of gpt-tiny/eager/ws1",
    ):
        assert drawn.count(name) == 1
    assert sum(name.startswith("Steps of session ") for name in drawn) == 8


def test_noise_facts_of_each_session(page):
    told = detail(page, "gpt-tiny/eager/ws1")
    one = SCENARIOS["mixed"].comparison.cases[2].sessions[0]
    row = (
        f"1 {one.first.upper()} +5.9 % +6.3 % 1.21 GiB 1.28 GiB {one.load_1min:.2f} "
        f"{one.base.preempted} / {one.cand.preempted} 1 {one.seed} {one.seconds:.1f} s"
    )
    assert row in told
    assert "Design lock-step: 24 rounds of 3 steps each, in random order" in told
    assert "Peak memory CAND 1.28 GiB" in told


def test_a_failure_shows_its_message_hint_and_log(page):
    told = detail(page, "bert-tiny/compile/ws1")
    assert "CAND failed in session 1: ImportError" in told
    assert "→ install kernels >= 2" in told
    assert "Traceback (most recent call last): " + FAILED.message in told


def test_the_first_step_of_the_loss_that_differs_is_marked(page):
    drawn = page.source[page.source.index("<title>Loss of gpt-tiny/bf16/ws1</title>") :]
    assert "≠ from step 31" in drawn[: drawn.index("</svg>")]
    drawn = page.source[page.source.index("<title>Loss of gpt-tiny/eager/ws1</title>") :]
    assert "≠" not in drawn[: drawn.index("</svg>")]
    within = Page(ab_page(compared(made_ab(), made_sessions(3, loss=lambda at: 1.0 if at < 7 else 1 + 1e-7))))
    assert "≠ from step 7" in within.source


def test_modes_that_differ_are_named():
    assert "Modes eager → compile" in " ".join(page_of("modes").body.split())


def test_a_session_that_does_not_count_says_why():
    assert "1: BASE oom and CAND oom" in page_of("apart").body


def test_sessions_after_the_verdict_are_hollow():
    values = [0.01] * 5
    look = Look(3, 1.01, 1.0, 1.02)
    drawn = session_dots("title", values, [look], 0.01, 0.05, Ink(0, None))
    full, hollow = re.findall(r'<path d="((?:M[\d. ]+a3 3[^"]*)+)"', drawn)
    assert (full.count("M"), hollow.count("M")) == (3, 2)


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, -0.3, 50.0, -800.0, 800.0])
def test_sessions_are_drawn_within_the_frame(value, tolerance):
    looks = [Look(3, 1.0, 0.0, math.inf), Look(5, 1e300, 1e-300, 1e300)]
    drawn = session_dots("title", [value, 0.01, -value, 0.0, 0.1], looks, tolerance, 0.05, Ink(0, None))
    places = [float(y) for y in re.findall(r'(?:M[\d.]+ | y1?="|V)(-?[\d.]+|nan|inf)', drawn)]
    assert places
    assert all(-10 <= y <= 200 for y in places), places


def test_the_turns_of_a_session_are_drawn_as_they_were_taken():
    page = page_of("too few")
    drawn = page.source[page.source.index("<title>Steps of session 1, turn by turn</title>") :]
    dots = re.findall(r'<path d="([^"]*a2 2[^"]*)"[^>]*fill (c\d)', drawn[: drawn.index("</svg>")])
    placed = sorted((float(x), css) for path, css in dots for x in re.findall(r"M([\d.]+) ", path))
    (session,) = SCENARIOS["too few"].sessions
    orders = {"base": ["c4", "c0"], "cand": ["c0", "c4"]}
    assert [css for _, css in placed] == [css for one in session.rounds for css in orders[one.first]]


def test_turns_stand_in_their_order():
    turns = [TurnSteps("CAND", 1.0, 1.5), TurnSteps("BASE", 1.1, 1.2), TurnSteps("CAND", math.nan, 1.0)]
    drawn = turn_order("title", turns, {"BASE": Ink(4, None), "CAND": Ink(0, None)})
    at = {css: float(x) for x, css in re.findall(r'<path d="M([\d.]+) [^"]*a2 2[^>]*fill (c\d)', drawn)}
    assert at["c0"] < at["c4"]
    assert turn_order("title", turns[2:], {"CAND": Ink(0, None)}) is None


# Damage, hostile texts, weight


def called(*words):
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_report_builds_the_page_anew(tmp_path):
    made = SCENARIOS["slower"].folder(tmp_path / "ab")
    done = called(made.path, "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md")
    assert (done.exit_code, done.stdout.strip()) == (0, str(made.report))
    assert Page(made.report.read_text(encoding="utf-8")).one("h1").text == "gpt-tiny/eager/ws1 got worse: step, total"
    assert "exit code 1" in (tmp_path / "m.md").read_text(encoding="utf-8")
    assert 'failures="2"' in (tmp_path / "j.xml").read_text(encoding="utf-8")
    assert write_ab_report(made, SCENARIOS["slower"].comparison) == made.report


def test_report_keeps_to_the_strictness_of_the_command(tmp_path):
    ab = made_ab(command=["llmbench", "ab", "--strict", "smoke"])
    made = ab_factory.written(tmp_path / "ab", ab, made_sessions(4, spread=0.02))
    called(made.path)
    assert "--strict, and 1 case could not be told" in made.report.read_text(encoding="utf-8")


def test_report_does_not_mix_junit_of_runs_and_comparisons(tmp_path):
    made = SCENARIOS["same"].folder(tmp_path / "ab")
    run = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"], steps=30)
    assert called(made.path, run.path).exit_code == 0
    error = called(made.path, run.path, "--junit", tmp_path / "j.xml").exception
    assert isinstance(error, UserError)
    assert "of its own" in error.hint


def test_damage_is_named_and_the_rest_is_shown(tmp_path):
    made = SCENARIOS["same"].folder(tmp_path / "ab")
    file = made.path / "sessions.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"seed": "much"})
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = called(made.path)
    assert done.exit_code == 2
    assert "sessions.jsonl, line 2: seed: Input should be a valid integer" in done.stderr
    body = Page(made.report.read_text(encoding="utf-8")).body
    assert "1 fault in the files; what is damaged counts nowhere" in body
    assert "sessions.jsonl, line 2: seed" in body
    assert "2: damaged or not whole" in body
    assert "4 sessions did not settle it yet" in body or "Nothing got worse" in body


def test_a_damaged_ab_json_is_refused_with_its_field(tmp_path):
    made = SCENARIOS["same"].folder(tmp_path / "ab")
    (made.path / "ab.json").write_text('{"kind": "ab", "id": 7}')
    error = called(made.path).exception
    assert isinstance(error, UserError)
    assert "ab.json: id: Input should be a valid string" in error.message


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    case = factory.planned(f"w{HOSTILE}", f"m{HOSTILE}")
    case = ab_factory.AbCase(id=HOSTILE, base=case, cand=factory.planned("x", f"n{HOSTILE}"))
    case.cand.config[HOSTILE] = HOSTILE
    sides = {
        name: ab_factory.made_side(HOSTILE, environment={HOSTILE: HOSTILE + name, "torch": HOSTILE}, paths=[HOSTILE])
        for name in ("base", "cand")
    }
    ab = made_ab([case], id=HOSTILE, suite=HOSTILE, command=[HOSTILE], started_at=HOSTILE, **sides)
    error = ab_factory.Error(type=HOSTILE, message=HOSTILE, hint=HOSTILE)
    sessions = [made_session(session=0), made_session(session=1, broken={"cand": error})]
    sessions = [one.model_copy(update={"case": HOSTILE, "started_at": HOSTILE}) for one in sessions]
    path = tmp_path_factory.mktemp("hostile") / "ab"
    made = AbFolder.create(path, ab)
    for one in sessions:
        one.cand.log = "logs/x.log"
        made.append(one)
    (path / "logs/x.log").write_text(HOSTILE * 3, encoding="utf-8")
    return ab_page(compared(made.read(), made.recorded()), made)


def test_hostile_texts_stay_text(hostile):
    page = Page(hostile)
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert "\u202e" not in page.body
    assert "\\u{202e}" in page.body
    names = {name for element in page.elements for name in element.attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}
    assert page.data["exit_code"] == 1


def test_a_large_comparison_is_light():
    """12 cases of 20 sessions of 24 rounds of 2 × 10 steps."""
    assert len(ab_page(large().comparison).encode()) < 400_000


def test_one_case_is_light():
    assert len(ab_page(SCENARIOS["slower"].comparison).encode()) < 64_000


# In a browser


@pytest.fixture(scope="module")
def files(folder, hostile, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    made = {"mixed": ab_page(SCENARIOS["mixed"].comparison, folder), "hostile": hostile}
    made |= {name: ab_page(SCENARIOS[name].comparison) for name in ("never settled", "empty")}
    for name, text in made.items():
        (out / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: out / f"{name}.html" for name in made}


NAMES = ("mixed", "hostile", "never settled", "empty")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_silent_asks_for_nothing_and_does_not_stick_out(files, open_page, name, scheme, width):
    opened = open_page(files[name], viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.messages == []
    assert opened.requests == [files[name].resolve().as_uri()]


@pytest.mark.browser
def test_the_first_screen_answers(files, open_page):
    page = open_page(files["mixed"]).page
    for text in ("5 of 10 cases got worse", "Gate failed", "What differs", "The two sides", "marker: estimate"):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text


@pytest.mark.browser
def test_unchanged_rows_are_hidden_and_csv_holds_what_is_left(files, open_page):
    page = open_page(files["mixed"]).page
    page.get_by_label("hide unchanged").check()
    assert page.locator("[role=status]").inner_text() == "12 of 34"
    page.locator("[data-filter]").fill("gpt-tiny/eager")
    _, text = downloaded(page, "CSV")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [(row["case"], row["metric"], row["verdict"]) for row in found] == [
        ("gpt-tiny/eager/ws1", "step", "slower"),
        ("gpt-tiny/eager/ws1", "total", "slower"),
        ("gpt-tiny/eager/ws1", "memory", "more"),
    ]
    assert float(found[0]["estimate"]) == pytest.approx(1.061, abs=1e-3)


@pytest.mark.browser
def test_rows_sort_by_number(files, open_page):
    page = open_page(files["mixed"]).page
    page.get_by_role("button", name="Change").click()
    first = page.locator("#cases-table tbody tr").first.inner_text()
    assert "+7.0 % of" in first


@pytest.mark.browser
def test_without_scripts_charts_and_tables_are_there(files, open_page):
    page = open_page(files["mixed"], java_script_enabled=False).page
    assert page.locator("button:visible").count() == 0
    assert page.locator(".forest svg").is_visible()
    assert page.locator("#cases-table tbody tr:visible").count() == 34
    page.locator("details.one summary").nth(1).click()
    assert page.locator("details.one[open] svg").count() == 4


@pytest.mark.browser
def test_it_prints(files, open_page):
    page = open_page(files["mixed"]).page
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()
    assert page.locator(".forest svg").is_visible()
    assert page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") <= 8


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(files, open_page, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is injected as a script, which the page's own policy rightly forbids.
    opened = open_page(files[name], color_scheme=scheme, bypass_csp=True)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()
