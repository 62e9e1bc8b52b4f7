"""Real work on the CPU, and on a CPU whose torch a plug-in of torch makes err; of GPUs, what their answers mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor.checks import stress
from llmbench.doctor.model import Finding
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context
from tests.doctor.conftest import ask, one


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes torch run this code at the end of its import: it loads whatever declares itself a backend."""

    def plant(source: str) -> None:
        folder = tmp_path / "planted"
        info = folder / "planted-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[torch.backends]\nplanted = planted:plant\n")
        body = "\n".join(f"    {line}" for line in source.splitlines())
        (folder / "planted.py").write_text(f"import torch\ndef plant():\n{body}\n")
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return plant


EVERY_SEVENTH_PRODUCT_IS_OFF_BY_ONE_BIT = """
real, calls = torch.bmm, [0]
def bmm(a, b):
    result = real(a, b)
    calls[0] += 1
    if calls[0] % 7 == 0:
        result.view(torch.int32)[3, 5, 5] ^= 1
    return result
torch.bmm = bmm
"""
ALL_PRODUCTS_ERR_ALIKE = """
real = torch.bmm
torch.bmm = lambda a, b: real(a, b) * 1.001
"""
A_BIT_IS_STUCK = """
real = torch.Tensor.fill_
def fill_(self, value):
    real(self, value)
    if self.numel() > 1000:
        self[999] |= 1 << 12
    return self
torch.Tensor.fill_ = fill_
"""
DIES = """
import os
torch.mm = torch.bmm = torch.Tensor.fill_ = lambda *a, **k: os.kill(os.getpid(), 7)
"""
OVERFLOWS = """
real = torch.mm
torch.mm = lambda a, b, out: real(a, b, out=out).fill_(float("inf"))
"""


@pytest.mark.slow
def test_a_healthy_cpu() -> None:
    assert [f.verdict for name in ("memory", "repeat", "load") for f in ask(f"stress.{name}")] == ["pass"] * 3
    assert one("stress.links").verdict == "skip"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "check", "fault", "evidence"),
    [
        (EVERY_SEVENTH_PRODUCT_IS_OFF_BY_ONE_BIT, "stress.repeat", "stress.repeat.differs", "round 6, slice 3"),
        (ALL_PRODUCTS_ERR_ALIKE, "stress.repeat", "stress.repeat.wrong", "off from fp64"),
        (A_BIT_IS_STUCK, "stress.memory", "stress.memory.bits", "bits 0x1000 differ"),
        (DIES, "stress.memory", "stress.memory.died", "SIGBUS"),
        (DIES, "stress.repeat", "stress.repeat.died", "SIGBUS"),
        (DIES, "stress.load", "stress.load.died", "SIGBUS"),
        (OVERFLOWS, "stress.load", "stress.load.not-finite", "NaN or infinity"),
    ],
)
def test_a_cpu_that_errs(planted: Callable[[str], None], source: str, check: str, fault: str, evidence: str) -> None:
    planted(source)
    finding = one(check)
    assert (finding.verdict, finding.fault) == ("fail", fault)
    assert evidence in finding.evidence


@pytest.mark.parametrize(("second", "verdict"), [(1.0, "pass"), (0.5, "warn")])
def test_a_cpu_that_slows_down_is_asked_again(monkeypatch: pytest.MonkeyPatch, second: float, verdict: str) -> None:
    """Another process may have begun meanwhile; what is hot is slow the second time, too."""
    answers = iter([load(last=0.5), load(last=second)])
    monkeypatch.setattr(Context, "torch_probe", lambda *asked, **more: next(answers))
    context = Context("python", {}, True, None, facts={"devices": []})  # type: ignore[arg-type]
    (finding,) = stress.load(context)
    assert finding.verdict == verdict
    assert next(answers, None) is None


# --- GPUs: what their answers mean

SAMPLE = {"sm_mhz": 1900, "watts": 690.0, "celsius": 70, "throttle": 4}
LINK = {"pcie_generation": 5, "pcie_width": 16, "pcie_generation_max": 5, "pcie_width_max": 16}


def worked(**answer: Any) -> Outcome:
    return Outcome(answer=answer, done=True, returncode=0)


def load(flops: float = 6e14, last: float = 1.0, finite: bool = True, **sample: Any) -> Outcome:
    return worked(flops=[flops, flops, flops, last * flops], samples=[SAMPLE | sample], finite=finite)


def link(to: float = 50e9, peers: dict[str, float] | None = None, intact: bool = True, **sample: Any) -> Outcome:
    others = {name: {"rate": rate, "intact": True, "direct": True} for name, rate in (peers or {}).items()}
    return worked(to_device=to, from_device=50e9, intact=intact, peers=others, samples=[LINK | sample])


def judged(monkeypatch: pytest.MonkeyPatch, check: str, *outcomes: Outcome) -> list[Finding]:
    """The findings that are no pass, if the GPUs answer so."""
    from llmbench.doctor.checks import all_checks

    def answer(self: Context, name: str, arguments: dict[str, Any]) -> Outcome:
        return outcomes[int(arguments["device"].partition(":")[2])]

    monkeypatch.setattr(Context, "torch_probe", answer)
    context = Context("python", {}, True, None, facts={"devices": [{}] * len(outcomes)})  # type: ignore[arg-type]
    run = next(c.run for c in all_checks() if c.id == check)
    return [finding for finding in run(context) if finding.verdict != "pass"]


@pytest.mark.parametrize(
    ("outcomes", "fault", "evidence"),
    [
        ([load(), load(last=0.8)], "stress.load.slows-down", "cuda:1"),
        ([load(), load(throttle=0x44)], "stress.load.throttled", "hardware thermal"),
        ([load(), load(), load(5e14)], "stress.load.straggler", "cuda:2"),
        ([load(), load(finite=False)], "stress.load.not-finite", "cuda:1"),
        ([load(), Outcome(timed_out=True, seconds=120.0)], "stress.load.died", "120 s"),
    ],
)
def test_gpus_under_load(monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], fault: str, evidence: str) -> None:
    (finding,) = judged(monkeypatch, "stress.load", *outcomes)
    assert finding.fault == fault
    assert evidence in finding.evidence


@pytest.mark.parametrize(
    ("outcomes", "fault", "evidence"),
    [
        ([link(), link(pcie_width=4)], "stress.links.degraded", "generation 5 x4 under load, of generation 5 x16"),
        ([link(), link(pcie_generation=3)], "stress.links.degraded", "cuda:1"),
        ([link(), link(to=20e9)], "stress.links.slow", "32%"),
        ([link(), link(intact=False)], "stress.links.corrupts", "cuda:1"),
        ([link(), Outcome(returncode=-11)], "stress.links.died", "SIGSEGV"),
        (
            [link(peers={"cuda:1": 3e11, "cuda:2": 3e11}), link(peers={"cuda:2": 2e10})],
            "stress.links.slow-pair",
            "cuda:1 to cuda:2",
        ),
    ],
)
def test_links_of_gpus(monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], fault: str, evidence: str) -> None:
    (finding,) = judged(monkeypatch, "stress.links", *outcomes)
    assert finding.fault == fault
    assert evidence in finding.evidence


def test_healthy_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, "stress.load", load(), load(5.9e14), load(6.1e14)) == []
    assert judged(monkeypatch, "stress.links", link(peers={"cuda:1": 3e11}), link(peers={"cuda:0": 2.9e11})) == []
    # Between copies the link may already train down.
    assert (
        judged(
            monkeypatch, "stress.links", worked(**link().answer | {"samples": [LINK, LINK | {"pcie_generation": 1}]})
        )
        == []
    )
