"""Every way in which torch fails to import is one finding with a cause and a fix; nothing else is blamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor.model import Diagnosis
from llmbench.doctor.runner import diagnose

from .conftest import findings, verdicts

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


def test_torch_py_in_the_working_folder(quiet_environment: Path) -> None:
    (quiet_environment / "torch.py").write_text("x = 1\n")
    text = only_fault(diagnose(), "python.shadow")
    assert str(quiet_environment / "torch.py") in text
    assert "rename" in text


def test_source_checkout_in_the_working_folder(quiet_environment: Path) -> None:
    (quiet_environment / "torch").mkdir()
    (quiet_environment / "torch" / "__init__.py").write_text("import torch._C\n")
    assert "shadows" in only_fault(diagnose(), "python.shadow")


def test_torch_py_hides_nothing_where_the_folder_is_not_on_the_path(
    quiet_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (quiet_environment / "torch.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert verdicts(diagnose(only=["python.shadow"]))["python.shadow"] == "pass"


def test_standard_library_in_the_working_folder_is_a_warning(quiet_environment: Path) -> None:
    (quiet_environment / "random.py").write_text("")
    (finding,) = findings(diagnose(only=["python.shadow"]), "python.shadow")
    assert finding.verdict == "warn"
    assert "random" in finding.evidence


def test_an_interpreter_that_does_not_start(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'Fatal: no encodings' >&2\nexit 1\n")
    broken.chmod(0o755)
    diagnosis = diagnose(str(broken))
    assert [check.id for check, _ in diagnosis.of("fail")] == ["python.starts"]
    assert "Fatal: no encodings" in findings(diagnosis, "python.starts")[0].evidence


def test_a_broken_pth_file(bare_python: str) -> None:
    site = next(Path(bare_python).parent.parent.glob("lib/python*/site-packages"))
    file = site / "zz_left_over.pth"
    file.write_text("import not_there_any_more\n")
    try:
        diagnosis = diagnose(bare_python, only=["python"])
    finally:
        file.unlink()
    assert "zz_left_over.pth" in diagnosis.of("warn")[0][1].evidence
