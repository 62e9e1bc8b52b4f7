"""The options by which ``llmbench run`` knows that it is one of several nodes."""

from __future__ import annotations

import threading

import pytest

from llmbench.cli.nodes import NodeOptions, led, processes_here
from llmbench.cli.options import DeviceKind
from llmbench.cluster.channel import Follower
from llmbench.cluster.place import Place
from llmbench.errors import UserError
from tests.cluster.nodes import free_port
from tests.conftest import Command


def test_without_options_or_a_launcher_there_are_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PET_NNODES", "PET_NODE_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    assert NodeOptions().place() is None
    with pytest.raises(UserError, match="how many nodes"):
        NodeOptions(node_rank=1).place()
    monkeypatch.setenv("PET_NNODES", "3")
    monkeypatch.setenv("PET_NODE_RANK", "2")
    monkeypatch.setenv("PET_MASTER_ADDR", "job-0.job")
    assert NodeOptions().place() == Place(3, 2, "job-0.job", 29500, launcher="PET")


@pytest.mark.parametrize(
    ("asked", "device", "visible", "processes"),
    [
        (4, DeviceKind.auto, "0", 4),
        (None, DeviceKind.cpu, "0,1", 1),
        (None, DeviceKind.auto, "0,1", 2),
        (None, DeviceKind.cuda, "", 1),
    ],
)
def test_processes_of_a_node(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, device: DeviceKind, visible: str, processes: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes_here(asked, device) == processes


def test_a_node_that_does_something_else_is_refused() -> None:
    port, over = free_port(), threading.Event()

    def follow() -> None:
        with Follower(Place(2, 1, "127.0.0.1", port), {"of": "another command"}, 30):
            over.wait(60)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        with (
            pytest.raises(UserError, match=r"node 1 \(.*\) runs another command"),
            led(Place(2, 0, "127.0.0.1", port), 1, 30, lambda message: None),
        ):
            raise AssertionError
    finally:
        over.set()
        thread.join()


def test_a_plan_counts_the_ranks_of_all_nodes_and_waits_for_none(llmbench: Command) -> None:
    nodes = ["--nnodes", "2", "--nproc-per-node", "4", "--node-rank", "0", "--master-addr", "h0"]
    done = llmbench("run", "smoke-ddp", "--plan", *nodes)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:6]] == [
        "regression-linear/eager/ws1",
        "regression-linear/ddp/ws8",
        "gpt-tiny/eager/ws1",
        "gpt-tiny/ddp/ws8",
        "gpt-tiny/fsdp/ws8",
    ]
    assert llmbench("run", "smoke-ddp", "--nnodes", "2").returncode == 2
