"""Arithmetic broken on purpose: each piece of torch that is changed must be named, and none other.

The probes run here, in the test's own process: what they report goes through JSON, as from any other.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Finding
from llmbench.doctor.probes import numerics, numerics_deep
from llmbench.doctor.process import Outcome, Processes
from llmbench.doctor.runner import Context
from tests.doctor.conftest import ask, one

torch = pytest.importorskip("torch")

PROBES = {"numerics": numerics.probe, "numerics_deep": numerics_deep.probe}


class Here(Context):
    """Runs probes in this process."""

    def torch_probe(self, name: str, arguments: Any = None, *rest: Any, **named: Any) -> Outcome:
        answer: dict[str, Any] = {}
        try:
            for part in PROBES[name](arguments):
                answer |= json.loads(json.dumps(part))
        except Exception as error:
            return Outcome(answer, error={"type": type(error).__name__, "message": str(error), "where": ""})
        return Outcome(answer, done=True)


@pytest.fixture(autouse=True)
def as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and torch's modes put back."""
    count, matmul = torch.get_num_threads(), torch.backends.cuda.matmul
    before = (matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = before
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.set_flush_denormal(False)


def judged(deep: bool = False, *only: str) -> dict[str, list[Finding]]:
    """The findings of the checks of this area; a check whose need fails is not asked, as in a run."""
    context = Here("python", {}, False, Processes())
    found: dict[str, list[Finding]] = {}
    for check in all_checks():
        wanted = check.id in only if only else check.deep == deep
        if check.area != "numerics" or not (wanted or check.id == "numerics.tensor"):
            continue
        failed = [need for need in check.needs if any(f.verdict == "fail" for f in found.get(need, []))]
        found[check.id] = [] if failed else list(check.run(context))
    return found


def faults(found: dict[str, list[Finding]]) -> list[tuple[str, str | None]]:
    return [(f.verdict, f.fault) for findings in found.values() for f in findings if f.verdict not in ("pass", "skip")]


def test_sound_arithmetic_passes() -> None:
    found = judged()
    assert faults(found) == []
    assert all(findings for findings in found.values())


def scaled(target: Any, name: str, factor: Callable[..., float]) -> tuple[Any, str, Any]:
    original = getattr(target, name)
    return target, name, lambda *a, **k: original(*a, **k) * factor(*a)


def is_(dtype: Any, factor: float) -> Callable[..., float]:
    return lambda *a: factor if a[0].dtype == dtype else 1


def in_the_format(dtype: Any) -> Callable[[Any, Any], Any]:
    """A matmul that adds up in the format itself."""
    original = torch.Tensor.__matmul__

    def matmul(a: Any, b: Any) -> Any:
        if a.dtype != dtype:
            return original(a, b)
        return sum(a[:, k, None] * b[None, k] for k in range(a.shape[1]))

    return matmul


relu, tanh, randn, functional = torch.relu, torch.tanh, torch.randn, torch.nn.functional
BREAKAGES: dict[str, tuple[Any, str, Any]] = {
    "numerics.tensor.wrong": scaled(torch.Tensor, "__matmul__", is_(torch.float32, 1 + 1e-6)),
    "numerics.autograd.wrong": (torch, "tanh", lambda x: tanh(x.detach()) + 0 * x),
    "numerics.mse.wrong": scaled(functional, "mse_loss", lambda *a: 1.00001),
    "numerics.nan.lost": (torch, "relu", lambda x: torch.nan_to_num(relu(x))),
    "numerics.bf16.wrong": scaled(torch.Tensor, "__matmul__", is_(torch.bfloat16, 1.6)),
    "numerics.fp16.wrong": scaled(torch.Tensor, "__matmul__", is_(torch.float16, 1.2)),
    "numerics.bf16.sums": (torch.Tensor, "__matmul__", in_the_format(torch.bfloat16)),
    "numerics.fp16.sums": (torch.Tensor, "__matmul__", in_the_format(torch.float16)),
    "numerics.random.seed": (torch, "manual_seed", lambda seed: None),
    "numerics.random.spread": (torch, "randn", lambda *shape, **k: randn(*shape, **k) * 1.2),
}


@pytest.mark.parametrize("fault", BREAKAGES)
def test_broken_arithmetic_is_named(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BREAKAGES[fault])
    assert faults(judged()) == [("warn" if fault.endswith(".sums") else "fail", fault)]


def test_random_numbers_that_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    same = {4096: torch.randn(4096)}
    monkeypatch.setattr(
        torch, "randn", lambda *shape, **k: same.get(shape[0]) if len(shape) == 1 else randn(*shape, **k)
    )
    assert ("fail", "numerics.random.spread") in faults(judged())


def test_crash_in_the_middle_tells_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(x: Any) -> Any:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch, "tanh", crash)
    found = judged()
    assert faults(found) == [("fail", "numerics.tensor.died")]
    assert "(at: autograd)" in found["numerics.tensor"][0].evidence
    assert "could not create a primitive" in found["numerics.tensor"][0].evidence


def test_slow_machine_is_told_with_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Here("python", {}, False, Processes())
    monkeypatch.setattr(Here, "torch_probe", lambda *a, **k: Outcome({"mode": {}}, timed_out=True, seconds=60.0))
    (check,) = [check for check in all_checks() if check.id == "numerics.tensor"]
    (finding,) = check.run(context)
    assert finding.fault == "numerics.tensor.slow"
    assert "gave no answer within 60 s" in finding.evidence
    assert "; load " in finding.evidence


# --- modes of the whole process


