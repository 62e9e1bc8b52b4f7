"""The page of a JSON file of pytest-benchmark, and what is said of a file that is none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmbench.errors import UserError
from llmbench.report.benchmarks import benchmarks_page
from tests.report.html_reader import Page
from tests.report.test_run_page import HOSTILE, pills


def stats(median: float, **more: Any) -> dict[str, Any]:
    """Steady: quartiles 2 % apart, 100 rounds of 10 iterations."""
    return {
        "min": 0.98 * median,
        "max": 1.2 * median,
        "mean": 1.01 * median,
        "stddev": 0.02 * median,
        "median": median,
        "q1": 0.99 * median,
        "q3": 1.01 * median,
        "iqr": 0.02 * median,
        "ops": 1 / (1.01 * median),
        "total": 101 * median,
        "rounds": 100,
        "iterations": 10,
        "data": [median] * 100,
    } | more


def benchmark(name: str, median: float, group: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "fullname": f"test_it.py::{name}", "group": group, "stats": stats(median)} | more


def matmul(dtype: str, size: int, median: float) -> dict[str, Any]:
    return benchmark(
        f"test_matmul[cpu-{dtype}-{size}]",
        median,
        "matmul",
        params={"device": "cpu", "dtype": dtype, "size": size},
        extra_info={"flops": 2 * size**3, "shape": [size, size], "dtype": dtype, "device": "cpu", "threads": 2},
    )


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "machine_info": {
            "node": "node-17",
            "system": "Linux",
            "cpu": {"brand_raw": "EPYC 9000", "count": 8},
            "torch": {"version": "2.13.0", "threads": 2},
            "devices": ["NVIDIA H200"],
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-11-22T14:29:23+00:00",
        "version": "5.3.1",
        "benchmarks": [
            matmul("fp32", 256, 1e-3),
            matmul("bf16", 512, 5e-4),
            benchmark(
                "test_step[gpt]",
                0.05,
                "training",
                extra_info={"tokens": 1000, "flops": 10**9, "device": "cpu"},
                stats=stats(0.05, q1=0.04, q3=0.06, rounds=25),
            ),
            benchmark("test_plain", 2.0, stats=stats(2.0, rounds=3)),
        ],
    }


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(document: Any, name: str = "micro.json") -> Path:
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return path

    return write


@pytest.fixture
def page(document: dict[str, Any], written: Any) -> Page:
    return Page(benchmarks_page(written(document)))


def row(page: Page, name: str) -> str:
    found = [" ".join(row.text.split()) for row in page.all("tr") if "data-tone" in row.attributes]
    return next(text for text in found if name in text)


def test_says_where_when_and_how_many(page: Page) -> None:
    assert page.one("h1").text.strip() == "Benchmarks on node-17 4 benchmarks in 3 groups"
    for words in (
        "2026-11-22 14:29 UTC · pytest-benchmark 5.3.1 · micro.json",
        "EPYC 9000 · 8 CPUs",
        "2.13.0 · 2 threads",
        "NVIDIA H200",
        "0123456789ab · with local changes",
    ):
        assert words in page.body


def test_each_group_is_a_panel_with_what_its_benchmarks_share(page: Page) -> None:
    titles = [" ".join(heading.text.split()) for heading in page.all("h3")]
    assert titles == ["matmul device cpu · threads 2", "training device cpu", "Without a group"]
    charts = [title.text for title in page.all("title")][1:]
    assert charts == [
        "Throughput, FLOP/s: matmul",
        "Median time: matmul",
        "Throughput, tokens/s: training",  # the work that the test names first
        "Median time: training",
        "Median time: Without a group",
    ]


def test_bars_tell_the_rate_of_the_median_and_labels_are_short(page: Page) -> None:
    throughput, times, training, *_ = (text.text for text in page.all("desc"))
    assert throughput == "fp32 256: 33.6 G; bf16 512: 537 G"  # 2 · 256³ FLOPs in 1 ms, 2 · 512³ in half of it
    assert times == "fp32 256: 1.00 ms; bf16 512: 500 µs"
    assert training == "step[gpt]: 20.0 k ~"


def test_table_has_every_number(page: Page) -> None:
    assert row(page, "test_matmul[cpu-fp32-256]") == (
        "✓ measured test_matmul[cpu-fp32-256] shape 256 × 256 "
        "1.00 ms ±0.31 % 2.0 % 980 µs 1.20 ms 1.01 ms 20.0 µs 990 100 10 33.6 G –"
    )
    assert row(page, "test_step[gpt]").endswith("20.0 G 20.0 k")


def test_what_is_not_known_well_is_said(page: Page) -> None:
    assert pills(page) == ["! 1 few rounds", "~ 1 noisy", "✓ 2 measured"]
    assert "~ noisy test_step[gpt] 50.0 ms ±13 % 40 %" in row(page, "test_step[gpt]")  # 1.57 · 0.4 / √25 = 0.126
    assert "fewer than 5 rounds" in page.body
    assert "--benchmark-max-time=2" in page.body


def test_figures_name_the_greatest_rate_of_each_kind(page: Page) -> None:
    figures = [" ".join(value.text.split()) for value in page.all("dd", class_="value")]
    assert figures[:2] == ["537 GFLOP/s", "20.0 k tokens/s"]


def test_the_page_carries_the_file_without_single_times(page: Page, document: dict[str, Any]) -> None:
    for one in document["benchmarks"]:
        del one["stats"]["data"]
    assert page.data == document | {"run": {"id": "micro"}}


def test_what_is_no_number_in_json_is_none_on_the_page(written: Any) -> None:
    """Python writes NaN and Infinity, which the page's script could not read back."""
    text = '{"benchmarks": [], "machine_info": {"node": NaN, "load": -Infinity, "more": 1e999}}'
    carried = Page(benchmarks_page(written(text))).one("script", id="data").text
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", carried))


