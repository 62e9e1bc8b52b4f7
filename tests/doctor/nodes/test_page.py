"""The outputs of several nodes, drawn from a document that is made for the purpose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmbench.cluster.channel import Reply
from llmbench.doctor.checks import all_checks
from llmbench.doctor.checks.nodes_clock import OFF
from llmbench.doctor.checks.nodes_ports import PAIR
from llmbench.doctor.model import Answer, Finding, passed
from llmbench.doctor.nodes.ask import Gathered, partners
from llmbench.doctor.nodes.cluster import Cluster
from llmbench.doctor.nodes.document import document, sections
from llmbench.doctor.nodes.reduce import Reduction
from llmbench.doctor.nodes.render import markdown, text
from llmbench.doctor.nodes.serve import brief
from llmbench.report.doctor_nodes import doctor_nodes_page
from tests.doctor.made import diagnosis, failed, warned
from tests.report.html_reader import Page
from tests.report.test_run_page import HOSTILE

HOSTS = {0: "h0", 1: "h1", 2: "h2"}


def answer(id: str, *findings: Finding) -> Answer:
    return Answer(next(check for check in all_checks() if check.id == id), findings, 0.1)


def of(finding: Finding, *nodes: int) -> Finding:
    return Finding(**{**vars(finding), "nodes": nodes})


def made(gathered: Gathered, lost: dict[int, str] | None = None, nnodes: int = 3) -> dict[str, Any]:
    about: dict[str, Any] = {"deep": False, "started_at": "2026-11-23T10:00:00+00:00", "seconds": 12.0}
    return document(gathered, HOSTS, {rank: f"10.0.0.{rank}" for rank in HOSTS}, lost or {}, nnodes=nnodes, **about)


@pytest.fixture
def gathered() -> Gathered:
    return gathered_of_three()


def gathered_of_three() -> Gathered:
    """h1's clock is off, h0 and h2 do not connect, all have a warning, and h2 has a fault of its own."""
    everywhere = ("cpu.threads", warned("OMP_NUM_THREADS=1", fix="unset OMP_NUM_THREADS"))
    own = ("torch.import", failed("libcudart.so.13 is missing", fix="install it"))
    documents = {rank: brief(diagnosis(everywhere)) for rank in (0, 1)}
    documents[2] = brief(diagnosis(everywhere, own))
    clock = of(OFF.found("the clock of h1 is 10.0 min ahead", verdict="fail", node="h1"), 1)
    pair = of(PAIR.found("h0 to h2: refused", node="h0", other="h2"), 0, 2)
    answers = [answer("nodes.ports", pair), answer("nodes.clock", clock), answer("nodes.host", passed("9 lookups"))]
    facts = {rank: {"same": {"torch": f"2.1{rank // 2}.0", "memory": 2**34, "driver": None}} for rank in HOSTS}
    return Gathered(documents, facts, answers)


def test_each_problem_is_told_once_by_who_has_it(gathered: Gathered) -> None:
    told = [(one.title, one.nodes, [problem.id for problem in one.problems]) for one in sections(made(gathered))]
    assert told == [
        ("Between nodes", (), ["nodes.ports.pair"]),
        ("On all 3 nodes", (0, 1, 2), ["cpu.threads"]),
        ("h1 (node 1)", (1,), ["nodes.clock.off"]),
        ("h2 (node 2)", (2,), ["torch.import"]),
    ]


def test_what_nodes_tell_each_in_its_way_is_told_in_that_of_the_first(gathered: Gathered) -> None:
    gathered.documents[1] = brief(diagnosis(("cpu.threads", warned("OMP_NUM_THREADS=2"))))
    (section,) = [one for one in sections(made(gathered)) if one.title == "On all 3 nodes"]
    assert section.problems[0].finding["evidence"] == "OMP_NUM_THREADS=1 (on h0; the others tell of their own)"


def test_the_document(gathered: Gathered) -> None:
    told = made(gathered)
    assert told["verdict"] == "fail"
    assert told["headline"] == "3 of 3 nodes have faults: h0, h1, h2"
    assert told["counts"] == {"fail": 3, "incomplete": 0, "warn": 3, "pass": 1, "skip": 0}
    assert [node["verdict"] for node in told["nodes"]] == ["fail", "fail", "fail"]
    assert [node["faults"] for node in told["nodes"]] == [
        ["nodes.ports.pair", "cpu.threads"],
        ["nodes.clock.off", "cpu.threads"],
        ["nodes.ports.pair", "cpu.threads", "torch.import"],
    ]
    assert told["checks"][1]["findings"][0]["nodes"] == [1]
    assert "nodes" not in told["checks"][2]["findings"][0]
    json.dumps(told)


