"""The page of a scan, read as text; and in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmbench.report.scan import scan_page
from llmbench.report.scan.page import CARRIED_TESTS
from llmbench.results.scan import Gate, PairTest, Point, Scan, ScanNode, SlowLink, Truth
from llmbench.stats.scan.document import simulated_scan
from llmbench.stats.scan.simulate import parse_spec
from tests.report.html_reader import Page
from tests.report.test_browser import downloaded
from tests.report.test_run_page import HOSTILE, assert_safe, pills

FOUND = "nodes=64,slow=2,links=1,dead=1,fault=network,seed=5"


def simulated(text=FOUND, **options):
    return simulated_scan(parse_spec(text), command=["llmbench", "scan", "--simulate", text], **options)


@pytest.fixture(scope="module")
def scanned():
    return simulated()


@pytest.fixture(scope="module")
def page(scanned):
    return assert_safe(scan_page(scanned))


def rows(page, table="cases-table"):
    return [" ".join(row.text.split()) for row in page.all("tr") if "data-record" in row.attributes]


def test_title_is_the_verdict_and_says_that_it_is_simulated(page):
    assert " ".join(page.one("h1").text.split()) == "1 failed node, 2 slow nodes, 1 slow link of 64 nodes simulated"
    assert page.all("title")[0].text == "Simulated: 1 failed node, 2 slow nodes, 1 slow link of 64 nodes · llmbench"
    assert pills(page) == ["◇ simulated", "✖ 1 failed node", "✖ 2 slow nodes", "✓ 61 fast nodes", "✖ 1 slow link"]
    assert "No real node was measured" in page.body


def test_a_real_scan_is_not_marked(scanned):
    real = scanned.model_copy(update={"simulated": False, "simulation": None, "truth": None})
    page = Page(scan_page(real))
    assert "imulated" not in page.body.replace("(simulated)", "").replace("--simulate", "")
    assert pills(page)[0] == "✖ 1 failed node"


def test_hosts_to_leave_out_for_slurm_and_as_a_list(scanned, page):
    texts = [code.text for code in page.all("code")]
    assert f"--exclude={','.join(scanned.exclude)}" in texts
    assert "\n".join(scanned.exclude) in texts
    assert len(scanned.exclude) == 3


def test_a_host_name_that_a_shell_would_read_is_quoted(scanned):
    page = Page(scan_page(scanned.model_copy(update={"exclude": ["a b", "$(rm)"]})))
    assert "--exclude='a b,$(rm)'" in [code.text for code in page.all("code")]


def test_what_was_found_stands_first_with_its_evidence(scanned, page):
    found = " ".join(page.one("ul", class_="needs").text.split())
    assert found.startswith(f"✖ failed {scanned.failed_nodes[0]} no answer within 60 s (simulated) (3 of 3 times)")
    for node in scanned.slow_nodes:
        assert f"{node} bus bandwidth low with each of 3 fast partners: " in found
    a, b = scanned.slow_links[0]
    assert f"{a} – {b}" in found
    assert "(2 tests in round 1, 3)" in found


def test_what_was_planted_stands_beside_what_was_found(scanned):
    assert "2 of 2 found" in Page(scan_page(scanned)).one("dl", class_="planted").text
    truth = scanned.truth.model_copy(update={"slow_nodes": ["node-00", scanned.slow_nodes[0]]})
    body = Page(scan_page(scanned.model_copy(update={"truth": truth}))).body
    assert f"1 of 2 found; missed node-00; named wrongly {scanned.slow_nodes[1]}" in body


def test_five_figures(scanned, page):
    values, notes = ([item.text for item in page.all("dd", class_=name)] for name in ("value", "note"))
    assert values[:3] == ["64", str(scanned.rounds), str(scanned.pair_tests)]
    assert values[3].endswith(" GB/s")
    assert values[4].startswith("±")
    assert notes[0] == "63 answered"
    assert notes[4].startswith("low is below 4")
    assert len(values) == 5


def test_every_metric_has_its_distribution_with_gate_and_slow_nodes(scanned, page):
    charts = [svg for svg in page.all("svg", role="img") if "node" in svg.text and "median" in svg.text]
    assert [chart.text.split(" of ")[0] for chart in charts] == ["bus bandwidth", "matmul", "memory bandwidth"]
    assert all(f"{node} 3" in charts[0].text for node in scanned.slow_nodes)
    assert "low is below" in charts[0].text
    assert len(page.all("path", class_="c1")) >= 1


def test_all_nodes_are_rows_and_the_urgent_ones_first(scanned, page):
    told = rows(page)
    assert len(told) == 64
    assert [row.split()[1] for row in told[:4]] == ["failed", "slow", "slow", "fast"]
    assert page.data["records"][3]["node"] == "node-03"
    assert json.loads(scanned.model_dump_json()) == {k: v for k, v in page.data.items() if k != "records"}


def measured(scan):
    """The same scan with curves, as of real pairs: half the bandwidth at 64 KiB; all_reduce twice that of sendrecv."""

    def points(test):
        if test.bus_bandwidth_bytes_per_s is None:
            return []
        return [
            Point(
                collective=name,
                message_bytes=message,
                bus_bandwidth_bytes_per_s=test.bus_bandwidth_bytes_per_s * twice * part,
            )
            for name, twice in (("all_reduce", 2.0), ("sendrecv", 1.0))
            for message, part in ((65536, 0.5), (16 << 20, 1.0))
        ]

    return scan.model_copy(
        update={"pairs": [test.model_copy(update={"points": points(test)}) for test in scan.pairs], "simulated": False}
    )


def test_bandwidth_by_size_is_shown_for_all_pairs_and_each_low_one(scanned):
    page = assert_safe(scan_page(measured(scanned)))
    table = page.one("table", class_="sizes")
    told = [" ".join(row.text.split()) for row in page.all("tr") if row.text.strip().startswith(("all_", "sendrecv"))]
    assert "64.0 KiB 16.0 MiB" in " ".join(table.text.split())
    pairs = sum(test.verdict == "ok" for test in scanned.pairs)
    assert told[0].startswith(f"all_reduce median of {pairs} fast pairs ")
    low = sorted(
        (test for test in scanned.pairs if test.verdict == "low"), key=lambda test: test.bus_bandwidth_bytes_per_s
    )
    assert told[1].startswith(f"all_reduce ▼ low {low[0].a} – {low[0].b} ")
    assert told[1].count("(−") == 2
    assert len(told) == 2 * (1 + min(len(low), 8))


def test_without_curves_there_is_no_table_of_sizes(page):
    assert not page.all("table", class_="sizes")
    assert "#sizes" not in page.source


def test_pair_tests_are_listed_the_low_ones_first(scanned, page):
    tables = page.all("table", class_="tests")
    low = sum(test.verdict == "low" for test in scanned.pairs)
    first = [" ".join(row.text.split()) for row in page.all("tr") if "–" in row.text and " low " in f" {row.text} "]
    assert len(tables) == 2
    assert 3 < low <= len(first)


def test_a_small_cluster_has_a_matrix_that_says_each_value():
    done = simulated("nodes=8,slow=1,fault=network,slowdown=0.3")
    page = Page(scan_page(done))
    assert "Who was tested with whom" in page.body
    low = [round(t.bus_bandwidth_bytes_per_s / 1e9, 1) for t in done.pairs if t.verdict == "low"]
    assert len(low) == 3
    signs = [text.text for text in page.all("text") if text.text.startswith("▼")]
    assert sorted(float(sign[1:]) for sign in signs) == sorted(low * 2)


def test_a_large_cluster_has_a_strip():
    assert "Each node's pair tests" in Page(scan_page(simulated("nodes=200,slow=3"))).body


@pytest.mark.parametrize("text", ["nodes=1", "nodes=2", "nodes=3,dead=3", "nodes=4,dead=3", "nodes=5,slow=5"])
def test_odd_clusters_have_a_page(text):
    assert assert_safe(scan_page(simulated(text))).one("h1").text.strip()


def test_an_empty_scan_has_a_page(scanned):
    lists = ("nodes", "links", "pairs", "gates", "slow_nodes", "slow_links", "failed_nodes", "exclude")
    empty = {name: [] for name in lists}
    page = assert_safe(scan_page(scanned.model_copy(update={**empty, "truth": None, "pair_tests": 0, "rounds": 0})))
    assert "No node was scanned" in page.body
    assert "no node" in page.body


def test_suspects_are_told_apart_and_not_left_out():
    page = Page(scan_page(simulated("nodes=64,slow=1,fault=network,slowdown=0.3", rounds=1)))
    assert "! 2 suspect nodes" in pills(page)
    assert "No node." in page.body


def test_sizes():
    """Limits: 1.5 MB at 1,024 nodes, 400 KB at 64."""
    assert len(scan_page(simulated("nodes=1024,slow=3,links=2,dead=2")).encode()) < 1_500_000
    assert len(scan_page(simulated("nodes=64,slow=5,links=2,dead=2")).encode()) < 400_000
    assert len(scan_page(simulated("nodes=64,slow=5,links=2,dead=2", every_link=True)).encode()) < 400_000


def test_the_tests_of_a_very_large_scan_are_cut_and_it_is_said(scanned):
    one = scanned.pairs[0]
    many = [one] * CARRIED_TESTS + [one.model_copy(update={"verdict": "low"})]
    page = Page(scan_page(scanned.model_copy(update={"pairs": many})))
    assert len(page.data["pairs"]) == CARRIED_TESTS
    assert page.data["pairs"][0]["verdict"] == "low"
    assert f"the JSON here has {CARRIED_TESTS} in all" in page.body


def hostile():
    """A scan of hosts that want to run script."""
    node = ScanNode(
        name=HOSTILE, host=HOSTILE + "2", verdict="slow", evidence=HOSTILE, metrics=["bus_bandwidth", HOSTILE]
    )
    node.estimates, node.below = {"bus_bandwidth": math.nan, HOSTILE: 1e308}, math.inf
    gates = [
        Gate(metric=metric, unit=HOSTILE, values=3, median=2.0, spread=0.1, share=0.3, threshold=1.4)
        for metric in ("bus_bandwidth", HOSTILE)
    ]
    test = PairTest(a=HOSTILE, b="b", round=1, bus_bandwidth_bytes_per_s=math.nan, verdict="low", reason=HOSTILE)
    test.points = [
        Point(collective=HOSTILE, message_bytes=message, bus_bandwidth_bytes_per_s=value)
        for message, value in ((0, 0.0), (1, math.nan), (2**62, 1e308))
    ]
    return simulated("nodes=4").model_copy(
        update={
            "nodes": [node, ScanNode(name="b", verdict="ok", evidence="", estimates={HOSTILE: -1e308})],
            "gates": gates,
            "pairs": [test],
            "links": [SlowLink(a=HOSTILE, b=HOSTILE, verdict="suspect", evidence=HOSTILE)],
            "exclude": [HOSTILE],
            "slow_nodes": [HOSTILE],
            "slow_links": [(HOSTILE, HOSTILE)],
            "command": [HOSTILE],
            "started_at": HOSTILE,
            "llmbench": HOSTILE,
            "truth": Truth(slow_nodes=[HOSTILE], slow_links=[], failed_nodes=[], slowdown={}, fault={}),
        }
    )


def test_hostile_names_are_text():
    page = assert_safe(scan_page(hostile()))
    assert "onerror=alert(1)>\\u{202e}" in page.body
    assert "{{ 7*7 }}" in page.body
    assert "\u202e" not in page.body
    assert page.data["nodes"][0]["name"] == HOSTILE


NAMES = st.sampled_from(["a", "b", HOSTILE, ""]) | st.text(max_size=8)
NUMBERS = st.none() | st.floats()


@st.composite
def documents(draw):
    """Documents that the schema accepts, with whatever in them: unknown pairs, doubled names, no gate, NaN."""
    lists = {
        "nodes": st.lists(
            st.fixed_dictionaries(
                {
                    "name": NAMES,
                    "host": st.none() | NAMES,
                    "verdict": st.sampled_from(["failed", "slow", "suspect", "unknown", "ok"]),
                    "evidence": NAMES,
                    "below": NUMBERS,
                    "metrics": st.lists(st.sampled_from(["bus_bandwidth", "matmul"]), max_size=2),
                    "estimates": st.dictionaries(st.sampled_from(["bus_bandwidth", "matmul"]), NUMBERS),
                }
            ),
            max_size=6,
        ),
        "gates": st.lists(
            st.fixed_dictionaries(
                {"metric": st.sampled_from(["bus_bandwidth", "matmul"]), "unit": NAMES, "values": st.integers(0, 9)}
                | {key: st.floats() for key in ("median", "spread", "share", "threshold")}
            ),
            max_size=3,
        ),
        "pairs": st.lists(
            st.fixed_dictionaries(
                {
                    "a": NAMES,
                    "b": NAMES,
                    "round": st.integers(0, 10**9),
                    "bus_bandwidth_bytes_per_s": NUMBERS,
                    "verdict": st.sampled_from(["failed", "low", "unknown", "ok"]),
                    "points": st.lists(
                        st.fixed_dictionaries(
                            {
                                "collective": NAMES,
                                "message_bytes": st.integers(0, 2**62),
                                "bus_bandwidth_bytes_per_s": NUMBERS,
                            }
                        ),
                        max_size=3,
                    ),
                }
            ),
            max_size=6,
        ),
        "links": st.lists(
            st.fixed_dictionaries(
                {"a": NAMES, "b": NAMES, "verdict": st.sampled_from(["failed", "slow", "suspect"]), "evidence": NAMES}
                | {"below": NUMBERS}
            ),
            max_size=3,
        ),
    }
    document = json.loads(simulated("nodes=2").model_dump_json())
    return TypeAdapter(Scan).validate_python(
        document | {key: draw(values) for key, values in lists.items()} | {"seconds": draw(st.floats())}
    )


@pytest.mark.slow
@given(documents())
def test_any_document_that_the_schema_accepts_has_a_safe_page(scan):
    assert_safe(scan_page(scan))


@pytest.fixture(scope="module")
def written(tmp_path_factory, scanned):
    folder = tmp_path_factory.mktemp("scan")
    pages = {
        "found": scanned,
        "small": measured(simulated("nodes=12,slow=2,links=1,dead=1")),
        "large": simulated("nodes=1024,slow=3,links=2,seed=4"),
        "nothing": simulated("nodes=40"),
        "one": simulated("nodes=1"),
        "hostile": hostile(),
    }
    for name, scan in pages.items():
        (folder / f"{name}.html").write_text(scan_page(scan), encoding="utf-8")
    return folder


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["found", "small", "nothing", "one", "hostile", pytest.param("large", marks=pytest.mark.slow)]
)
def test_axe_finds_nothing(written, open_page, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is injected as a script, which the page's own policy rightly forbids.
    opened = open_page(written / f"{name}.html", color_scheme=scheme, bypass_csp=True)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["found", "small", "large", "hostile"])
def test_is_silent_asks_for_nothing_and_nothing_sticks_out(written, open_page, name, width):
    path = written / f"{name}.html"
    opened = open_page(path, viewport={"width": width, "height": 900})
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.messages == []
    assert opened.requests == [path.resolve().as_uri()]
    assert opened.page.evaluate("window.alerted") is None


@pytest.mark.browser
def test_first_screen_answers_without_scrolling(written, open_page, scanned):
    page = open_page(written / "found.html").page
    for text in ("1 failed node, 2 slow nodes", *scanned.exclude, "SLURM", "rounds of pair tests", "Slow nodes"):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text


@pytest.mark.browser
def test_charts_are_there_without_scripts(written, open_page):
    page = open_page(written / "found.html", java_script_enabled=False).page
    charts = page.locator("svg[role=img]")
    assert charts.count() == 4
    assert all(charts.nth(index).is_visible() for index in range(4))
    assert page.locator("#cases-table tbody tr:visible").count() == 64


OUTSIDE = """() => [...document.querySelectorAll('svg[role=img]')].flatMap((svg) => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 2;
    }).map((text) => text.textContent);
})"""


@pytest.mark.browser
@pytest.mark.parametrize("name", ["found", "small", "large", "nothing", "hostile"])
def test_labels_of_charts_stay_within_them(written, open_page, name):
    assert open_page(written / f"{name}.html").page.evaluate(OUTSIDE) == []


@pytest.mark.browser
def test_filter_sort_and_downloads(written, open_page, scanned):
    page = open_page(written / "found.html").page
    page.get_by_label("only with problems").check()
    visible = page.locator("#cases-table tbody tr:visible th")
    assert sorted(visible.all_inner_texts()) == sorted(scanned.exclude)
    page.get_by_role("button", name="bus bandwidth").click()
    named = [name for name in visible.all_inner_texts() if name in scanned.slow_nodes]
    best = {node.name: node.estimates.get("bus_bandwidth") for node in scanned.nodes}
    assert named == sorted(named, key=lambda name: -best[name])
    name, text = downloaded(page, "CSV")
    assert name == "found.csv"
    table = list(csv.DictReader(io.StringIO(text)))
    assert {row["node"]: row["verdict"] for row in table} == {
        node.name: node.verdict for node in scanned.nodes if node.verdict != "ok"
    }
    assert float(table[0]["bus_bandwidth_bytes_per_s"]) == best[table[0]["node"]]
    _, text = downloaded(page, "JSON")
    document = json.loads(text)
    assert Scan.model_validate(document) == scanned
    assert len(document["records"]) == 64


@pytest.mark.browser
def test_a_link_leads_to_the_row_of_a_node(written, open_page, scanned):
    page = open_page(written / "found.html").page
    page.locator(".needs a", has_text=scanned.slow_nodes[0]).click()
    row = page.locator("#cases-table tr", has_text=scanned.slow_nodes[0]).first
    box = row.bounding_box()
    assert 0 <= box["y"] < 900
