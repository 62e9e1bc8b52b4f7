"""The page of a ladder, read without a browser."""

from __future__ import annotations

import pytest

from llmbench.report import run_page
from llmbench.report.run.rungs import ladders
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_run_page import HOSTILE, assert_safe


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    folder = factory.ladder_run(tmp_path_factory.mktemp("ladder") / "run")
    return folder, assert_safe(run_page(folder))


def rows(page, number):
    """The rungs of the ``number``-th ladder as lists of words between cells."""
    table = page.all("table", class_="ladder")[number]
    begin = page.elements.index(table)
    inside = page.elements[begin + 1 :]
    stop = next((i for i, one in enumerate(inside) if one.tag == "table"), len(inside))
    return [" ".join(one.text.split()) for one in inside[:stop] if one.tag == "tr"]


def test_rung_by_rung_speed_memory_parity_and_compiling(ladder):
    folder, page = ladder
    head, eager, bf16, _, compiled, *_ = rows(page, 0)
    assert head == ("Rung Speed ±95 % Over eager Over the rung before Memory Change Parity Of its limit Compile Warm")
    (gpt, _) = ladders(folder.read_run(), folder.records())
    rung = gpt.rungs[1]
    assert eager.startswith("eager 11.2 k tokens/s")
    assert f"{rung.over_before.value:.2f}× {rung.over_before.value:.2f}×" in bf16
    assert f"{rung.memory_bytes / 2**20:.1f} MiB −{-100 * rung.memory_change:.0f} %" in bf16
    parity = rung.record.parity
    assert f"{parity.value:.4f} of 0.022 {100 * parity.value / parity.limit:.0f} %" in bf16
    cold, warm = gpt.rungs[3].compile_seconds
    assert compiled.endswith(f"{cold:.1f} s {warm:.2f} s")
    assert bf16.endswith("– –")


def test_a_rung_that_was_skipped_or_failed_says_why(ladder):
    _, page = ladder
    words = rows(page, 1)
    assert words[3] == (
        "+ fused ✖ out of memory killed by the kernel at step 0: the memory limit of the cgroup (2.00 GiB) was reached"
    )
    assert words[4] == "+ compile – skipped torch.compile needs a C++ compiler"
    assert words[5].startswith("+ chunked-ce ✖ invalid it strays from bert-tiny/eager/ws1 at step 12")


def test_charts_show_the_gain_of_each_rung_and_its_interval(ladder):
    _, page = ladder
    titles = [title.text for title in page.all("title")]
    assert "Throughput of gpt-tiny over eager, by rung" in titles
    assert "Peak memory of the training of bert-tiny by rung" in titles
    told = [desc.text for desc in page.all("desc")]
    speed = next(text for text in told if text.startswith("eager: 1×; + bf16: 0.69×, −31 %"))
    assert "+ chunked-ce: 2.05×" in speed
    bert = next(text for text in told if "+ compile: – skipped; + chunked-ce: ✖ invalid" in text)
    assert bert.endswith("+ ac: 1.74×, +134 %")
    # A whisker for each rung but eager that counts: five of gpt, two of bert.
    section = page.source[page.source.index('id="ladder"') : page.source.index('id="workloads"')]
    assert section.count('class="whisker"') == 7


def test_the_gist_names_the_fastest_and_the_lightest_rung(ladder):
    _, page = ladder
    assert "fastest + chunked-ce: 2.05× eager · least memory + ac: −62 % against eager" in page.body


def test_a_run_without_a_ladder_has_no_such_section(tmp_path):
    page = Page(run_page(factory.smoke_run(tmp_path / "run")))
    assert page.all("table", class_="ladder") == []
    assert page.all("h2", id="ladder") == []


def test_hostile_techniques_stay_text(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", HOSTILE)]
    folder = factory.RunFolder.create(tmp_path / "run", factory.make_run(cases, ladder=[HOSTILE]))
    factory.add(folder, *factory.ok_record(cases[0]))
    factory.add(folder, factory.unavailable(cases[1], HOSTILE))
    page = assert_safe(run_page(folder))
    # Its slashes make another variant of the workload of it, with a ladder of its own.
    assert "onerror=alert(1)>\\u{202e}" in rows(page, 1)[1]
