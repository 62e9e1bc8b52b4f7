"""Lines as real ranks left them (``test_ranks.py`` provokes them), and who is named for it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmbench.launch.diagnose import diagnose
from llmbench.launch.evidence import RankEvidence, gather, parse, read, verdict
from llmbench.launch.target import Outcome, RankState, log_of
from llmbench.results.schema import Error
from llmbench.suite.cases import Case, resolve
from llmbench.suite.load import find

DDP = next(case for case in resolve(find("modes")) if case.id == "gpt-tiny/ddp/ws2")
FOUR = Case(DDP.workload, DDP.mode, 4, DDP.config)
DEADLINE = 60.0
SECOND = 10**9
MIDNIGHT = 1_795_441_500 * SECOND
HOSTS = ("h0", "h0", "h1", "h1")

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.77.0.11]:21383."
RESET = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:423: Connection reset by peer"
)
LATE = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 15000ms for recv operation"
)
CONSEQUENCES = (
    CLOSED,
    RESET,
    LATE,
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Broken pipe",
    "received errors while waiting for send/recv from rank 0",
    "The client socket has timed out after 60000ms while trying to connect to (h0, 29500).",
    "NCCL error: remote process exited or there was a network error, NCCL version 2.27.3 ncclRemoteError",
    "Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error",
)
IN_COLLECTIVE = """Thread 0x00007f88ab00eb80 (most recent call first):
  File "/site-packages/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/mine/train.py", line 41 in together
"""
RAISED = {"type": "RuntimeError", "message": CLOSED, "where": None, "out_of_memory": False}
ASLEEP = """Thread 0x00007f88ab00eb80 (most recent call first):
  File "/mine/train.py", line 12 in nap
  File "/site-packages/torch/nn/modules/module.py", line 1789 in _call_impl
"""
ABORTED = """terminate called after throwing an instance of 'gloo::IoException'
  what():  [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.77.0.11]:21383
