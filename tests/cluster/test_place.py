"""Which node this is, from options and from what launchers set."""

from __future__ import annotations

import pytest

from llmbench.cluster.place import Place, find_place
from llmbench.errors import UserError

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "h[0-1]",
}
PODS = {
    "PET_NNODES": "3",
    "PET_NODE_RANK": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_MASTER_ADDR": "bench-0.bench",
    "PET_MASTER_PORT": "29400",
}


def hosts(names: str) -> list[str]:
    assert names == "h[0-1]"
    return ["h0", "h1"]


def test_by_hand() -> None:
    place = find_place({}, nnodes=2, node_rank=1, nproc_per_node=2, master_addr="h0", master_port=1234)
    assert place == Place(2, 1, "h0", 1234, 2, "options")
    assert not place.leads


def test_one_node_needs_nothing_else() -> None:
    place = find_place({}, nnodes=1)
    assert (place.node_rank, place.master_addr, place.leads) == (0, "127.0.0.1", True)


def test_pods() -> None:
    assert find_place(PODS) == Place(3, 2, "bench-0.bench", 29400, 4, "PET")


def test_a_pod_of_an_indexed_job_has_its_rank_from_the_index() -> None:
    environ = {name: value for name, value in PODS.items() if name != "PET_NODE_RANK"} | {"JOB_COMPLETION_INDEX": "1"}
    assert find_place(environ).node_rank == 1


def test_a_step_of_slurm() -> None:
    place = find_place(STEP, hostnames=hosts)
    assert (place.nnodes, place.node_rank, place.master_addr, place.launcher) == (2, 1, "h0", "SLURM")


def test_two_steps_meet_at_different_ports() -> None:
    ports = {find_place(STEP | {"SLURM_STEP_ID": step}, hostnames=hosts).master_port for step in "0123"}
    assert len(ports) == 4


def test_options_come_before_variables() -> None:
    place = find_place(PODS, nnodes=4, node_rank=3, master_addr="elsewhere", master_port=1)
    assert (place.nnodes, place.node_rank, place.master_addr, place.master_port) == (4, 3, "elsewhere", 1)


@pytest.mark.parametrize(
    ("environ", "options", "named"),
    [
        ({}, {}, "--nnodes"),
        ({}, {"nnodes": 2}, "which of the 2 nodes"),
        ({}, {"nnodes": 2, "node_rank": 0}, "where is node 0"),
        ({}, {"nnodes": 2, "node_rank": 2, "master_addr": "h0"}, "--node-rank 2"),
        ({}, {"nnodes": 2, "node_rank": -1, "master_addr": "h0"}, "--node-rank -1"),
        (PODS | {"PET_NNODES": "2:4"}, {}, "PET_NNODES=2:4"),
        (PODS | {"PET_NNODES": "many"}, {}, "PET_NNODES=many"),
        (PODS | {"PET_MASTER_PORT": "70000"}, {}, "70000"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4"}, {}, "4 times on 2 nodes"),
        # In an sbatch script SLURM_NODEID is 0 on the only host that runs it: it says nothing.
        ({"SLURM_JOB_ID": "12", "SLURM_NODEID": "0", "SLURM_NNODES": "2"}, {"nnodes": 2}, "which of the 2 nodes"),
    ],
)
def test_what_cannot_be_is_named(environ: dict[str, str], options: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        find_place(environ, **options, hostnames=hosts)  # type: ignore[arg-type]


def test_without_scontrol_the_address_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="scontrol is not there"):
        find_place(STEP)
