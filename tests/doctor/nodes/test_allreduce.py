"""The all-reduce over all nodes: who is named when it fails, and that the real one works between processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from llmbench.doctor.checks import nodes_allreduce as check
from llmbench.doctor.checks.nodes_allreduce import SIZES, STAGES, Rank
from llmbench.doctor.model import Finding
from llmbench.doctor.nodes.reduce import processes, ranks_of

KNOWN = {0: "h0", 1: "h1", 2: "h2"}
TAKEN = {SIZES[0]: 0.001, SIZES[1]: 0.016}
CLOSED = "RuntimeError: Connection closed by peer [10.0.0.1]:4242"
TIMED_OUT = "RuntimeError: Timed out waiting 30000ms for recv operation to complete"
WAITING = STAGES[4]


def judge(*ranks: Rank) -> list[tuple[str | None, tuple[int, ...]]]:
    return [(finding.fault, finding.nodes) for finding in findings(ranks)]


def findings(ranks: Iterable[Rank]) -> list[Finding]:
    return list(check.judge(KNOWN, "gloo", list(ranks)))


def good(node: int) -> Rank:
    return Rank(node, "end", seconds=TAKEN)


def test_bus_bandwidth_as_nccl_tests_define_it() -> None:
    first, second = check.rates([good(node) for node in range(4)])
    assert first == {"bytes": 2**20, "seconds": 0.001, "busbw": 2**20 / 0.001 * 2 * 3 / 4}
    assert second["busbw"] == pytest.approx(16 * 2**20 / 0.016 * 1.5)


def test_the_slowest_rank_is_the_time() -> None:
    slow = Rank(2, "end", seconds={SIZES[0]: 0.5, SIZES[1]: 0.6})
    assert [rate["seconds"] for rate in check.rates([good(0), slow])] == [0.5, 0.6]


def test_all_is_well() -> None:
    (finding,) = findings(good(node) for node in range(3))
    assert finding.verdict == "pass"
    assert finding.evidence.startswith("gloo, 3 ranks on 3 nodes: 1 MiB in 1 ms")


def test_who_was_killed_is_named_and_not_those_who_lost_it() -> None:
    lost = [Rank(node, WAITING, error=CLOSED) for node in (0, 2)]
    assert judge(*lost, Rank(1, WAITING, signal="SIGSEGV")) == [("nodes.allreduce.crashed", (1,))]


def test_who_raised_is_named_and_not_those_who_lost_it() -> None:
    raised = Rank(1, "form the group", error="RuntimeError: Unable to find address for: eth9")
    (finding,) = findings([Rank(0, WAITING, error=TIMED_OUT), raised, Rank(2, WAITING, error=CLOSED)])
    assert (finding.fault, finding.nodes) == ("nodes.allreduce.failed", (1,))
    assert "form the group: RuntimeError: Unable to find address for: eth9" in finding.evidence


def test_who_was_ended_for_others_is_not_taken_for_killed() -> None:
    raised = Rank(1, "import torch", error="ImportError: libgomp.so.1")
    assert judge(raised, Rank(0, WAITING, signal="SIGKILL", stopped=True)) == [("nodes.allreduce.failed", (1,))]


def test_who_stays_behind_is_named() -> None:
    (finding,) = findings([Rank(0, WAITING, error=TIMED_OUT), Rank(1, "import torch", stopped=True)])
    assert (finding.fault, finding.nodes) == ("nodes.allreduce.hangs", (1,))
    assert "h1 did not get beyond: import torch; h0 wait in: all-reduce 1 MiB" in finding.evidence


def test_where_all_wait_nobody_is_told_apart() -> None:
    assert judge(*(Rank(node, WAITING, error=TIMED_OUT) for node in range(3))) == [("nodes.allreduce.hangs", (0, 1, 2))]


def test_a_wrong_sum() -> None:
    ranks = [good(0), Rank(1, "end", wrong="5 to 6 instead of 6", seconds=TAKEN)]
    assert judge(*ranks) == [("nodes.allreduce.wrong", (1,))]


def test_gpus_where_all_have_some_else_the_cpu() -> None:
    assert processes({0: {"devices": 8}, 1: {"devices": 4}}, None) == ("nccl", {0: 8, 1: 4})
    assert processes({0: {"devices": 8}, 1: {"devices": 4}}, 2) == ("nccl", {0: 2, 1: 2})
    assert processes({0: {"devices": 8}, 1: {"devices": 0}}, None) == ("gloo", {0: 1, 1: 1})
    assert processes({0: {"devices": 0}, 1: {"devices": 0}}, 2) == ("gloo", {0: 2, 1: 2})


def reply(**changes: Any) -> dict[str, Any]:
    given = {"ranks": {"3": {"at": "import torch"}}, "ok": True, "ending": "", "words": "", "signal": None}
    return given | {"timed_out": False, "stopped": False} | changes


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, Rank(1)),
        (reply(ranks={"3": {"at": "end", "seconds": {"1048576": 0.5}}}), Rank(1, "end", seconds={2**20: 0.5})),
        (reply(ok=False, words="ImportError: x"), Rank(1, "import torch", "ImportError: x")),
        (reply(ok=False, signal="SIGSEGV"), Rank(1, "import torch", None, "SIGSEGV")),
        (reply(ok=False, signal="SIGKILL", stopped=True), Rank(1, "import torch", stopped=True)),
        (reply(ok=False, timed_out=True), Rank(1, "import torch")),
        (reply(ranks={"3": {"at": WAITING, "signal": 11}}), Rank(1, WAITING, None, "signal 11")),
    ],
)
def test_what_a_node_told_of_its_ranks(answer: Mapping[str, Any] | None, expected: Rank) -> None:
    assert ranks_of(1, {"first": 3, "count": 1}, answer) == [expected]
