"""The real torch of this environment: everything that trains must pass, and what a change breaks must show."""

from __future__ import annotations

import os

import pytest

from llmbench.doctor.model import Diagnosis
from llmbench.doctor.runner import diagnose

from .conftest import findings, verdicts

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def numerics() -> Diagnosis:
    return diagnose(only=["torch", "numerics"])


def test_torch_and_its_arithmetic_pass(numerics: Diagnosis) -> None:
    found = verdicts(numerics)
    assert {id: verdict for id, verdict in found.items() if verdict not in ("pass", "skip")} == {}
    for id in ("torch.import", "numerics.tensor", "numerics.autograd", "numerics.mse", "numerics.nan", "numerics.bf16"):
        assert found[id] == "pass"


def test_threads_loader_and_collective_pass() -> None:
    diagnosis = diagnose(only=["cpu.loader", "network.allreduce", "cuda.build"])
    found = verdicts(diagnosis)
    for id in ("cpu.loader", "network.allreduce"):
        assert found[id] == "pass", findings(diagnosis, id)


@pytest.mark.slow
def test_interface_that_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "127.0.0.1")
    (finding,) = findings(diagnose(only=["network.allreduce"]), "network.allreduce")
    assert finding.verdict == "fail"
    assert "GLOO_SOCKET_IFNAME=127.0.0.1" in finding.evidence


def test_one_thread_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one CPU")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (finding,) = findings(diagnose(only=["cpu.threads"]), "cpu.threads")
    assert finding.verdict == "warn"
    assert "OMP_NUM_THREADS=1" in finding.evidence