@pytest.mark.parametrize(
    ("change", "verdict", "fault", "words"),
    [
        (lambda: torch.set_flush_denormal(True), "warn", "numerics.mode.denormals", "denormals are flushed"),
        (lambda: torch.set_default_dtype(torch.float64), "warn", "numerics.mode.dtype", "torch.float64"),
        (lambda: torch.set_grad_enabled(False), "fail", "numerics.mode.gradients", "is_grad_enabled() is False"),
        (lambda: torch.use_deterministic_algorithms(True), "warn", "numerics.mode.deterministic", "is True"),
        (lambda: torch.autograd.set_detect_anomaly(True), "warn", "numerics.mode.anomaly", "is True"),
    ],
)
def test_mode_that_was_changed(change: Callable[[], Any], verdict: str, fault: str, words: str) -> None:
    change()
    mode = numerics.mode(torch)
    torch.set_grad_enabled(True)
    finding = one_of("numerics.mode", {"mode": mode})
    assert (finding.verdict, finding.fault) == (verdict, fault)
    assert words in finding.evidence


def one_of(id: str, found: dict[str, Any]) -> Finding:
    context = Here("python", {}, False, Processes())
    context.facts["numerics"] = json.loads(json.dumps(found))
    (check,) = [check for check in all_checks() if check.id == id]
    (finding,) = check.run(context)
    return finding


def test_default_device_that_was_changed() -> None:
    torch.set_default_device("meta")
    device = str(torch.empty(0).device)
    torch.set_default_device(None)
    finding = one_of("numerics.mode", {"mode": numerics.mode(torch) | {"device": device}})
    assert finding.fault == "numerics.mode.device"
    assert "meta" in finding.evidence


@pytest.mark.skipif(shutil.which("gcc") is None or platform.machine() != "x86_64", reason="needs gcc on x86-64")
@pytest.mark.compiler
@pytest.mark.parametrize(
    ("bits", "fault"),
    [
        (0x8040, "numerics.mode.denormals"),
        pytest.param(0x2000, "numerics.mode.rounding", marks=pytest.mark.slow),
    ],
)
def test_library_that_changes_the_floating_point_unit(
    bits: int, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As -ffast-math links it into a library; loaded before Python starts."""
    source = (
        "__attribute__((constructor)) static void start(void) {"
        f' __asm__ volatile("stmxcsr -4(%%rsp)\\n orl ${bits:#x}, -4(%%rsp)\\n ldmxcsr -4(%%rsp)" ::: "memory"); }}'
    )
    library = tmp_path / "libfast.so"
    (tmp_path / "fast.c").write_text(source)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, tmp_path / "fast.c"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = {finding.fault: finding for finding in ask("numerics.mode")}
    assert fault in found
    if bits == 0x8040:
        assert f"{library} has the start code of -ffast-math" in found[fault].evidence


# --- deep


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_deep_passes() -> None:
    found = judged(deep=True)
    assert faults(found) == []
    assert all(findings for findings in found.values())


dropout = functional.dropout
DEEP: dict[str, tuple[Any, str, Any]] = {
    "numerics.matmul.wrong": scaled(torch, "_int_mm", lambda *a: 2),
    "numerics.convolution.wrong": scaled(functional, "conv2d", is_(torch.bfloat16, 1.05)),
    "numerics.attention.wrong": scaled(functional, "scaled_dot_product_attention", is_(torch.float16, 1.01)),
    "numerics.layers.wrong": scaled(functional, "layer_norm", is_(torch.float32, 1 + 1e-4)),
    "numerics.determinism.wrong": (functional, "dropout", lambda x, p: dropout(x, p / 2)),
}


@pytest.mark.parametrize("fault", DEEP)
def test_broken_deep_arithmetic_is_named(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*DEEP[fault])
    found = judged(False, fault.rpartition(".")[0])
    assert faults(found) == [("fail", fault)]
    assert "on cpu, off by more than the format allows" in found[fault.rpartition(".")[0]][0].evidence


@pytest.mark.slow
def test_optimizer_that_forgets_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: step(self) if self.param_groups[0]["foreach"] else None)
    found = judged(False, "numerics.optimizer")
    assert faults(found) == [("fail", "numerics.optimizer.wrong")]
    assert "AdamW, fused" in found["numerics.optimizer"][0].evidence
    assert "AdamW, foreach" not in found["numerics.optimizer"][0].evidence


def test_bits_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))
    monkeypatch.setattr(torch, "relu", lambda x: relu(x) + next(calls) * 1e-6)
    context = Here("python", {}, False, Processes())
    (check,) = [check for check in all_checks() if check.id == "numerics.determinism"]
    (finding,) = check.run(context)
    assert finding.fault == "numerics.determinism.wrong"
    assert "the format allows: the same again 2 times" in finding.evidence


@pytest.mark.parametrize(
    "fault",
    [
        "numerics.matmul.breaks",
        "numerics.convolution.breaks",
        "numerics.attention.breaks",
        "numerics.layers.breaks",
        "numerics.optimizer.breaks",
        "numerics.determinism.breaks",
    ],
)
def test_what_must_run_and_does_not(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*a: Any, **k: Any) -> Any:
        raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")

    functions = ("rounded_matmul", "conv2d", "attend", "layer", "sgd", "seeded")
    for name in functions:
        monkeypatch.setattr(numerics_deep, name, fail)
    check = fault.rpartition(".")[0]
    found = judged(False, check)
    assert faults(found) == [("fail", fault)]
    assert "CUBLAS_STATUS_EXECUTION_FAILED" in found[check][-1].evidence


def test_backend_that_is_not_there_is_told_with_its_reason() -> None:
    text = judged(False, "numerics.attention")["numerics.attention"][0].evidence
    assert "it has no" in text
    assert "cudnn float32" in text


@pytest.mark.slow
def test_in_a_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert one("numerics.mse").verdict == "pass"