def test_nothing_wrong() -> None:
    rates = [{"bytes": 2**20, "seconds": 1e-3, "busbw": 1e9}, {"bytes": 2**24, "seconds": 1e-2, "busbw": 2.2e9}]
    fine = Gathered({rank: brief(diagnosis()) for rank in HOSTS}, {}, [], reduction=Reduction("gloo", 3, rates))
    told = made(fine)
    assert told["headline"] == "3 nodes work together: all-reduce of 16 MiB at 2.2 GB/s (gloo)"
    assert text(told).splitlines()[2] == "Nothing to mend on h0, h1, h2"
    page = Page(doctor_nodes_page(told))
    assert "Nothing to fix." in page.body
    assert "10 ms, bus bandwidth 2.2 GB/s (gloo, 3 ranks)" in page.body


def test_text(gathered: Gathered) -> None:
    lines = text(made(gathered), 80).splitlines()
    heads = [line for line in lines if line.startswith("—")]
    assert heads == ["— Between nodes —", "— On all 3 nodes —", "— h1 (node 1) —", "— h2 (node 2) —"]
    assert sum("OMP_NUM_THREADS=1" in line for line in lines) == 1
    assert max(map(len, lines)) <= 80
    assert "ok nodes.host: 9 lookups" not in lines
    assert "ok nodes.host: 9 lookups" in text(made(gathered), verbose=True).splitlines()


def test_a_node_that_is_lost(gathered: Gathered) -> None:
    told = made(gathered, {2: "silent for 10 s"}, nnodes=4)
    assert [node["state"] for node in told["nodes"]] == ["there", "there", "lost", "missing"]
    page = Page(doctor_nodes_page(told))
    assert "lost: silent for 10 s" in page.body
    assert "never joined" in page.body


def test_markdown(gathered: Gathered) -> None:
    said = markdown(made(gathered))
    assert said.startswith("### llmbench doctor: 3 of 3 nodes have faults: h0, h1, h2\n")
    assert said.index("#### On all 3 nodes") < said.index("#### h1 (node 1)") < said.index("`nodes.clock.off`")


def test_page(gathered: Gathered) -> None:
    told = made(gathered)
    page = Page(doctor_nodes_page(told))
    assert page.one("h1").text.strip() == told["headline"]
    assert page.data == json.loads(json.dumps(told))
    for title in ("Between nodes", "On all 3 nodes", "h1 (node 1)", "h2 (node 2)"):
        assert title in page.body
    assert [link.text for link in page.all("a") if link.attributes["href"].startswith("#part-")] == ["h1", "h2"]
    differs = [cell.text for cell in page.all("b") if cell.text == "2.11.0"]
    assert differs == ["2.11.0"]


def test_of_many_nodes_only_those_that_differ_stand_side_by_side() -> None:
    facts = {rank: {"same": {"torch": "2.13.0" if rank != 30 else "2.12.0"}} for rank in range(40)}
    hosts = {rank: f"h{rank}" for rank in facts}
    told = document(Gathered({}, facts, []), hosts, {}, {}, nnodes=40, deep=False, started_at="", seconds=1)
    page = Page(doctor_nodes_page(told))
    heads = [cell.text.strip() for cell in page.all("th") if cell.attributes.get("scope") == "col"]
    assert heads[heads.index("What") :] == ["What", "h0", "h30"]
    assert "The first node, and those that differ from it." in page.body


def test_hostile_text_stays_text(gathered: Gathered) -> None:
    gathered.facts[0]["same"]["torch"] = HOSTILE
    gathered.documents[1]["checks"][0]["findings"][0]["evidence"] = HOSTILE
    told = document(
        gathered, {0: HOSTILE, 1: "h1", 2: "h2"}, {}, {1: HOSTILE}, nnodes=3, deep=False, started_at="", seconds=1
    )
    page = Page(doctor_nodes_page(told))
    assert len(page.all("script")) == 2
    assert not page.all("img")


class Quiet:
    """A leader whose nodes do not answer."""

    def __init__(self) -> None:
        self.hosts = dict(HOSTS)
        self.addresses: dict[int, str] = {}
        self.lost = {2: "connection closed"}

    def ask(self, requests: dict[int, Any], seconds: float) -> dict[int, Reply]:
        assert 2 not in requests
        return {0: Reply({"a": 1}), 1: Reply(reason="no answer within 5 s")}

    def start(self, requests: dict[int, Any]) -> Any:
        raise NotImplementedError


def test_who_does_not_answer_is_kept() -> None:
    cluster = Cluster(Quiet())
    assert cluster.ask("facts", 5) == {0: {"a": 1}}
    assert cluster.troubles == {1: "facts: no answer within 5 s"}


@pytest.mark.parametrize("count", [2, 3, 16, 17, 100])
def test_connections_stay_linear_and_reach_everyone(count: int) -> None:
    nodes = list(range(count))
    pairs = {(one, other) for one in nodes for other in partners(one, nodes)}
    assert all(one != other for one, other in pairs)
    if count <= 16:
        assert len(pairs) == count * (count - 1)
        return
    assert len(pairs) <= 5 * count
    assert all(sum(other == node for _, other in pairs) >= 3 for node in nodes)
