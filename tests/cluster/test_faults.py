"""Faults on two hosts of two ranks: which rank is named, where nobody but its evidence knows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from .fault_table import DEADLINE, LONG, provoke
from .hosts import Hosts

pytestmark = [pytest.mark.slow, pytest.mark.hosts]

SAID = {
    "raise": ("failed", "rank 3 of 4 on h1: the sample is torn (faulty.py:"),
    "exit 0": ("failed", "rank 3 of 4 on h1: left with code 0 before the end, in phase "),
    "stop": ("timeout", "it left no stack, without a heartbeat for "),
    "sleep": ("timeout", ", in which the others wait; rank 0 in phase "),
}


@pytest.mark.parametrize("fault", SAID)
def test_the_rank_at_fault_is_named(fault: str, hosts2: Hosts, tmp_path: Path, environment: Mapping[str, str]) -> None:
    late = fault in ("stop", "sleep")
    deadline = DEADLINE if late else LONG
    told = provoke(fault, tmp_path, hosts2, environment, deadline)
    status, says = SAID[fault]
    error = told.record.error
    assert error is not None
    assert (told.record.status, error.rank, error.host) == (status, 3, "h1")
    assert says in error.message
    assert "rank 3 of 4 on h1" in error.message
    assert told.next.status == "ok"
    kept = tmp_path / "run" / "evidence"
    assert os.listdir(kept) == ["tests.cluster.faulty.Faulty__ddp__ws4"]
    assert sorted(os.listdir(kept / os.listdir(kept)[0])) == [f"rank{rank}.jsonl" for rank in range(4)]
    # The deadline counts from the start of the case, before the fault; tests have patience for a busy machine.
    assert told.seconds < (deadline if late else 0) + 60
