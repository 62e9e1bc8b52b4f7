"""What a script of SLURM has: its nodes, where the first is found, and why it is told to end."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from llmbench.cluster.allocation import Allocation, down_hosts, find_allocation, why_terminated, within_script
from llmbench.errors import UserError

SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "h[0-2]"}
HOSTS = ["h0", "h1", "h2"]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What scontrol and sinfo say here."""
    for name in ("scontrol", "sinfo"):
        (tmp_path / name).write_text(f'#!/bin/sh\ncat "{tmp_path}/said"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "said"


def test_the_hosts_of_a_script() -> None:
    assert find_allocation(SCRIPT, None, lambda nodes: HOSTS) == Allocation("7", ("h0", "h1", "h2"))
    assert find_allocation(SCRIPT, 2, lambda nodes: HOSTS).hosts == ("h0", "h1")


def test_fewer_nodes_than_asked_for() -> None:
    with pytest.raises(UserError, match=r"--nnodes 4: the job 7 has 3 nodes \(h\[0-2\]\)"):
        find_allocation(SCRIPT, 4, lambda nodes: HOSTS)


@pytest.mark.parametrize("environ", [{}, SCRIPT | {"SLURM_STEP_ID": "0"}])
def test_elsewhere_there_is_none(environ: dict[str, str]) -> None:
    assert not within_script(environ)
    with pytest.raises(UserError, match="no script of SLURM"):
        find_allocation(environ, 2, lambda nodes: HOSTS)


def test_a_first_host_whose_name_leads_nowhere(said: Path) -> None:
    nowhere = Allocation("7", ("no-such-host.invalid", "h1"))
    said.write_text("NodeName=no-such-host.invalid NodeAddr=127.0.0.9 State=IDLE")
    assert nowhere.master_address() == "127.0.0.9"
    said.write_text("NodeName=no-such-host.invalid NodeAddr=neither.invalid State=IDLE")
    with pytest.raises(UserError, match="leads nowhere"):
        nowhere.master_address()
    assert Allocation("7", ("localhost",)).master_address() == "localhost"


def test_a_goodbye_near_the_wall_limit(said: Path) -> None:
    said.write_text("JobId=7 JobState=RUNNING TimeLimit=00:05:00 EndTime=2026-11-23T14:00:00")
    assert why_terminated(SCRIPT, datetime(2026, 11, 23, 13, 59)) == (
        "the job 7 of SLURM reached its wall limit (00:05:00)"
    )
    assert why_terminated(SCRIPT, datetime(2026, 11, 23, 13, 50)) is None
    assert why_terminated({}, datetime(2026, 11, 23, 13, 59)) is None
    said.write_text("JobId=7 EndTime=Unknown")
    assert why_terminated(SCRIPT) is None


def test_hosts_that_are_down(said: Path) -> None:
    said.write_text("h0 mixed\nh1 down*\nh2 idle*\n")
    assert down_hosts(HOSTS) == {"h1": "SLURM has it as down*", "h2": "SLURM has it as idle*"}