def test_bandwidth_of_the_bus_and_bytes_have_units_with_their_prefix(written: Any) -> None:
    document = {"benchmarks": [benchmark("a", 1e-3, "all-reduce", extra_info={"bus_bytes": 2**20, "bytes": 2**21})]}
    page = Page(benchmarks_page(written(document)))
    assert [title.text for title in page.all("title")][1:] == [
        "Bus bandwidth, B/s: all-reduce",
        "Median time: all-reduce",
    ]
    figures = [figure.text.split("\n")[0] for figure in page.all("div", class_="figure")]
    assert figures[:2] == ["highest throughput2.10 GB/sa", "highest bus bandwidth1.05 GB/sa"]


def test_only_name_and_median_must_be_there(written: Any) -> None:
    page = Page(benchmarks_page(written({"benchmarks": [{"name": "test_bare", "stats": {"median": 0.25}}]})))
    assert page.one("h1").text.strip() == "Benchmarks on an unnamed machine 1 benchmark in 1 group"
    assert row(page, "test_bare") == "✓ measured test_bare 250 ms"
    assert "Nothing was recorded" in page.body


def test_a_file_without_benchmarks_has_a_page_that_says_why(written: Any) -> None:
    page = Page(benchmarks_page(written({"benchmarks": []})))
    assert pills(page) == ["no benchmark"]
    assert "--benchmark-disable" in page.body
    assert page.all("svg") == []


def test_names_are_shown_and_never_markup(written: Any) -> None:
    hostile = benchmark(
        HOSTILE,
        1.0,
        HOSTILE,
        fullname=HOSTILE,
        params={HOSTILE: HOSTILE},
        extra_info={HOSTILE: HOSTILE, "dtype": HOSTILE, "flops": 10**9, "shape": [HOSTILE]},
    )
    document = {
        "benchmarks": [hostile, hostile | {"params": {HOSTILE: "other"}}],
        "machine_info": {"node": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}, "devices": [HOSTILE, {HOSTILE: 1}]},
        "commit_info": {"id": HOSTILE},
        "datetime": HOSTILE,
        "version": HOSTILE,
        HOSTILE: "\ud800",
    }
    page = Page(benchmarks_page(written(document)))
    assert [len(page.all(tag)) for tag in ("script", "img")] == [2, 0]
    assert "alert(1)" in page.one("h1").text
    assert "\u202e" not in page.source
    assert "{{ 7*7 }}" in page.body


def test_a_group_of_many_is_cut_and_the_table_is_not(written: Any) -> None:
    document = {"benchmarks": [benchmark(f"test_{number}", 1.0 + number, "many") for number in range(30)]}
    page = Page(benchmarks_page(written(document)))
    assert "6 more in the table of all" in page.body
    assert len([row for row in page.all("tr") if "data-tone" in row.attributes]) == 30


def test_a_parameter_that_tells_too_little_gives_way_to_the_name(written: Any) -> None:
    twice = [benchmark(f"test_{name}[a]", 1.0, "g", params={"p": "a"}) for name in ("one", "two")]
    page = Page(benchmarks_page(written({"benchmarks": [*twice, benchmark("test_three", 1.0, "g")]})))
    assert page.one("desc").text == "one[a]: 1.00 s; two[a]: 1.00 s; three: 1.00 s"


@pytest.mark.parametrize("amount", ["many", -1, 0, True, None, [1], 10**400, float("nan"), float("inf")])
def test_work_that_is_no_amount_is_a_fact_and_no_rate(written: Any, amount: Any) -> None:
    document = {"benchmarks": [benchmark("test_a", 1.0, "g", extra_info={"flops": amount})]}
    page = Page(benchmarks_page(written(document)))
    assert [title.text for title in page.all("title")][1:] == ["Median time: g"]
    assert "g flops" in " ".join(page.one("h3").text.split())


