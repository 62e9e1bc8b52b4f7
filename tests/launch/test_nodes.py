"""Node 0 and those that follow it, over real sockets; what would train is a function here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmbench.cluster.channel import Follower, Leader, LeaderLost
from llmbench.cluster.place import Place
from llmbench.errors import UserError
from llmbench.launch import follow, nodes
from llmbench.launch.follow import Follow
from llmbench.launch.nodes import Nodes
from llmbench.launch.prepare import load_data
from llmbench.launch.target import Outcome, RankState, log_of
from llmbench.launch.trains import Needs
from llmbench.results.schema import Node
from llmbench.suite.cases import Case, resolve
from llmbench.suite.load import find
from tests.cluster.nodes import free_port

CASES: list[Case] = [case for case in resolve(find("ci")) if case.workload == "regression-linear"]
ENVIRONMENT = {"torch": {"version": "2.13.0", "threads": 1}, "python": {"version": "3.11.7"}, "devices": []}
Act = Callable[["Fake", dict[str, Any], Path], Outcome]


class Fake:
    """An interpreter that does what ``acts`` says for its node instead of training."""

    acts: ClassVar[dict[str, Act]] = {}
    torch: ClassVar[dict[str, str]] = {}

    def __init__(self, python: str, preload: object = ()) -> None:
        self.python, self.environ, self.hello = python, {}, {"torch": "2.13.0"}
        self.killed = threading.Event()
        self.ended = False

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.killed.set()
        self.ended = True

    def ready(self) -> dict[str, Any]:
        return self.hello

    def kill_job(self) -> None:
        self.killed.set()

    def steps_done(self) -> int | None:
        return 3

    def run(
        self, job: dict[str, Any], log: Path, deadline: float, on_event: Any = lambda event: None, waited: Any = None
    ) -> Outcome:
        if job["kind"] == "describe":
            torch = {"version": self.torch.get(self.python, "2.13.0"), "threads": 1}
            python = {"version": "3.11.7"}
            return Outcome(
                result={"device": "cpu", "torch": torch, "python": python, "devices": [], "packages": {}}, code=0
            )
        self.killed.clear()
        share = job.get("share")
        for rank in range(share["first_rank"], share["first_rank"] + share["ranks"]) if share else ():
            on_event({"event": "rank", "rank": rank, "pid": 1, "host": "h"})
        return self.acts[self.python](self, job, log)


def trains(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
    """Ranks that go on as soon as their gate is open, and write a log."""
    share = job["share"]
    if share["gate"]:
        for _ in range(3000):
            if Path(share["gate"]).exists():
                break
            fake.killed.wait(0.01)
        else:
            raise TimeoutError("the gate stayed closed")
    ranks = range(share["first_rank"], share["first_rank"] + share["ranks"])
    for rank in ranks:
        log_of(log, rank).write_text(f"this is rank {rank}")
    told = [{"rank": rank, "read": reads(job)} for rank in ranks]
    states = {rank: RankState(pid=1, host="h") for rank in ranks}
    return Outcome(result={"losses": [share["node"]], "ranks": told}, code=0, log=log, ranks=states)


def reads(job: dict[str, Any]) -> str | None:
    return Path(job["gradients"]).read_text() if job.get("gradients") else None


def alone(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
    return Outcome(result={"alone": fake.python}, code=0)


def hangs(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
    assert fake.killed.wait(60)
    return Outcome(code=-9)


def dies(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
    rank = job["share"]["first_rank"]
    return Outcome(result={"error": {"signal": 9, "rank": rank, "host": fake.python}}, code=1)


def has_no_disk(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
    raise OSError(28, "No space left on device")


class Cluster:
    """Nodes that have joined.

    Attributes:
        said: by the followers.
        ended: how each follower did, by node rank.
    """

    def __init__(self, leader: Leader, local: Fake, processes: list[int]) -> None:
        self.leader, self.local = leader, local
        self.nodes = Nodes(leader, local, processes)  # type: ignore[arg-type]
        self.nodes.begin(["one"])
        self.said: list[str] = []
        self.followers: dict[int, Follower] = {}
        self.ended: dict[int, str] = {}

    def needs(self, **changes: Any) -> Needs:
        sha256 = load_data(None, CASES, lambda message: None).sha256()
        values: dict[str, Any] = {"data": None, "sha256": sha256, "device": "cpu", "environment": ENVIRONMENT}
        return Needs([case.planned() for case in CASES], **(values | changes))

    def run(self, log: Path, size: int, **job: Any) -> Outcome:
        whole = {"kind": "case", "distributed": True, "world_size": size, "device": "cpu", "data": {}} | job
        return self.nodes.run(whole, log / "case.log", 60.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(follow, "Target", Fake)
    monkeypatch.setattr(nodes, "LATE_SECONDS", 30.0)

    @contextmanager
    def make(*acts: Act, processes: int = 1, torch: dict[str, str] | None = None) -> Iterator[Cluster]:
        count, port = len(acts), free_port()
        monkeypatch.setattr(Fake, "acts", {f"python{rank}": act for rank, act in enumerate(acts)})
        monkeypatch.setattr(Fake, "torch", torch or {})
        members: dict[int, Follower] = {}
        ended: dict[int, str] = {}
        said: list[str] = []

        def serve(rank: int) -> None:
            with (
                Follower(Place(count, rank, "127.0.0.1", port), {}, 30) as follower,
                Follow(follower, f"python{rank}", said.append) as following,
            ):
                members[rank] = follower
                try:
                    follower.serve(following.handlers)
                    ended[rank] = "done"
                except LeaderLost as lost:
                    ended[rank] = str(lost)

        threads = [threading.Thread(target=serve, args=(rank,)) for rank in range(1, count)]
        for thread in threads:
            thread.start()
        with Leader(Place(count, 0, "127.0.0.1", port), {}, join_seconds=30) as leader, Fake("python0") as local:
            leader.join()
            made = Cluster(leader, local, [processes] * count)
            made.followers, made.ended, made.said = members, ended, said
            yield made
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)

    return make


def test_all_nodes_train_their_share(cluster: Callable[..., Any], tmp_path: Path) -> None:
    gradients = tmp_path / "gradients.pt"
    gradients.write_text("exact")
    with cluster(trains, trains, trains, processes=2) as made:
        for _ in range(2):  # the second time they have the file
            found = made.run(tmp_path, 5, gradients=str(gradients))
        assert found.code == 0, str(found.result["error"])
        assert found.result["losses"] == [0]
        told = [(rank["rank"], rank["node"], rank["read"]) for rank in found.result["ranks"]]
        assert told == [(rank, rank // 2, "exact") for rank in range(5)]
        assert [log_of(tmp_path / "case.log", rank).read_text()[:14] for rank in range(5)] == [
            f"this is rank {rank}" for rank in range(5)
        ]
        gradients.write_text("other!")
        assert made.run(tmp_path, 3, gradients=str(gradients)).result["ranks"][2]["read"] == "other!"
        assert not made.leader._asked  # what was answered is not kept
    assert made.ended == {1: "done", 2: "done"}


def test_what_fits_on_node_0_is_done_there_and_what_fits_nowhere_is_skipped(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    with cluster(alone, dies, processes=2) as made:
        assert made.run(tmp_path, 2).result == {"alone": "python0"}
        assert made.run(tmp_path, 1, distributed=False).result == {"alone": "python0"}
        lacks = made.run(tmp_path, 5)
        assert lacks.code == 0
        assert "5 ranks do not fit on 2 nodes with room for 4" in lacks.result["unavailable"]


@pytest.mark.parametrize(("acts", "rank"), [((hangs, hangs, dies), 2), ((dies, hangs, hangs), 0)])
def test_one_that_dies_ends_the_others_at_once(
    cluster: Callable[..., Any], tmp_path: Path, acts: tuple[Act, ...], rank: int
) -> None:
    with cluster(*acts) as made:
        found = made.run(tmp_path, 3)
        assert found.result["error"] == {"signal": 9, "rank": rank, "host": f"python{rank}"}
        assert not found.timed_out
        Fake.acts = dict.fromkeys(Fake.acts, trains)
        again = made.run(tmp_path, 3)
        assert again.code == 0, str(again.result)  # and the suite goes on


def test_a_rank_that_still_writes_while_its_folder_is_removed_spoils_nothing(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    over = threading.Event()
    threads: list[threading.Thread] = []

    def writes(folder: Path) -> None:
        number = 0
        while not over.wait(0.0002):
            number += 1
            with suppress(OSError):
                (folder / f"{number}").touch()

    def leaves_one(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
        threads.append(threading.Thread(target=writes, args=(log.parent,)))
        threads[-1].start()
        return trains(fake, job, log)

    with cluster(trains, leaves_one) as made:
        try:
            found = made.run(tmp_path, 2)
        finally:
            over.set()
        threads[0].join()
        assert found.code == 0, str(found.result)


def test_a_node_that_cannot_says_why(cluster: Callable[..., Any], tmp_path: Path) -> None:
    with cluster(hangs, has_no_disk) as made:
        error = made.run(tmp_path, 2).result["error"]
    assert error["message"] == "node 1 (" + error["host"] + "): OSError: [Errno 28] No space left on device"
    assert (error["rank"], error["type"]) == (1, "NodeFailed")


def test_a_lost_node_ends_the_case_and_fails_the_next_at_once(cluster: Callable[..., Any], tmp_path: Path) -> None:
    def loses(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
        threading.Thread(target=made.followers[1]._wire.close).start()  # as a process that is killed
        return hangs(fake, job, log)

    with cluster(hangs, loses, trains) as made:
        first = made.run(tmp_path, 3).result["error"]
        assert first["type"] == "NodeLost"
        assert "node 1 (" in first["message"]
        assert "was lost: connection closed" in first["message"]
        assert (first["rank"], made.leader.lost) == (1, {1: "connection closed"})
        Fake.acts = dict.fromkeys(Fake.acts, alone)
        assert made.run(tmp_path, 3).result["error"]["type"] == "NodeLost"
        assert made.run(tmp_path, 1).result == {"alone": "python0"}
        made.followers[1]._lost("its wire was closed by the test")


def test_an_interrupt_stops_the_others(cluster: Callable[..., Any], tmp_path: Path) -> None:
    stopped = threading.Event()

    def interrupted(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
        raise KeyboardInterrupt

    def sees_its_end(fake: Fake, job: dict[str, Any], log: Path) -> Outcome:
        found = hangs(fake, job, log)
        stopped.set()
        return found

    with cluster(interrupted, sees_its_end) as made:
        with pytest.raises(KeyboardInterrupt):
            made.run(tmp_path, 2)
        assert stopped.wait(60)


def test_nodes_tell_what_they_are_and_how_they_differ(cluster: Callable[..., Any]) -> None:
    with cluster(trains, trains, trains, torch={"python2": "2.14.0"}, processes=4) as made:
        found: list[Node] = made.nodes.prepare(made.needs())
        assert [(node.node_rank, node.processes) for node in found] == [(0, 4), (1, 4), (2, 4)]
        assert "torch.version 2.13.0 → 2.14.0" not in found[1].differences
        assert any("2.13.0 → 2.14.0" in each for each in found[2].differences)
        assert found[1].facts["torch.version"] == "2.13.0"
        with pytest.raises(UserError, match="began on 2 nodes, now there are 3"):
            made.nodes.prepare(made.needs(nodes=found[:2]))
        before = [found[0], found[1], found[2].model_copy(update={"facts": found[1].facts})]
        with pytest.raises(UserError, match=r"node 2 \(.*\) changed since the run began: .*2.13.0 → 2.14.0"):
            made.nodes.prepare(made.needs(nodes=before))
        assert made.nodes.prepare(made.needs(nodes=found)) == found


def test_a_node_with_other_data_is_refused(cluster: Callable[..., Any], tmp_path: Path) -> None:
    with cluster(trains, trains) as made:
        with pytest.raises(UserError, match=r"node 1 \(.*\) has other data than node 0: train"):
            made.nodes.prepare(made.needs(sha256={"train": "other"}))
        with pytest.raises(UserError, match=r"node 1 \(.*\): --data .*nowhere"):
            made.nodes.prepare(made.needs(data=str(tmp_path / "nowhere")))
        lacks = made.run(tmp_path, 2, data={"sha256": "unknown"})
        assert "it has other token files than node 0" in lacks.result["error"]["message"]