"""


class Left:
    """What a rank leaves that was well for ten seconds, and then what is said of it."""

    def __init__(self, rank: int, host: str | None = None, steps: int = 31, beats: int = 10) -> None:
        self.rank, self.at = rank, MIDNIGHT
        self.lines: list[dict[str, Any]] = []
        self.then("start", host=host or HOSTS[rank], pid=100 + rank, parent=99, rank=rank, world_size=4)
        for name in ("build", "compile", "warmup", "timed"):
            self.then("phase", name=name)
        for number in range(beats):
            done = steps * (number + 1) // beats
            self.then("beat", seconds=1.0, step=done, collective=2 * done)

    def then(self, event: str, seconds: float = 0.01, **values: Any) -> Left:
        self.at += int(seconds * SECOND)
        self.lines.append({"at": self.at, "event": event, **values})
        return self

    def lives(self, seconds: int, collective: int = 62) -> Left:
        for _ in range(seconds):
            self.then("beat", seconds=1.0, step=31, collective=collective)
        return self

    def raises(self, message: str, kind: str = "RuntimeError", seconds: float = 0.02, memory: bool = False) -> Left:
        self.then("error", seconds, type=kind, message=message, where="train.py:9 in f", out_of_memory=memory)
        return self.then("end", code=1, step=31)

    def exits(self, code: int, by_us: bool | None = False, seconds: float = 0.02) -> Left:
        return self.then("exit", seconds, code=code, by_us=by_us)

    def text(self, skew: float = 0.0) -> str:
        moved = ({**line, "at": line["at"] + int(skew * SECOND)} for line in self.lines)
        return "".join(f"\n{json.dumps(line)}\n" for line in moved)


def victims(*ranks: int, message: str = CLOSED) -> list[Left]:
    """Ranks that miss another, and say so at once, or are stopped."""
    return [
        Left(rank).raises(message).exits(1, seconds=1.0) if rank % 2 == 0 else Left(rank).exits(-15, by_us=True)
        for rank in ranks
    ]


def named(
    left: list[Left],
    timed_out: bool = False,
    lost: Mapping[int, tuple[str, str]] | None = None,
    logs: Mapping[int, str] | None = None,
    oom: int | None = None,
) -> tuple[str, Error]:
    """Status and error; the same in whatever order the ranks come, and whatever the clock of a host says."""
    found = set()
    for seed, skew in ((0, 0.0), (1, 600.0), (2, -600.0), (3, 3.0)):
        ranks = [parse(each.rank, each.text(skew if each.lines[0]["host"] == "h1" else 0.0)) for each in left]
        for each in ranks:
            each.log = (logs or {}).get(each.rank, "")
            each.oom_killed = each.rank == oom
        random.Random(seed).shuffle(ranks)
        answer = verdict(FOUR, ranks, lost or {}, DEADLINE, timed_out)
        assert answer is not None
        found.add((answer[0], answer[1].model_dump_json()))
    assert len(found) == 1
    status, error = found.pop()
    return status, Error.model_validate_json(error)


def of_rank_3(status: str, error: Error) -> str:
    """What is said of it, after its name."""
    assert (error.rank, error.host) == (3, "h1")
    assert error.hint
    late = f"no end after {DEADLINE:g} s: " if status == "timeout" else ""
    who = f"{late}rank 3 of 4 on h1"
    assert error.message.startswith(who)
    return error.message.removeprefix(who)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")])
@pytest.mark.parametrize("message", CONSEQUENCES)
def test_a_rank_that_was_killed(number: int, name: str, message: str) -> None:
    status, error = named([*victims(0, 1, 2, message=message), Left(3).exits(-number)])
    assert (status, error.type) == ("failed", name)
    assert of_rank_3(status, error).startswith(f": killed by {name} in phase timed, not by llmbench; ")


def test_a_kill_by_the_kernel_for_memory() -> None:
    status, error = named([*victims(0, 1, 2), Left(3).exits(-9)], oom=3)
    assert (status, error.type) == ("oom", "OutOfMemoryKill")
    assert "micro_batch_size" in str(error.hint)


def test_a_rank_that_raises() -> None:
    left = [*victims(0, 1, 2), Left(3).raises("the sample is torn", "ValueError").exits(1, seconds=1.0)]
    status, error = named(left)
    assert (status, error.type) == ("failed", "ValueError")
    assert of_rank_3(status, error) == ": the sample is torn (train.py:9 in f)"


def test_what_a_rank_reads_by_itself_may_break_with_the_same_words() -> None:
    left = [*victims(0, 1, 2), Left(3).raises("[Errno 104] Connection reset by peer", "ConnectionResetError").exits(1)]
    _, error = named(left)
    assert (error.type, error.rank) == ("ConnectionResetError", 3)


@pytest.mark.parametrize("kind", ["DistStoreError", "DistNetworkError"])
def test_an_error_of_the_store_is_a_consequence(kind: str) -> None:
    left = [Left(0).raises("whatever it says", kind).exits(1), *victims(1, 2), Left(3).exits(1)]
    assert named(left)[1].rank == 3


def test_a_rank_that_runs_out_of_memory() -> None:
    left = [*victims(0, 1, 2), Left(3).raises("CUDA out of memory", "OutOfMemoryError", memory=True).exits(1)]
    assert named(left)[0] == "oom"


def test_a_rank_that_is_gone_without_a_word() -> None:
    status, error = named([*victims(0, 1, 2), Left(3).exits(1)])
    assert (status, error.type) == ("failed", "Exit")
    assert of_rank_3(status, error) == ": left with exit code 1 in phase timed, without a result"


@pytest.mark.parametrize("timed_out", [False, True])
def test_a_rank_that_leaves_well_before_the_end(timed_out: bool) -> None:
    left = [*victims(0, 1, 2), Left(3).exits(0)]
    if timed_out:  # NCCL waits for it for ever
        left = [Left(rank).lives(20) for rank in range(3)] + left[3:]
    status, error = named(left, timed_out)
    assert (status, error.type) == ("failed", "Exit")
    assert of_rank_3(status, error) == ": left with code 0 before the end, in phase timed after 31 steps"


def test_a_rank_that_came_to_its_end_has_not_left_before_it() -> None:
    done = [Left(rank).then("end", code=0, step=31).exits(0) for rank in range(3)]
    status, error = named([*done, Left(3).exits(-9)])
    assert (status, error.rank) == ("failed", 3)
    assert verdict(FOUR, [parse(each.rank, each.text()) for each in done], {}, DEADLINE, False) is None


def test_a_rank_that_is_stopped() -> None:
    waiting = [Left(rank).lives(12, 63).then("stack", text=IN_COLLECTIVE) for rank in range(3)]
    status, error = named([*waiting, Left(3)], timed_out=True)
    assert (status, error.type) == ("timeout", "Timeout")
    said = of_rank_3(status, error)
    place = " in phase timed after 31 steps, it left no stack"
    assert said.startswith(f"{place}, without a heartbeat for 12 s (stopped?); rank 0 in")
    assert "deadline_seconds=120" in str(error.hint)


def test_a_rank_that_is_stopped_while_the_patience_of_others_ends() -> None:
    left = [Left(rank).lives(15, 63).raises(LATE).exits(1) for rank in range(3)]
    status, error = named([*left, Left(3).exits(-9, by_us=True, seconds=20.0)])
    assert (status, error.type) == ("failed", "Stuck")
    assert ", without a heartbeat for 20 s (stopped?); rank 0" in of_rank_3(status, error)


def test_a_rank_that_sleeps() -> None:
    waiting = [Left(rank).lives(12, 63).then("stack", text=IN_COLLECTIVE) for rank in range(3)]
    asleep = Left(3).lives(12, 62).then("stack", text=ASLEEP)
    status, error = named([*waiting, asleep], timed_out=True)
    place = "in phase timed after 31 steps"
    assert of_rank_3(status, error).startswith(
        f" {place}, last seen at train.py:12 in nap, stuck before collective 63, in which the others wait; "
        f"rank 0 {place}, last seen at distributed_c10d.py:3252 in all_reduce, called at train.py:41 in together; "
    )


def test_a_rank_that_waits_for_another_thing_than_all_others() -> None:
    """Its stack is that of one who waits, too: then it is the number of collectives that tells."""
    left = [Left(rank).lives(12, 62 + (rank != 3)).then("stack", text=IN_COLLECTIVE) for rank in range(4)]
    assert ", stuck before collective 63" in of_rank_3(*named(left, timed_out=True))


def test_where_torch_counts_no_collectives_the_stack_tells() -> None:
    left = [Left(rank).then("stack", text=IN_COLLECTIVE if rank < 3 else ASLEEP) for rank in range(4)]
    for each in left:
        each.lines = [line | ({"collective": None} if "collective" in line else {}) for line in each.lines]
    said = of_rank_3(*named(left, timed_out=True))
    assert said.startswith(" in phase timed after 31 steps, last seen at train.py:12 in nap; rank 0")


def test_a_rank_whose_disk_is_full_is_not_silent() -> None:
    waiting = [Left(rank).lives(12, 62 + (rank != 3)) for rank in (0, 1, 3)]
    full = {2: "llmbench: no evidence is kept from here on: No space left on device\n"}
    assert named([*waiting, Left(2)], timed_out=True, logs=full)[1].rank == 3


def test_a_node_that_is_gone() -> None:
    lost = {1: ("h1", "silent for 10 s"), 2: ("h2", "connection closed")}
    status, error = named([*victims(0, 1), Left(2), Left(3, beats=9).raises(CLOSED)], lost=lost)
    assert (status, error.type, error.rank, error.host) == ("failed", "NodeLost", None, "h1")
    assert error.message == (
        "node 1 (h1) was lost: silent for 10 s; ranks 2, 3 there, in phase timed after 31 steps; then node 2 (h2)"
    )
    assert named(victims(0, 1), lost={1: ("h1", "silent for 10 s")})[1].message.endswith("silent for 10 s")


def test_of_several_that_fail_on_a_host_the_first() -> None:
    left = [*victims(0, 1), Left(2).exits(-11, seconds=0.3), Left(3).exits(-9, seconds=0.2)]
    assert named(left)[1].rank == 3


def test_of_several_that_fail_on_different_hosts_who_came_least_far() -> None:
    """There is nothing else to tell them by: their clocks differ by more than the faults do."""
    left = [Left(0, steps=32).exits(-9), *victims(1, 2), Left(3, steps=31).exits(-9, seconds=5.0)]
    assert named(left)[1].rank == 3


def test_a_signal_of_which_nobody_knows_whose_it_was_is_a_weak_sign() -> None:
    left = [Left(0).exits(-9, by_us=None), *victims(1, 2), Left(3).raises("torn", "ValueError").exits(1)]
    assert named(left)[1].type == "ValueError"
    assert named([*victims(0, 1, 2), Left(3).exits(-9, by_us=None)])[1].type == "SIGKILL"


def test_an_abort_of_one_that_missed_another_is_a_consequence() -> None:
    left = [Left(0).exits(-6), *victims(1, 2), Left(3).exits(1)]
    assert named(left, logs={0: ABORTED})[1].rank == 3


def test_where_all_only_miss_somebody_one_says_so() -> None:
    status, error = named(victims(0, 1, 2, 3))
    assert (status, error.type, error.rank) == ("failed", "RuntimeError", 0)
    assert CLOSED in error.message
    assert error.message.endswith("; of no rank a cause is known")
    assert "network" in str(error.hint)
    status, error = named(
        [Left(0).exits(-6), *[Left(rank).exits(-15, by_us=True) for rank in (1, 2, 3)]], logs={0: ABORTED}
    )
    assert (error.type, error.rank) == ("SIGABRT", 0)


# Files


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    text = Left(1).exits(-9).text()
    damage = ['{"at": 7, "eve', "[1]", "null", '{"at": "x", "event": "beat"}', '{"at": 7, "event": "beat"}', "\x00\xff"]
    damage += ['{"at": 7, "event": "exit", "code": "nine", "by_us": false}', '{"at": 7, "event": "later"}', "]" * 99]
    lines = [line for pair in zip(text.splitlines(), damage * 9, strict=False) for line in pair]
    (tmp_path / "rank1.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + b"\xff\xfe\n{")
    (tmp_path / "rank0.jsonl").write_text("")
    (tmp_path / "rankx.jsonl").write_text("{}")
    empty, found = read(tmp_path)
    assert (empty.rank, empty.phase, found.rank) == (0, "start", 1)
    whole = parse(1, text)
    assert (found.phase, found.steps, found.exit_code, found.host) == ("timed", 31, -9, "h0")
    assert (whole.phase, whole.steps, whole.exit_code, whole.host) == ("timed", 31, -9, "h0")
    assert read(tmp_path / "missing") == []


@pytest.mark.parametrize("length", [1, 10, 50])
def test_whatever_is_cut_off_can_be_read(length: int) -> None:
    text = Left(1).exits(-9).text()
    assert parse(1, text[:-length]).steps == 31


def test_of_several_attempts_the_last_counts() -> None:
    found = parse(1, Left(1).raises("boom").exits(1).text() + Left(1, host="h7").text())
    assert (found.host, found.error, found.exit_code) == ("h7", None, None)


def test_evidence_travels_as_json() -> None:
    found = parse(3, Left(3).raises("torn").exits(1).then("stack", text=ASLEEP).text())
    assert RankEvidence(**json.loads(json.dumps(asdict(found)))) == found


def test_what_the_launcher_saw_completes_what_the_ranks_left(tmp_path: Path) -> None:
    (tmp_path / "rank0.jsonl").write_text(Left(0).text())
    (tmp_path / "rank0.log").write_text("its log")
    states = {rank: RankState(100 + rank, "h0", "warmup", 40 + rank) for rank in (0, 1)}
    result = {"error": {"signal": 11, "rank": 1, "host": "h0"}}
    outcome = Outcome(result=result, code=1, ranks=states, evidence=tmp_path, oom_killed=True, ended_at=9 * MIDNIGHT)
    first, second = gather(outcome)
    assert (first.steps, first.phase, first.collective, first.exit_code) == (40, "warmup", 62, None)
    assert (second.steps, second.host, second.exit_code, second.by_us) == (41, "h0", -11, False)
    assert first.oom_killed
    assert first.seen_at == 9 * MIDNIGHT


def test_each_node_tells_of_its_own_ranks(tmp_path: Path) -> None:
    """Its clock is its own, and so is what its kernel killed."""
    log = tmp_path / "case.log"
    for rank in (0, 1):
        (tmp_path / f"rank{rank}.jsonl").write_text(Left(rank, host=f"h{rank}").text(skew=600.0 * rank))
        log_of(log, rank).write_text(f"of rank {rank}")
    states = [{rank: RankState(100, f"h{rank}", "timed", 31)} for rank in (0, 1)]
    error = {"signal": 9, "rank": 1, "host": "h1"}
    parts = [
        Outcome(ranks=states[0], evidence=tmp_path, result={"error": {**RAISED, "rank": 0, "host": "h0"}}, ended_at=7),
        Outcome(ranks=states[1], evidence=tmp_path, result={"error": error}, oom_killed=True, ended_at=9 * MIDNIGHT),
    ]
    whole = Outcome(log=log, parts=parts, ranks=states[0] | states[1], result=parts[0].result, code=1)
    first, second = gather(whole)
    assert (first.log, first.oom_killed, second.log, second.oom_killed) == ("of rank 0", False, "of rank 1", True)
    assert second.seen_at == 9 * MIDNIGHT
    found = diagnose(DDP, whole, DEADLINE)
    assert found is not None
    assert (found[0], found[1].type, found[1].rank, found[1].host) == ("oom", "OutOfMemoryKill", 1, "h1")