def test_a_median_of_zero_has_no_rate(written: Any) -> None:
    document = {
        "benchmarks": [benchmark("test_a", 1.0, extra_info={"flops": 1}, stats={"median": 0.0, "q1": 0, "q3": 0})]
    }
    assert "0 s" in row(Page(benchmarks_page(written(document))), "test_a")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"benchmarks": {}}, "benchmarks: "),
        ({"benchmarks": [1]}, "benchmarks.0: "),
        ({"benchmarks": [{"name": "a"}]}, "benchmarks.0.stats: Field required"),
        ({"benchmarks": [{"stats": {"median": 1}}]}, "benchmarks.0.name: Field required"),
        ({"benchmarks": [{"name": 7, "stats": {"median": 1}}]}, "benchmarks.0.name: "),
        ({"benchmarks": [benchmark("a", 1), benchmark("b", 1, stats={"min": 1})]}, "benchmarks.1.stats.median: "),
        ({"benchmarks": [benchmark("a", 1, stats={"median": "fast"})]}, "benchmarks.0.stats.median: "),
        ({"benchmarks": [benchmark("a", 1, stats={"median": float("nan")})]}, "benchmarks.0.stats.median: "),
        ({"benchmarks": [benchmark("a", 1, stats={"median": 10**400})]}, "benchmarks.0.stats.median: "),
        ({"benchmarks": [benchmark("a", 1, stats={"median": -1.0})]}, "benchmarks.0.stats.median: "),
        ({"benchmarks": [benchmark("a", 1, stats=stats(1, rounds=2.5))]}, "benchmarks.0.stats.rounds: "),
        ({"benchmarks": [benchmark("a", 1, extra_info=[])]}, "benchmarks.0.extra_info: "),
        ({"machine_info": "a machine"}, "machine_info: "),
        ({"datetime": 7}, "datetime: "),
    ],
)
def test_a_wrong_field_is_named(document: dict[str, Any], written: Any, changed: dict[str, Any], field: str) -> None:
    path = written(document | changed)
    with pytest.raises(UserError) as caught:
        benchmarks_page(path)
    assert caught.value.message.startswith(f"{path}: {field}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"benchmarks": [\n  {"name": }\n]}', ", line 2, column 12: not JSON: "),
        ("", ", line 1, column 1: not JSON: "),
        ("<html></html>", ", line 1, column 1: not JSON: "),
        ("[1, 2]", " is not a JSON file of pytest-benchmark: it has no field `benchmarks`"),
        ('{"case": "gpt-tiny/eager/ws1"}', " is not a JSON file of pytest-benchmark: it has no field `benchmarks`"),
        ("[" * 100_000, ": not JSON: "),
        ("9" * 5000, ": not JSON: "),
    ],
)
def test_a_file_that_is_none_of_pytest_benchmark_is_named(written: Any, text: str, message: str) -> None:
    path = written(text)
    with pytest.raises(UserError) as caught:
        benchmarks_page(path)
    assert caught.value.message.startswith(f"{path}{message}")
    assert "--benchmark-json" in (caught.value.hint or "")


def test_bytes_that_are_no_text_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe\xfa{}")
    with pytest.raises(UserError, match="not JSON"):
        benchmarks_page(path)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_it_is_silent_sorts_filters_and_pleases_axe(
    document: dict[str, Any], written: Any, open_page: Any, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    document["benchmarks"].append(benchmark(HOSTILE, 1.0, HOSTILE, extra_info={"dtype": HOSTILE}))
    path = written(benchmarks_page(written(document)), "page.html")
    opened = open_page(path, color_scheme=scheme, bypass_csp=True)
    page = opened.page
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()

    def names() -> list[str]:
        return page.locator("#benchmarks-table tbody tr:visible .case").all_inner_texts()

    page.get_by_role("button", name="Median", exact=True).click()
    assert names()[0] == "test_plain"
    page.get_by_role("searchbox").fill("matmul bf16")
    assert names() == ["test_matmul[cpu-bf16-512]"]
    with page.expect_download() as waiting:
        page.get_by_role("button", name="JSON", exact=True).click()
    assert waiting.value.suggested_filename == "micro.json"
    assert json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))["version"] == "5.3.1"
    assert (opened.messages, opened.requests) == ([], [path.resolve().as_uri()])


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_sticks_out(document: dict[str, Any], written: Any, open_page: Any, width: int) -> None:
    path = written(benchmarks_page(written(document)), "page.html")
    opened = open_page(path, viewport={"width": width, "height": 900})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.locator(".panel svg[role=img]").count() == 5
    assert opened.messages == []  # and the policy lets the page's own style and script act
