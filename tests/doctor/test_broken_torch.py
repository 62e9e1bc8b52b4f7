"""Every way in which torch fails to import is one finding with a cause and a fix; nothing else is blamed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor.model import Diagnosis
from llmbench.doctor.runner import diagnose

from .conftest import findings

Stub = Callable[[str], None]


def only_fault(diagnosis: Diagnosis, check: str = "torch.import") -> str:
    """The text of the one failure, which is that of this check; all that needs it was skipped for its sake."""
    failed = [(c.id, f) for c, f in diagnosis.of("fail", "incomplete")]
    assert [id for id, _ in failed] == [check]
    finding = failed[0][1]
    assert finding.cause
    assert finding.fix
    for needing in ("torch.version", "numerics.tensor", "compile.kernel", "cpu.loader", "network.allreduce"):
        assert [f.evidence for f in findings(diagnosis, needing)] == [f"needs {check}"]
    return f"{finding.evidence} | {finding.cause} | {finding.fix}"


def test_torch_is_missing(bare_python: str) -> None:
    diagnosis = diagnose(bare_python)
    text = only_fault(diagnosis)
    assert "not installed" in text
    assert f"{bare_python} -m pip install torch" in text
    assert "ensurepip" in text  # since this interpreter has no pip to run
    assert diagnosis.exit_code() == 1
    assert diagnosis.to_json()["headline"].startswith("This install will not train")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 4)", "SIGILL"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "memory"),
        ("raise ImportError('/x/libtorch.so: undefined symbol: _ZN3c10')", "undefined symbol"),
        ('raise ImportError("/x/libstdc++.so.6: version `GLIBCXX_3.4.30\' not found")', "LD_LIBRARY_PATH"),
        ("import no_such_dependency", "no_such_dependency, which torch needs, is not installed"),
        ("raise ValueError('Invalid log name compile')", "TORCH_LOGS"),
        ("import os; os._exit(0)", "no answer"),
        ("import sys; sys.exit(7)", "SystemExit: 7"),
        ("def broken(:", "SyntaxError"),
        ("print('{\"done\": true}'); print('garbage' * 1000)", "no attribute"),
        (
            "import os, sys\nfor i in range(3, 64):\n  try: os.close(i)\n  except OSError: pass\nraise OSError('x')",
            "torch",
        ),
    ],
    ids=lambda value: None if "\n" in value else value[:40],
)
def test_import_fails(stub_torch: Stub, source: str, expected: str) -> None:
    stub_torch(source)
    assert expected in only_fault(diagnose())


def test_import_hangs(stub_torch: Stub, patience: Callable[[float], None]) -> None:
    stub_torch("import time; time.sleep(600)")
    patience(4.0)
    text = only_fault(diagnose(only=["torch", "numerics", "compile", "cpu.loader", "network"]))
    assert "gave no answer within 4 s" in text


def test_namespace_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str) -> None:
    (tmp_path / "left" / "torch").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "left"))
    text = only_fault(diagnose(bare_python), "torch.files")
    assert "__init__.py" in text


@pytest.mark.parametrize(
    ("change", "verdict", "expected"),
    [
        (lambda package: (package / "lib" / "libtorch.so").write_bytes(b"x"), "fail", "truncated"),
        (lambda package: (package / "nn.py").write_bytes(b""), "fail", "truncated"),
        (lambda package: (package / "nn.py").unlink(), "fail", "torch/nn.py"),
        (lambda package: (package / "lib" / "libtorch.so").write_bytes(bytes(50)), "warn", "another one"),
        (
            lambda package: (package / "nn.py").write_text("# edited by hand, and longer than before\n"),
            "pass",
            "edited",
        ),
        (lambda package: None, "pass", "as recorded"),
        (lambda package: _distribution(package.parent, "2.5.0"), "warn", "2 torch distributions"),
    ],
    ids=["library cut off", "file empty", "file missing", "library replaced", "file edited", "sound", "two versions"],
)
def test_files_against_the_record(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bare_python: str,
    change: Callable[[Path], object],
    verdict: str,
    expected: str,
) -> None:
    site = tmp_path / "site"
    _distribution(site, "2.9.0")
    change(site / "torch")
    monkeypatch.setenv("PYTHONPATH", str(site))
    found = findings(diagnose(bare_python, only=["torch.files"]), "torch.files")
    assert verdict in [finding.verdict for finding in found]
    assert any(expected in f"{finding.evidence} {finding.cause}" for finding in found)


def _distribution(site: Path, version: str) -> None:
    """A package torch with a record of its files, as an installer leaves it."""
    files = {"torch/__init__.py": "x = 1\n", "torch/nn.py": "y = 2\n", "torch/lib/libtorch.so": "0123456789"}
    info = site / f"torch-{version}.dist-info"
    info.mkdir(parents=True)
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{name},,{len(content)}\n" for name, content in files.items()))


def test_torch_that_is_too_old(stub_torch: Stub) -> None:
    stub_torch(
        "import types\n"
        "__version__ = '2.4.1'\n"
        "version = types.SimpleNamespace(cuda=None, hip=None, git_version='', debug=False)\n"
    )
    diagnosis = diagnose(sys.executable, only=["torch.version"])
    (finding,) = findings(diagnosis, "torch.version")
    assert finding.verdict == "warn"
    assert "2.6" in str(finding.cause)
