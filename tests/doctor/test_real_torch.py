"""The real torch of this environment: everything that trains must pass, and what a change breaks must show."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Diagnosis
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import PROBES, Context, diagnose

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


# Each breaks one piece of torch's arithmetic after its import.
_MATMUL = "torch.Tensor.__matmul__ = lambda a, b, f=torch.matmul: f(a, b) * "
_MSE = "torch.nn.functional.mse_loss"
_BREAKAGES = {
    "numerics.tensor": _MATMUL + "(1 + 1e-6 * (a.dtype == torch.float32))",
    "numerics.autograd": "torch.tanh = lambda x, f=torch.tanh: f(x.detach()) + 0 * x",
    "numerics.mse": f"{_MSE} = lambda a, b, f={_MSE}: f(a, b) * 1.00001",
    "numerics.nan": "torch.relu = lambda x, f=torch.relu: torch.nan_to_num(f(x))",
    "numerics.bf16": _MATMUL + "(1.6 if a.dtype == torch.bfloat16 else 1)",
    "numerics.fp16": _MATMUL + "(1.2 if a.dtype == torch.float16 else 1)",
}


@pytest.mark.slow
@pytest.mark.parametrize("check", _BREAKAGES)
def test_broken_arithmetic_is_named(check: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = _numerics(_BREAKAGES[check], monkeypatch, tmp_path)
    assert {id: given for id, given in found.items() if given != ["pass"]} == {check: ["fail"]}


def _numerics(breakage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[str]]:
    """Verdicts of the numerical checks where a line after ``import torch`` breaks it."""
    source = (PROBES / "numerics.py").read_text(encoding="utf-8")
    changed = source.replace("    torch.manual_seed(0)\n", f"    {breakage}\n    torch.manual_seed(0)\n")
    shutil.copy(PROBES / "run.py", tmp_path)
    (tmp_path / "numerics.py").write_text(changed, encoding="utf-8")
    monkeypatch.setattr("llmbench.doctor.runner.PROBES", tmp_path)
    # Threads of several tests at once would wait for each other past the deadline.
    context = Context(sys.executable, os.environ | {"OMP_NUM_THREADS": "1"}, False, Processes())
    asked = [c for c in all_checks() if c.area == "numerics"]
    return {c.id: [finding.verdict for finding in c.run(context)] for c in asked}


@pytest.mark.slow
@pytest.mark.parametrize("check", ["numerics.bf16", "numerics.fp16"])
def test_sums_in_low_precision_are_a_warning(check: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dtype = {"numerics.bf16": "bfloat16", "numerics.fp16": "float16"}[check]
    add_up = f"(f(a, b) if a.dtype != torch.{dtype} else sum(a[:, k, None] * b[None, k] for k in range(a.shape[1])))"
    found = _numerics(f"torch.Tensor.__matmul__ = lambda a, b, f=torch.matmul: {add_up}", monkeypatch, tmp_path)
    assert {id: given for id, given in found.items() if given != ["pass"]} == {check: ["warn"]}


def test_loader_passes() -> None:
    diagnosis = diagnose(only=["cpu.loader"])
    assert verdicts(diagnosis)["cpu.loader"] == "pass", findings(diagnosis, "cpu.loader")


def test_one_thread_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one CPU")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (finding,) = findings(diagnose(only=["cpu.threads"]), "cpu.threads")
    assert finding.verdict == "warn"
    assert "OMP_NUM_THREADS=1" in finding.evidence


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.timeout(120)
def test_compile_really_compiles_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    diagnosis = diagnose(only=["compile"])
    (finding,) = findings(diagnosis, "compile.kernel")
    assert finding.verdict == "pass", finding
    assert diagnosis.facts["compiler"]["short"] in finding.evidence
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("llmbench-doctor")] == []


@pytest.mark.compiler
def test_compile_that_makes_nothing_is_no_success(tmp_path: Path) -> None:
    """Dynamo switched off below doctor's eyes: the probe reports that no library was made."""
    context = Context(sys.executable, {"PATH": "/usr/bin:/bin"}, False, Processes())
    outcome = context.probe(
        "compile_kernel", {"deep": False}, {"TORCHDYNAMO_DISABLE": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    )
    assert outcome.ok, outcome
    assert (outcome.answer["graphs"], outcome.answer["libraries"]) == (0, 0)


def test_compile_is_skipped_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    diagnosis = diagnose(only=["compile"])
    assert verdicts(diagnosis)["compile.compiler"] == "warn"
    assert verdicts(diagnosis)["compile.kernel"] == "skip"
    assert diagnosis.exit_code() == 0
