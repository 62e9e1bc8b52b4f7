"""Tritons that are missing, of another version, in part, or cannot work: real folders, scripts and metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.doctor.checks import compile_triton
from llmbench.doctor.model import Finding

from .toolchain import asked, only, program

TORCH = {"cuda": "13.0", "file": "/nonexistent/torch/__init__.py"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages as a CUDA wheel's installer leaves them: torch that requires triton 3.9.0, and that triton."""
    monkeypatch.setattr(compile_triton, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(compile_triton, "_USUAL_FOLDERS", ())
    folder = tmp_path / "site"
    distribution(folder, "torch", "2.99.0+cu130", requires='triton==3.9.0; platform_system == "Linux"')
    distribution(folder, "triton", "3.9.0", "triton/__init__.py", "triton/backends/nvidia/bin/ptxas")
    (folder / "triton").mkdir()
    (folder / "triton" / "__init__.py").write_text("")
    program(folder / "triton" / "backends" / "nvidia" / "bin" / "ptxas", 'echo "Cuda tools, release 12.8, V12.8.93"')
    return folder


def distribution(site: Path, name: str, version: str, *files: str, requires: str | None = None) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text + (f"Requires-Dist: {requires}\n" if requires else ""))
    (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def triton(site: Path, **environ: str) -> Finding:
    return only("compile.triton", {"PYTHONPATH": str(site), **environ}, torch=TORCH)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_triton_that_fits(site: Path) -> None:
    finding = triton(site)
    assert (finding.verdict, finding.evidence) == ("pass", "triton 3.9.0; ptxas 12.8")


def test_triton_known_by_its_metadata_only(site: Path) -> None:
    """A tool may have written no list of files: that is no fault."""
    remove(site / "triton")
    (site / "triton-3.9.0.dist-info" / "RECORD").unlink()
    assert triton(site).verdict == "pass"


def test_triton_missing(site: Path) -> None:
    remove(site / "triton")
    remove(site / "triton-3.9.0.dist-info")
    finding = triton(site)
    assert (finding.verdict, finding.fault) == ("fail", "compile.triton.missing")
    assert finding.evidence == "torch requires triton==3.9.0, which is not installed"
    assert str(finding.fix).endswith("-m pip install triton==3.9.0")


def test_triton_missing_matters_less_without_a_gpu(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_triton, "nvidia_devices", list)
    remove(site / "triton")
    remove(site / "triton-3.9.0.dist-info")
    assert triton(site).verdict == "warn"


def test_triton_of_another_version(site: Path) -> None:
    (site / "triton-3.9.0.dist-info").rename(site / "triton-3.2.0.dist-info")
    metadata = site / "triton-3.2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("3.9.0", "3.2.0"))
    finding = triton(site)
    assert (finding.verdict, finding.fault) == ("warn", "compile.triton.version")
    assert finding.evidence == "torch requires triton==3.9.0, but triton 3.2.0 is installed"


def test_two_tritons(site: Path) -> None:
    distribution(site, "pytorch_triton", "3.1.0")
    finding = triton(site)
    assert finding.fault == "compile.triton.two"
    assert "triton 3.9.0 and pytorch-triton 3.1.0" in finding.evidence


def test_triton_in_part(site: Path) -> None:
    (site / "triton" / "__init__.py").unlink()
    finding = triton(site)
    assert (finding.verdict, finding.fault) == ("fail", "compile.triton.incomplete")
    assert "triton/__init__.py" in finding.evidence


@pytest.mark.parametrize(
    ("change", "fault", "words"),
    [
        ("missing", "compile.triton.ptxas-missing", "does not exist"),
        ("no right", "compile.triton.ptxas-broken", "is not executable"),
        ("of another machine", "compile.triton.ptxas-broken", "--version fails"),
    ],
)
def test_ptxas(change: str, fault: str, words: str, site: Path) -> None:
    ptxas = site / "triton" / "backends" / "nvidia" / "bin" / "ptxas"
    if change == "missing":
        (site / "triton-3.9.0.dist-info" / "RECORD").unlink()
        ptxas.unlink()
    elif change == "no right":
        ptxas.chmod(0o644)
    else:
        ptxas.write_bytes(b"\x7fELF another machine")
    finding = triton(site)
    assert (finding.verdict, finding.fault) == ("fail", fault)
    assert f"{ptxas} " in finding.evidence
    assert words in finding.evidence


def test_ptxas_named_by_a_variable(site: Path) -> None:
    finding = triton(site, TRITON_PTXAS_PATH="/usr/local/cuda-99/bin/ptxas")
    assert (finding.verdict, finding.fault) == ("warn", "compile.triton.ptxas-path")
    assert "TRITON_PTXAS_PATH=/usr/local/cuda-99/bin/ptxas does not exist" in finding.evidence


def test_libcuda_that_ldconfig_does_not_list(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    (drivers / "libcuda.so.1").write_text("")
    monkeypatch.setattr(compile_triton, "_USUAL_FOLDERS", (str(drivers),))
    monkeypatch.setattr(
        compile_triton, "_LDCONFIG", program(tmp_path / "ldconfig", 'echo "libc.so.6 => /lib/libc.so.6"')
    )
    finding = triton(site)
    assert (finding.verdict, finding.fault) == ("fail", "compile.triton.libcuda")
    assert f"{drivers}/libcuda.so.1 exists, but" in finding.evidence
    assert triton(site, LD_LIBRARY_PATH=str(drivers)).verdict == "pass"
    assert triton(site, TRITON_LIBCUDA_PATH=str(drivers)).verdict == "pass"


def test_libcuda_path_that_is_wrong(site: Path, tmp_path: Path) -> None:
    finding = triton(site, TRITON_LIBCUDA_PATH=str(tmp_path))
    assert (finding.verdict, finding.fault) == ("fail", "compile.triton.libcuda-path")


def test_faults_are_all_told(site: Path) -> None:
    (site / "triton" / "__init__.py").unlink()
    found = asked("compile.triton", {"PYTHONPATH": str(site), "TRITON_PTXAS_PATH": "/gone"}, torch=TORCH)
    assert [finding.fault for finding in found] == ["compile.triton.incomplete", "compile.triton.ptxas-path"]
