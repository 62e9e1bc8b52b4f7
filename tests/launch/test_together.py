"""Of what several nodes tell of one job, the first cause, or what all of them measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmbench.launch.merge import of_ranks
from llmbench.launch.share import fill, interface_of, packed, unpacked
from llmbench.launch.target import Outcome, RankState
from llmbench.launch.together import Part, together

LOG = Path("case.log")


def part(node: int, outcome: Outcome | None, **values: Any) -> Part:
    return Part(node, f"h{node}", 2 * node, outcome, **values)


def ok(node: int) -> Outcome:
    ranks = [{"rank": 2 * node + local, "host": f"h{node}"} for local in (0, 1)]
    return Outcome(result={"losses": [node], "ranks": ranks}, code=0, wall_seconds=1.0 + node, steps=10 - node)


def raised(message: str, at: float, rank: int) -> Outcome:
    error = {"type": "RuntimeError", "message": message, "at": at, "rank": rank, "host": f"h{rank // 2}"}
    return Outcome(result={"error": error}, code=1)


def died(rank: int) -> Outcome:
    return Outcome(result={"error": {"signal": 9, "rank": rank, "host": f"h{rank // 2}"}}, code=1)


STOPPED = Outcome(code=-9, phase="timed")
CLOSED = "Connection closed by peer [10.0.0.1]:2345"


def error_of(*parts: Part) -> dict[str, Any]:
    found = together(parts, LOG)
    assert found.code == 1
    assert found.result is not None
    error: dict[str, Any] = found.result["error"]
    return error


@pytest.mark.parametrize(
    ("size", "processes", "counts"),
    [
        (4, [2, 2], [2, 2]),
        (3, [2, 2], [2, 1]),
        (2, [2, 2], [2]),
        (6, [4, 8], [4, 2]),
        (5, [2, 2], [2, 2]),  # two too many: the sum tells
    ],
)
def test_nodes_are_filled_in_order(size: int, processes: list[int], counts: list[int]) -> None:
    assert fill(size, processes) == counts


def test_all_ranks_in_order_with_their_nodes() -> None:
    found = together([part(0, ok(0)), part(1, ok(1))], LOG)
    assert found.result is not None
    assert [(rank["rank"], rank["node"]) for rank in found.result["ranks"]] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert (found.result["losses"], found.code, found.wall_seconds, found.steps) == ([0], 0, 2.0, 9)


def test_a_lost_node_is_the_cause_whatever_the_others_say() -> None:
    error = error_of(part(0, raised(CLOSED, 1.0, 0)), part(1, None, reason="silent for 10 s", lost=True))
    assert (error["rank"], error["host"], error["type"]) == (2, "h1", "NodeLost")
    assert error["message"] == "node 1 (h1) was lost: silent for 10 s"


def test_a_node_that_could_not_do_it_says_why() -> None:
    error = error_of(part(0, STOPPED, stopped=True), part(1, None, reason="OSError: No space left on device"))
    assert error["message"] == "node 1 (h1): OSError: No space left on device"


def test_who_was_killed_comes_before_who_missed_it() -> None:
    assert error_of(part(0, raised(CLOSED, 0.5, 1)), part(1, died(3)))["rank"] == 3


def test_who_raised_by_itself_comes_before_who_missed_it_whatever_their_clocks() -> None:
    assert error_of(part(0, raised(CLOSED, 0.5, 1)), part(1, raised("the sample is torn", 9.5, 2)))["rank"] == 2


def test_of_two_that_raised_by_themselves_the_first() -> None:
    assert error_of(part(0, raised("one", 2.0, 1)), part(1, raised("two", 1.0, 2)))["message"] == "two"


def test_a_launcher_that_was_killed_by_others_is_the_cause_and_one_that_we_stopped_is_not() -> None:
    error = error_of(part(0, STOPPED, stopped=True), part(1, Outcome(code=-9)))
    assert error["message"] == "the launcher of node 1 (h1) was killed by SIGKILL"
    assert error_of(part(0, STOPPED, stopped=True), part(1, died(2)))["rank"] == 2


def test_who_misses_one_that_hung_until_the_deadline_is_no_cause() -> None:
    found = together([part(0, raised(CLOSED, 9.0, 0)), part(1, Outcome(code=-9, timed_out=True))], LOG)
    assert (found.timed_out, found.result) == (True, None)


def test_what_one_node_lacks_is_no_failure() -> None:
    lacks = Outcome(result={"unavailable": "2 ranks on h1 need 2 CUDA devices"}, code=0)
    found = together([part(0, raised(CLOSED, 0.1, 0)), part(1, lacks)], LOG)
    assert found.result == lacks.result


def test_all_were_stopped() -> None:
    found = together([part(0, STOPPED, stopped=True), part(1, STOPPED, stopped=True)], LOG)
    assert (found.code, found.result) == (-9, None)


def test_an_outcome_travels_with_its_logs_and_evidence(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "evidence").mkdir(parents=True)
    here.mkdir()
    (there / "case.log").write_text("before\nlaunched\n")
    (there / "case.rank3.log").write_text("this is rank 3")
    (there / "evidence" / "rank3.jsonl").write_text('{"event": "start"}\n')
    (here / "case.rank3.log").write_text("an earlier attempt\n")
    state = RankState(pid=7, host="h1", phase="timed", steps=4)
    sent = Outcome(code=-9, timed_out=True, phase="timed", log=there / "case.log", log_begin=7, ranks={3: state})
    found = unpacked(packed(sent, there / "evidence"), here / "case.log", 1, here / "evidence")
    assert (found.code, found.timed_out, found.phase, found.log_text()) == (-9, True, "timed", "launched\n")
    assert (found.ranks[3].pid, found.ranks[3].steps) == (7, 4)
    whole = together([part(0, Outcome(code=-9, timed_out=True)), part(1, found)], here / "case.log")
    assert whole.log_text(3) == "this is rank 3"
    assert (here / "evidence" / "rank3.jsonl").read_text() == '{"event": "start"}\n'


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


def test_sum_largest_and_spread_of_each_quantity() -> None:
    ranks = [
        {
            "rank": rank,
            "host": "h",
            "device": "cpu",
            "window_seconds": 10.0 + rank,
            "step_seconds": [0.1] * 9 + [0.1 + rank],
            "communication": {"seconds_per_step": 0.02, "step_seconds": 0.1, "source": "profiler"} if rank else None,
            "peak_allocated_bytes": None,
            "peak_rss_bytes": 100 + rank,
            "energy": {"joules": 5.0, "source": "NVML"} if rank == 1 else None,
        }
        for rank in range(3)
    ]
    found = of_ranks(ranks)
    over = found["over_ranks"]
    assert found["rank_spread"] == over["window_seconds"].spread == pytest.approx(2 / 11)
    assert (over["window_seconds"].sum, over["window_seconds"].max, over["window_seconds"].max_rank) == (None, 12.0, 2)
    assert (over["peak_rss_bytes"].sum, over["peak_rss_bytes"].max) == (303, 102)
    assert (over["joules"].sum, over["joules"].max_rank) == (5.0, 1)
    assert (over["communication_seconds"].spread, over["communication_seconds"].max_rank) == (0.0, 1)
    assert "peak_allocated_bytes" not in over
    assert [rank.step_median_seconds for rank in found["ranks"]] == [0.1] * 3
    assert found["ranks"][2].step_p95_seconds == pytest.approx(0.1 + 0.55 * 2)
    assert found["communication"].share == pytest.approx(0.2)
