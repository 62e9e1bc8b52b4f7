"""One rank of a step of SLURM: a process that srun starts, played here with SLURM's variables."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.paths import PACKAGE
from llmbench.worker.step import interface_towards, result_of


def test_no_interface_where_no_other_host_is_reached() -> None:
    assert interface_towards(["127.0.0.1", "no-such-host.invalid"]) is None


def test_the_interface_that_leads_to_another_host() -> None:
    """Any address of the loopback's network is reached by it, and only one is its own."""
    if "lo" not in [name for _, name in socket.if_nameindex()]:
        pytest.skip("no loopback of that name")
    assert interface_towards(["127.0.0.1", "127.0.0.77"]) == "lo"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code", "part"), [("describe", 0, "torch"), ("nonsense", 1, "error")])
def test_a_rank_leaves_result_log_and_evidence(
    tmp_path: Path, environment: dict[str, str], kind: str, code: int, part: str
) -> None:
    job = {"kind": kind, "device": "cpu", "modes": [], "every_package": False, "world_size": 1, "distributed": True}
    told = {
        "job": job | {"evidence": str(tmp_path / "evidence")},
        "folder": str(tmp_path),
        "log": str(tmp_path / "case.log"),
        "master_addr": "127.0.0.1",
        "master_port": 1,
        "local_world_size": 1,
        "hosts": ["localhost"],
        "step": 1,
    }
    (tmp_path / "job.json").write_text(json.dumps(told))
    start = [sys.executable, str(PACKAGE / "worker" / "start.py"), "--rank", str(tmp_path / "job.json")]
    slurm = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}
    done = subprocess.run(start, env=environment | slurm, capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr
    result = json.loads(Path(result_of(str(tmp_path), 0)).read_text())
    assert part in result
    assert result["host"] == socket.gethostname()
    events = [json.loads(line) for line in (tmp_path / "evidence" / "rank0.jsonl").read_text().split("\n") if line]
    assert events[0]["event"] == "start"
    assert (events[-1]["event"], events[-1]["code"]) == ("end", code)
    assert (tmp_path / "case.rank0.log").exists()
    assert os.listdir(tmp_path)  # and no half-written file
    assert not list(tmp_path.glob("*.tmp"))
