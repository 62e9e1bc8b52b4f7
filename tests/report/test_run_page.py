"""The page of a run, read without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re

import pytest

from llmbench.errors import UserError
from llmbench.report import run_page, write_run_report
from llmbench.results.schema import Compile, Energy, Error, Parity, Rank, Record, Run, Series, Throughput
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[31m&amp;{{ 7*7 }}"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = factory.smoke_run(tmp_path_factory.mktemp("smoke") / "run")
    return folder, Page(run_page(folder))


def run_with(tmp_path, status, error=None, **changes):
    """A run of one eager case that passed and one bf16 case that did not."""
    cases = [factory.planned("gpt-tiny", "eager"), factory.planned("gpt-tiny", "bf16")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    factory.add(folder, *factory.ok_record(cases[0]))
    record = factory.broken_record(cases[1], status, error)
    for key, value in changes.items():
        setattr(record, key, value)
    factory.add(folder, record, log=factory.TRACEBACK)
    return folder


def details(page):
    """What unfolds for one case, or for cases that were not run."""
    return [one for one in page.all("details", class_="one") if one.attributes.get("id") != "shared"]


def pills(page):
    return [" ".join(pill.text.split()) for pill in page.all("li", class_="pill")]


def assert_safe(source):
    """Nothing that a policy by hash would block, nothing that asks a network, no script but ours and the data."""
    page = Page(source)
    assert len(page.all("script")) == 2
    for element in page.elements:
        assert "style" not in element.attributes
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert name not in element.attributes
        assert element.tag not in {"link", "iframe", "object", "embed", "img", "base", "form"}
        if element.tag == "a":
            assert element.attributes["href"].startswith("#")
    assert "url(" not in page.one("style").text
    assert "@import" not in page.one("style").text
    assert "http" not in page.one("style").text + page.all("script")[0].text
    return page


def test_policy_allows_exactly_our_style_and_script(smoke):
    _, page = smoke
    policy = next(m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.attributes["content"].split(";"))
    assert rules["default-src"] == "'none'"

    def hashed(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert rules["style-src"] == hashed(page.one("style").text)
    assert rules["script-src"] == hashed(page.all("script")[0].text)


def test_smoke_run_is_safe_and_says_what_happened(smoke):
    _, page = smoke
    assert_safe(page.source)
    assert page.one("h1").text.strip() == "smoke on node-17 16 cases = 4 workloads × 4 modes"
    assert pills(page) == ["✖ 1 out of memory", "✖ 1 invalid", "~ 1 noisy", "✓ 13 passed"]
    for words in (
        "2026-11-22 08:12 UTC",
        "2 min 42 s",
        "run 20261122-081204-7f3a",
        "the memory limit of the cgroup (2.00 GiB) was reached → a smaller batch: --set micro_batch_size=4",
        "it strays from gpt-tiny/eager/ws1 at step 31: largest relative difference of the loss in 100 steps",
        "other processes used 6.1 CPUs",
        "llmbench run smoke --data '../shared data/wikitext-2' --out r1",
        "compile+bf16 over eager",
        "14 / 15",
        "3.37 kJ",
    ):
        assert words in page.body, words


def test_every_case_has_a_link_a_row_and_details(smoke):
    folder, page = smoke
    ids = {element.attributes["id"] for element in page.elements if "id" in element.attributes}
    links = [element.attributes["href"][1:] for element in page.all("a")]
    assert set(links) <= ids
    for record in folder.records():
        assert links.count(record.case) >= 2  # matrix and table
    assert len(details(page)) == 16
    assert len([row for row in page.all("tr") if "data-tone" in row.attributes]) == 16


def test_ids_are_unique(smoke):
    _, page = smoke
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))


def test_data_parses_back_to_run_and_records(smoke):
    folder, page = smoke
    data = page.data
    assert Run.model_validate(data["run"]) == folder.read_run()
    assert [Record.model_validate(record) for record in data["records"]] == folder.records()
    series = folder.read_series(folder.records()[0])
    assert data["curves"][0]["loss"] == {"steps": 100, "mean": pytest.approx(series.loss, rel=1e-4)}
    assert data["curves"][0]["seconds"]["first"] == 1
    assert data["curves"][-1] is None


def test_records_stand_in_the_page_as_in_the_file(smoke):
    """Nulls, defaults and what this version does not know of the configuration included."""
    folder, page = smoke
    lines = (folder.path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert page.data["records"] == [json.loads(line) for line in lines]


def test_charts_have_names_descriptions_and_sizes(smoke):
    _, page = smoke
    charts = [svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]
    assert len(charts) == 4 * 5 + 2 * 15
    assert all({"width", "height", "viewbox"} <= set(svg.attributes) for svg in charts)
    assert len(page.all("title")) == len(charts) + 1
    assert len(page.all("desc")) == len(charts)


def test_perplexity_stands_beside_that_of_the_unigram_model(smoke):
    _, page = smoke
    rows = [" ".join(row.text.split()) for row in page.all("tr", class_="reference")]
    assert f"unigram (baseline) 6.020 {math.exp(6.02):.1f}" in rows
    assert f"source entropy (floor) 3.050 {math.exp(3.05):.2f}" in rows
    assert "least squares (floor) 0.01020 0.01020 –" in rows


def test_matrix_marks_tell_more_than_colour(smoke):
    _, page = smoke
    cells = [" ".join(cell.text.split()) for cell in page.all("td", class_="hatched")]
    assert cells == ["✖ invalid 7.78 k tokens/s ±0.52 %", "✖ out of memory"]
    assert "0.99× ≈" in page.body
    assert "the interval holds 1×" in page.body


def test_rerun_command_is_the_runs_own_narrowed_to_the_case(smoke):
    _, page = smoke
    commands = [code.text for code in page.all("code")]
    narrowed = "llmbench run smoke --data '../shared data/wikitext-2' --workload gpt-tiny --mode compile+bf16"
    assert narrowed in commands


def test_log_tail_only_of_what_went_wrong_and_without_colours(smoke):
    _, page = smoke
    logs = page.all("pre", class_="log")
    assert len(logs) == 1
    assert logs[0].text == factory.TRACEBACK.replace("\x1b[31m", "").replace("\x1b[0m", "").rstrip("\n")


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("failed", "failed"),
        ("oom", "out of memory"),
        ("timeout", "timed out"),
        ("invalid", "invalid"),
        ("aborted", "aborted"),
        ("skipped", "skipped"),
    ],
)
def test_every_status_has_a_word_a_cause_and_a_hint(tmp_path, status, word):
    folder = run_with(tmp_path, status, Error(type="SomeError", message="it broke\nsecond line", hint="mend `it`"))
    page = assert_safe(run_page(folder))
    assert any(pill.endswith(f"1 {word}") for pill in pills(page))
    assert "SomeError: it broke → mend it" in page.body
    assert "second line" in page.body
    assert ("Last lines of its log" in page.body) == (status != "skipped")


@pytest.mark.parametrize("status", ["failed", "oom", "timeout", "invalid", "aborted", "skipped"])
def test_a_record_without_an_error_still_has_a_line(tmp_path, status):
    page = assert_safe(run_page(run_with(tmp_path, status)))
    assert "no cause was recorded" in page.body


def test_an_invalid_case_without_an_error_is_explained_by_its_parity(tmp_path):
    parity = Parity(reference="gpt-tiny/eager/ws1", metric="loss distance", limit=0.01, value=None, verdict="fail")
    page = Page(run_page(run_with(tmp_path, "invalid", parity=parity)))
    assert "loss distance: – against gpt-tiny/eager/ws1, where the arithmetic explains 0.01" in page.body


def test_calm_when_all_passed(tmp_path):
    page = Page(run_page(factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", "bf16"])))
    assert pills(page) == ["✓ 2 passed"]
    assert "Nothing. Every case ran, was steady, and learned as it should." in page.body


def test_cases_of_one_cause_stand_together(tmp_path):
    cases = [factory.planned(workload, "compile") for workload in factory.WORKLOADS]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        factory.add(
            folder, factory.broken_record(case, "skipped", Error(type="Unavailable", message="no C++ compiler"))
        )
    page = Page(run_page(folder))
    assert page.one("ul", class_="needs").text.count("no C++ compiler") == 1
    assert pills(page) == ["– 4 skipped"]


def test_a_run_that_was_killed_shows_what_is_missing_and_how_to_go_on(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in factory.MODES]
    folder = RunFolder.create(tmp_path / "a run", factory.make_run(cases, status="running", finished_at=None))
    factory.add(folder, *factory.ok_record(cases[0]))
    page = assert_safe(run_page(folder))
    assert pills(page) == ["○ 3 not run", "✓ 1 passed"]
    assert "not finished" in page.body
    assert "3 of 4 cases not run: the run is still going on, or was killed." in page.body
    assert f"Continue with llmbench run --resume '{folder.path}'" in page.body


def test_an_interrupted_run_says_so(tmp_path):
    cases = [factory.planned("gpt-tiny", "eager")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, status="interrupted", resumed=2))
    page = Page(run_page(folder))
    assert "1 of 1 case not run: the run was interrupted." in page.body
    assert "resumed 2 times" in page.body


def test_an_empty_run_has_a_page(tmp_path):
    folder = RunFolder.create(tmp_path / "run", factory.make_run([], environment={}, command=[], git=None))
    page = assert_safe(run_page(folder))
    assert pills(page) == ["no case"]
    assert "This run has no case." in page.body
    assert page.data["records"] == []


def test_a_record_that_was_not_planned_is_not_dropped(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"])
    factory.add(folder, *factory.ok_record(factory.planned("bert-tiny", "bf16")))
    page = Page(run_page(folder))
    assert "bert-tiny/bf16/ws1" in page.body
    assert pills(page) == ["✓ 2 passed"]


def test_missing_and_broken_series_are_told(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", "bf16", "compile"])
    (folder.path / "series/gpt-tiny__bf16__ws1.json").unlink()
    (folder.path / "series/gpt-tiny__compile__ws1.json").write_bytes(b"\xff{")
    page = assert_safe(run_page(folder))
    assert "series/gpt-tiny__bf16__ws1.json is not there" in page.body
    assert "series/gpt-tiny__compile__ws1.json: " in page.body
    assert [curve is None for curve in page.data["curves"]] == [False, True, True]


def test_a_series_path_that_leads_out_of_the_run_is_not_read(tmp_path):
    outside = Series(loss=[123456.0], step_seconds=[], first_timed_step=0)
    (tmp_path / "outside.json").write_text(outside.model_dump_json())
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"])
    record = folder.records()[0]
    record.series = "../outside.json"
    folder.append(record)
    assert "123456" not in run_page(folder)


def test_nan_losses_are_marked(tmp_path):
    cases = [factory.planned("gpt-tiny", "eager"), factory.planned("gpt-tiny", "bf16")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    factory.add(folder, *factory.ok_record(cases[0]))
    record, series = factory.ok_record(cases[1])
    series.loss[40:] = [math.nan] * 60
    record.status, record.parity, record.loss.finite, record.loss.final = "invalid", None, False, None
    record.metrics = {"perplexity": math.nan}
    factory.add(folder, record, series)
    page = assert_safe(run_page(folder))
    assert "bf16: not finite from step 40" in page.body
    assert "the loss is not finite" in page.body
    curve = page.data["curves"][1]["loss"]
    assert curve["mean"][40:] == [None] * 60
    assert curve["lost"] == [[40, 99]]


def test_a_loss_that_did_not_fall_needs_attention(tmp_path):
    folder = RunFolder.create(tmp_path / "run", factory.make_run([factory.planned("gpt-tiny", "eager")]))
    record, series = factory.ok_record(factory.planned("gpt-tiny", "eager"))
    record.loss.learned = False
    factory.add(folder, record, series)
    page = Page(run_page(folder))
    assert pills(page) == ["! 1 did not learn"]
    assert "the loss did not fall" in page.body


def test_a_record_of_bare_necessities(tmp_path):
    case = factory.planned("gpt-tiny", "eager")
    folder = RunFolder.create(tmp_path / "run", factory.make_run([case], started_at="some day", finished_at="later"))
    record = factory.broken_record(case, "ok", None)
    record.started_at, record.config = "", {}
    factory.add(folder, record)
    page = assert_safe(run_page(folder))
    assert "some day" in page.body
    assert pills(page) == ["✓ 1 passed"]


@pytest.mark.parametrize("value", [math.inf, 0.0, -1.0, 1e-320, 1e308])
def test_absurd_speeds_do_not_break_the_page(tmp_path, value):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", "bf16"])
    record = folder.records()[1]
    line = record.model_dump_json(by_alias=True)
    text = json.dumps(value).replace("Infinity", "1e999")
    line = re.sub(r'"throughput":\{"value":[^,]+', f'"throughput":{{"value":{text}', line)
    with open(folder.path / "records.jsonl", "a") as file:
        file.write(line + "\n")
    assert_safe(run_page(folder))


EXTREMES = [0, -1, 1, 5e-324, 1e-320, 1.7e308, -1.7e308, 10**400, math.inf, -math.inf, math.nan]


def mutated(value, choose):
    """A copy with every number replaced by what ``choose`` says."""
    if isinstance(value, dict):
        return {key: mutated(item, choose) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mutated(item, choose) for item in value]
    return choose(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def page_of_mutants(path, choose):
    """Builds the page of a run whose numbers are absurd, as far as the store can read them back; counts those."""
    cases = [factory.planned("gpt-tiny", *one) for one in (("eager",), ("bf16",), ("compile+bf16",), ("ddp", 2))]
    folder = RunFolder.create(path, factory.make_run(cases, ladder=["bf16", "compile"]))
    stored = 0
    for case in cases:
        record, series = factory.ok_record(case, steps=20)
        # Of many numbers chance would hardly ever leave all as they may be.
        series.memory.seconds, series.memory.bytes = series.memory.seconds[:5], series.memory.bytes[:5]
        record.energy = Energy(joules=1.0, source="x")
        record.memory.peak_allocated_bytes = record.memory.peak_reserved_bytes = 5
        for _ in range(20):
            try:
                mutant = Record.model_validate(mutated(record.model_dump(by_alias=True), choose))
                curves = Series.model_validate(mutated(series.model_dump(), choose))
                mutant.series = folder.write_series(mutant.case, curves)
                Record.model_validate_json(mutant.model_dump_json(by_alias=True))
            except ValueError:
                continue
            folder.append(mutant)
            stored += 1
            break
    assert_safe(run_page(folder))
    return stored


@pytest.mark.parametrize("value", [0, -1, 1, 10**300, 10**400, 5e-324, 1.7e308, -1.7e308])
def test_the_same_absurd_number_everywhere(tmp_path, value):
    def choose(old):
        return value if isinstance(old, float) == isinstance(value, float) else old

    assert page_of_mutants(tmp_path / "run", choose) == 4


def test_absurd_numbers_here_and_there(tmp_path):
    rng = random.Random(5)
    stored = 0
    for turn in range(25):
        stored += page_of_mutants(tmp_path / f"{turn}", lambda old: rng.choice(EXTREMES) if rng.random() < 0.1 else old)
    assert stored > 25


def test_hostile_text_stays_text_and_stays_visible(tmp_path):
    case = factory.planned(f"w{HOSTILE}", f"m{HOSTILE}")
    run = factory.make_run(
        [case],
        id=HOSTILE,
        suite=HOSTILE,
        description=HOSTILE,
        command=["llmbench", "run", HOSTILE],
        working_folder=HOSTILE,
        environment={HOSTILE: HOSTILE, "host": HOSTILE, "devices": [{"name": HOSTILE}]},
        data={"name": HOSTILE, HOSTILE: [HOSTILE]},
        started_at=HOSTILE,
    )
    folder = RunFolder.create(tmp_path / "run", run)
    record, series = factory.ok_record(factory.planned("gpt-tiny", "eager"))
    record.case, record.workload, record.mode, record.device = case.case, case.workload, case.mode, HOSTILE
    record.status, record.error = "failed", Error(type=HOSTILE, message=HOSTILE, hint=HOSTILE)
    record.config, record.metrics, record.facts = {HOSTILE: HOSTILE}, {HOSTILE: 1.0}, {HOSTILE: HOSTILE}
    record.loss.references[0].name = HOSTILE
    record.energy_reason = record.noise.cause = record.hardware.reason = record.flops_source = HOSTILE
    record.compile = Compile(graphs=1, graph_breaks=1, recompiles=0, reasons=[HOSTILE], cold_at=HOSTILE, cold_seconds=1)
    record.ranks = [Rank(rank=0, host=HOSTILE, device=HOSTILE, window_seconds=1.0)]
    record.parity.checks[0].tensor = record.parity.checks[0].reference = record.parity.checks[0].metric = HOSTILE
    record.hardware.throttled = [HOSTILE]
    record.error.rank, record.error.host = 3, HOSTILE
    record.measured_peak.source = HOSTILE
    record.series, record.log = "series/x.json", "logs/x.log"
    (folder.path / "series/x.json").write_text(series.model_dump_json())
    (folder.path / "logs/x.log").write_text(HOSTILE * 3)
    folder.append(record)
    source = run_page(folder)
    page = assert_safe(source)
    assert "onerror=alert(1)>\\u{202e}" in page.body
    assert "{{ 7*7 }}" in page.body
    assert "\u202e" not in page.body
    assert page.data["records"][0]["workload"] == case.workload
    assert len(page.all("details", class_="one")) == 1


def test_anchors_of_odd_names_are_unique(tmp_path):
    folder = RunFolder.create(tmp_path / "run", factory.make_run([]))
    for name in ("a b", "a\tb", "cases", "environment"):
        record, _ = factory.ok_record(factory.planned("gpt-tiny", "eager"))
        record.case = name
        folder.append(record)
    ids = [e.attributes["id"] for e in assert_safe(run_page(folder)).elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {"case/a-b", "case/a-b/2", "case/cases", "case/environment"} <= set(ids)


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"])
    text = (folder.path / "run.json").read_text()
    (folder.path / "run.json").write_text(text.replace('"device":"cpu"', '"device":"c\\ud800pu"'))
    try:
        run_page(folder)
    except UserError:  # pydantic may refuse the file; what it lets through must be writable
        return
    write_run_report(folder)


def test_more_than_eight_modes_are_drawn_in_part_and_listed_in_full(tmp_path):
    modes = ["eager", *(f"mode{n}" for n in range(11))]
    page = assert_safe(run_page(factory.plain_run(tmp_path / "run", ["gpt-tiny"], modes)))
    assert "4 more in the table of all cases" in page.body
    assert len([row for row in page.all("tr") if "data-tone" in row.attributes]) == 12


def test_report_is_written_whole_beside_its_run(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"])
    path = write_run_report(folder)
    assert path == folder.report
    assert path.read_text(encoding="utf-8") == run_page(folder)
    assert [file.name for file in folder.path.iterdir() if "tmp" in file.name] == []


def test_throughput_of_two_units_keeps_them_apart(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["regression-linear", "gpt-tiny"], ["eager", "bf16"])
    page = Page(run_page(folder))
    heads = [head.text for head in page.all("h4") if head.text.startswith("Throughput")]
    assert heads == ["Throughput, samples/s", "Throughput, tokens/s"]
    assert Throughput.model_validate(page.data["records"][0]["throughput"]).unit == "samples/s"
