"""torch.compile at work: for real, and with each error that it is known to raise."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor.model import Finding
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import PROBES, Context, diagnose
from tests.doctor.conftest import findings, verdicts

from .toolchain import asked, only

COMPILER = {"path": "/usr/bin/g++", "title": "g++ 12.2.0", "short": "g++ 12.2.0"}
RIGHT: dict[str, Any] = {
    "forward": {"error": 1e-7, "graphs": 1, "libraries": 2, "seconds": 9.0},
    "backward": {"error": 1e-7, "seconds": 5.0},
    "dynamic": {"error": 1e-7, "graphs": 1, "seconds": 5.0},
    "warm": {"error": 1e-7, "hits": 1, "seconds": 0.5},
}


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts a file in the place of a probe: what torch would say on another machine."""

    def replace(name: str, body: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"def probe(arguments):\n    {body}\n", encoding="utf-8")
        (tmp_path / "run.py").write_text((PROBES / "run.py").read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr("llmbench.doctor.runner.PROBES", tmp_path)

    return replace


def kernel(environ: dict[str, str] | None = None, **options: Any) -> Finding:
    return only("compile.kernel", environ, torch={"cuda": None}, compiler=COMPILER, **options)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ("OSError('[Errno 28] No space left on device')", "compile.kernel.space"),
        ('ImportError("libstdc++.so.6: version `GLIBCXX_3.4.32\' not found")', "compile.kernel.libstdcxx"),
        ("ImportError('k.so: failed to map segment from shared object')", "compile.kernel.noexec"),
        ("RuntimeError('fatal error: Python.h: No such file or directory')", "compile.kernel.python-h"),
        ("RuntimeError('ld: cannot find -lgomp')", "compile.kernel.openmp"),
        ("ModuleNotFoundError(\"No module named 'torch._x'\", name='torch._x')", "compile.kernel.torch-incomplete"),
        ("ModuleNotFoundError(\"No module named 'sympy'\", name='sympy')", "compile.kernel.package"),
        ("RuntimeError('GPU is too old to be supported by the triton GPU compiler')", "compile.kernel.old-gpu"),
        ("AssertionError('libcuda.so cannot found!')", "compile.kernel.libcuda"),
        ("RuntimeError('Cannot find ptxas')", "compile.kernel.ptxas"),
        ("RuntimeError('Failed to find C compiler. Please specify via CC')", "compile.kernel.cc"),
        ("RuntimeError('Cannot find a working triton installation.')", "compile.kernel.triton"),
        ("TimeoutError('The file lock /x/a.lock could not be acquired.')", "compile.kernel.lock"),
        ("RuntimeError('A process in the process pool was terminated abruptly')", "compile.kernel.memory"),
        ("ValueError('something else')", "compile.kernel.fails"),
    ],
)
def test_error_has_its_cause(error: str, fault: str, play: Any) -> None:
    play("compile_kernel", f"yield {{'at': ['cpu', 'forward']}}\n    raise {error}")
    finding = kernel()
    assert (finding.verdict, finding.fault) == ("fail", fault)
    assert "torch.compile for cpu, forward, raised" in finding.evidence


@pytest.mark.parametrize(
    ("answer", "verdict", "fault"),
    [
        ({"cpu": RIGHT, "vector": "avx2"}, "pass", None),
        ({"cpu": RIGHT, "vector": "INVALID_VEC_ISA"}, "warn", "compile.kernel.scalar"),
        ({"cpu": RIGHT | {"backward": {"error": 0.1, "seconds": 1.0}}}, "fail", "compile.kernel.wrong"),
        ({"cpu": {"forward": RIGHT["forward"] | {"graphs": 0}}}, "fail", "compile.kernel.nothing"),
        ({"cpu": RIGHT | {"dynamic": RIGHT["dynamic"] | {"graphs": 3}}}, "warn", "compile.kernel.recompiles"),
        ({"cpu": RIGHT | {"warm": RIGHT["warm"] | {"hits": 0}}}, "warn", "compile.kernel.cold"),
    ],
)
def test_result_is_judged(answer: dict[str, Any], verdict: str, fault: str | None, play: Any) -> None:
    play("compile_kernel", f"yield {answer!r}")
    finding = kernel()
    assert (finding.verdict, finding.fault) == (verdict, fault)


def test_each_device_has_its_finding(play: Any) -> None:
    play("compile_kernel", f"yield {{'cpu': {RIGHT!r}, 'cuda': {RIGHT!r}, 'vector': 'avx2'}}")
    found = asked("compile.kernel", torch={"cuda": "13.0"}, compiler=COMPILER)
    assert [finding.evidence.partition(":")[0] for finding in found] == [
        "cpu, with g++ 12.2.0, avx2",
        "cuda, with Triton",
    ]


def test_compile_that_hangs_is_told_as_slow_or_hung(play: Any) -> None:
    play("compile_kernel", "import time\n    yield {'at': ['cpu', 'backward']}\n    time.sleep(60)")
    finding = kernel(deadline=1)
    assert finding.fault == "compile.kernel.hangs"
    (seconds,) = re.findall(r"for cpu, backward, gave no answer within (\d+) s", finding.evidence)
    assert int(seconds) >= 1  # on a machine that lets it wait for a CPU it has longer


def test_no_folder_to_compile_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    assert kernel().fault == "compile.kernel.folder"


@pytest.mark.parametrize(
    ("body", "verdict", "fault"),
    [
        ("yield {'value': 42, 'seconds': 1.0}", "pass", None),
        ("yield {'value': 41, 'seconds': 1.0}", "fail", "compile.extension.wrong"),
        ("yield {}; raise RuntimeError('Ninja is required to load C++ extensions')", "warn", "compile.extension.fails"),
        ("yield {}; raise RuntimeError('Error building extension')", "fail", "compile.extension.fails"),
    ],
)
def test_extension(body: str, verdict: str, fault: str | None, play: Any) -> None:
    play("compile_extension", body)
    finding = only("compile.extension", torch={"cuda": None}, compiler=COMPILER)
    assert (finding.verdict, finding.fault) == (verdict, fault)


# --- for real


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.timeout(900)
def test_compile_really_compiles_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    diagnosis = diagnose(only=["compile"], deep=True)
    assert verdicts(diagnosis)["compile.extension"] in ("pass", "skip")
    (finding,) = findings(diagnosis, "compile.kernel")
    assert finding.verdict == "pass", finding
    assert diagnosis.facts["compiler"]["short"] in finding.evidence
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("llmbench-doctor")] == []


@pytest.mark.slow
@pytest.mark.compiler
def test_compile_that_makes_nothing_is_no_success(tmp_path: Path) -> None:
    """Dynamo switched off below doctor's eyes: the probe reports that no library was made."""
    pytest.importorskip("torch")
    context = Context(sys.executable, {"PATH": "/usr/bin:/bin"}, False, Processes())
    changes = {"TORCHDYNAMO_DISABLE": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    forward = context.probe("compile_kernel", {}, changes).answer["cpu"]["forward"]
    assert (forward["graphs"], forward["libraries"]) == (0, 0)


@pytest.mark.parametrize("id", ["compile.kernel", "compile.extension", "compile.standard"])
def test_without_a_compiler_nothing_is_tried(id: str) -> None:
    assert only(id, torch={"cuda": None, "file": "/x"}).verdict == "skip"


def test_switched_off_by_a_variable() -> None:
    finding = kernel(environ={"TORCHDYNAMO_DISABLE": "1"})
    assert finding.verdict == "skip"
    assert "TORCHDYNAMO_DISABLE" in finding.evidence
