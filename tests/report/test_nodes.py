"""What the page of a run tells of several nodes."""

from __future__ import annotations

import re

import pytest

from llmbench.cli.tables import summary
from llmbench.report import run_page
from llmbench.report.run.markdown import run_markdown
from llmbench.report.run.nodes import MOST_NODES, MOST_RANKS, nodes_view
from llmbench.results.schema import Error
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_run_page import assert_safe

CHANGED = {1: {"torch.version": "2.12.0"}, 2: {"driver": "570.10"}}
TORCH, DRIVER = "torch 2.12.0 on h1; 2.13.0+cu130 on the other 3", "driver 570.10 on h2; 580.65.06 on the other 3"


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = factory.nodes_run(tmp_path_factory.mktemp("nodes") / "run", 4, slow=2, changed=CHANGED)
    return folder, run_page(folder)


def chart_of(source: str) -> str:
    """The description of the first chart of ranks."""
    return re.search(r"<title>Step times of the ranks of [^<]*</title><desc>([^<]*)</desc>", source)[1]


def test_differences_stand_before_all_results(four):
    source = four[1]
    where = [source.index(text) for text in (TORCH, DRIVER, 'id="attention"', 'class="matrix')]
    assert where == sorted(where)


def test_each_node_has_a_row_that_says_what_differs(four):
    rows = Page(four[1]).body
    for text in ("torch 2.12.0, not 2.13.0+cu130", "driver 570.10, not 580.65.06", "2× NVIDIA H200", "4: h0–h3"):
        assert text in rows, text
    view = nodes_view(four[0].recorded_run())
    assert [row.hosts for row in view.rows] == ["h0", "h1", "h2", "h3"]
    assert [bool(row.differs) for row in view.rows] == [False, True, True, False]
    assert not view.folded


def test_the_title_says_how_many_nodes(four):
    assert "<h1>smoke on 4 nodes" in four[1]


def test_ranks_are_drawn_by_host_and_the_slowest_is_marked(four):
    rows = chart_of(four[1]).split("; ")
    assert [row.split(":")[0] for row in rows] == [f"h{rank // 2} · rank {rank}" for rank in range(8)]
    assert [row.endswith("the slowest") for row in rows] == [rank == 5 for rank in range(8)]
    assert "rank 5 on h2: median 98." in Page(four[1]).body


def test_alike_nodes_are_announced_by_nothing(tmp_path):
    source = run_page(factory.nodes_run(tmp_path / "run", 2))
    assert "The nodes differ" not in source
    assert '<h2 id="nodes">' in source


def test_one_machine_has_no_nodes(tmp_path):
    source = run_page(factory.smoke_run(tmp_path / "run"))
    assert '<h2 id="nodes">' not in source
    assert "Step times of the ranks" not in source


def test_1024_ranks_stay_small_and_name_the_slow_one(tmp_path):
    folder = factory.nodes_run(tmp_path / "run", 512, slow=100, changed={100: {"driver": "570.10"}})
    source = run_page(folder)
    assert len(source.encode()) <= 260_000
    view = nodes_view(folder.recorded_run())
    assert [(row.hosts, row.amount) for row in view.rows] == [("h100", 1), ("h0–h99, h101–h511", 511)]
    rows = chart_of(source).split("; ")
    assert len(rows) == MOST_RANKS
    assert next(row for row in rows if row.endswith("the slowest")).startswith("h100 · ranks 200–201")
    assert rows[-1].startswith("489 hosts more: median ")
    records = Page(source).data["records"]
    assert [len(record["ranks"]) for record in records] == [0, 16, 16]
    assert [record.get("ranks_left_out") for record in records] == [None, 1008, 1008]
    assert 201 in [rank["rank"] for rank in records[1]["ranks"]]


@pytest.mark.parametrize("amount", [MOST_NODES, MOST_NODES + 1])
def test_up_to_so_many_nodes_have_rows_of_their_own(tmp_path, amount):
    view = nodes_view(factory.nodes_run(tmp_path / "run", amount).recorded_run())
    assert len(view.rows) == (amount if amount <= MOST_NODES else 1)


def test_many_ranks_of_one_host_are_drawn_one_by_one_as_far_as_there_is_room(tmp_path):
    folder = factory.nodes_run(tmp_path / "run", 20, modes=["ddp"], slow=7)
    _, record = folder.records()
    for rank in record.ranks:
        rank.host, rank.node = "h0", 0
    folder.append(record)
    rows = chart_of(run_page(folder)).split("; ")
    assert rows[-1].startswith("17 ranks more")
    assert "rank 15: median 98" in next(row for row in rows if "slowest" in row)


def test_ranks_that_do_not_know_their_steps_are_not_drawn(tmp_path):
    folder = factory.nodes_run(tmp_path / "run", 2, modes=["ddp"])
    _, record = folder.records()
    for rank in record.ranks:
        rank.step_median_seconds = None
    folder.append(record)
    assert "Step times of the ranks" not in run_page(folder)


def test_an_error_names_its_rank_and_host(tmp_path):
    folder = factory.nodes_run(tmp_path / "run", 2, modes=["ddp"])
    _, record = folder.records()
    record.status, record.error = "failed", Error(type="SIGKILL", message="killed", rank=3, host="h1")
    folder.append(record)
    assert "rank 3 on h1" in Page(run_page(folder)).body
    assert "killed (rank 3 on h1)" in summary(folder.recorded_run(), folder.records(), folder.path, folder.report)


def test_summaries_tell_differences_first(four):
    folder = four[0]
    told = summary(folder.recorded_run(), folder.records(), folder.path, folder.report)
    assert told.startswith(f"the nodes differ:\n  ! {TORCH}\n  ! {DRIVER}\n\ncase ")
    written = run_markdown(folder)
    assert written.index("torch 2.12.0 on h1") < written.index("All cases")


def test_names_of_hosts_are_text(tmp_path):
    hostile = "<script>alert(1)</script>"
    folder = factory.nodes_run(tmp_path / "run", 2, modes=["ddp"])
    run = folder.recorded_run()
    run.nodes[1].host = run.nodes[1].facts["torch.version"] = run.nodes[1].devices[0] = hostile
    folder.write_run(run)
    _, record = folder.records()
    for rank in record.ranks:
        rank.host = hostile
    folder.append(record)
    assert_safe(run_page(folder))
