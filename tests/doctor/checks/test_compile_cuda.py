"""CUDA toolkits and lists of architectures that do not fit: real folders and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor.model import Finding

from .toolchain import only, program

TORCH: dict[str, Any] = {"cuda": "13.0", "file": "/nonexistent/torch/__init__.py"}


def toolkit(folder: Path, release: str, newest_host: int | None = None) -> Path:
    """A folder as NVIDIA's installer makes it, as far as it is read."""
    program(folder / "bin" / "nvcc", f'echo "Cuda compilation tools, release {release}, V{release}.1"')
    (folder / "include" / "crt").mkdir(parents=True)
    (folder / "include" / "cuda_runtime.h").write_text("")
    if newest_host:
        (folder / "include" / "crt" / "host_config.h").write_text(f"#if __GNUC__ > {newest_host}\n#error unsupported\n")
    return folder


def nvcc(environ: dict[str, str], **facts: Any) -> Finding:
    return only("compile.nvcc", {"PATH": "/nonexistent"} | environ, torch=TORCH, **facts)


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_cuda_home_that_is_gone(variable: str, tmp_path: Path) -> None:
    finding = nvcc({variable: f"{tmp_path}/cuda-99"})
    assert (finding.verdict, finding.fault) == ("warn", "compile.nvcc.home-gone")
    assert finding.evidence == f"{variable}={tmp_path}/cuda-99 does not exist"
    assert f"unset {variable}" in str(finding.fix)
    assert nvcc({variable: str(tmp_path)}).evidence == f"{variable}={tmp_path} has no bin/nvcc"


def test_toolkit_that_fits(tmp_path: Path) -> None:
    finding = nvcc({"CUDA_HOME": str(toolkit(tmp_path / "cuda", "13.1"))})
    assert finding.verdict == "pass"
    assert "CUDA 13.1, torch is built with 13.0" in finding.evidence


def test_nvcc_of_another_major(tmp_path: Path) -> None:
    finding = nvcc({"CUDA_HOME": str(toolkit(tmp_path / "cuda", "11.8"))})
    assert (finding.verdict, finding.fault) == ("warn", "compile.nvcc.major")
    assert f"nvcc 11.8 (CUDA_HOME={tmp_path}/cuda) mismatches CUDA 13.0" in finding.evidence


def test_nvcc_on_path_is_found(tmp_path: Path) -> None:
    home = toolkit(tmp_path / "cuda", "12.4")
    assert nvcc({"PATH": f"{home}/bin:/bin"}).fault == "compile.nvcc.major"


def test_nvcc_that_does_not_run(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "nvcc", "exit 127")
    assert nvcc({"CUDA_HOME": str(tmp_path)}).fault == "compile.nvcc.broken"


def test_two_nvcc(tmp_path: Path) -> None:
    home, other = toolkit(tmp_path / "13.0", "13.0"), toolkit(tmp_path / "12.8", "12.8")
    finding = nvcc({"CUDA_HOME": str(home), "PATH": f"{other}/bin:/bin"})
    assert finding.fault == "compile.nvcc.two"
    assert f"{other}/bin/nvcc is nvcc 12.8" in finding.evidence
    assert nvcc({"CUDA_HOME": str(home), "PATH": f"{home}/bin:/bin"}).verdict == "pass"


def test_toolkit_without_headers(tmp_path: Path) -> None:
    home = toolkit(tmp_path, "13.0")
    (home / "include" / "cuda_runtime.h").unlink()
    assert nvcc({"CUDA_HOME": str(home)}).fault == "compile.nvcc.headers"


@pytest.mark.parametrize(("short", "fault"), [("g++ 16.1.0", "compile.nvcc.host"), ("g++-15 15.2.0", None)])
def test_compiler_newer_than_nvcc_knows(short: str, fault: str | None, tmp_path: Path) -> None:
    home = toolkit(tmp_path, "13.0", newest_host=15)
    finding = nvcc({"CUDA_HOME": str(home)}, compiler={"path": "/usr/bin/g++", "title": short, "short": short})
    assert finding.fault == fault
    if fault:
        assert "apt-get install -y g++-15" in str(finding.fix)


@pytest.mark.parametrize("id", ["compile.nvcc", "compile.arch", "compile.triton"])
def test_torch_without_cuda_needs_none(id: str) -> None:
    wrong = {"CUDA_HOME": "/gone", "TORCH_CUDA_ARCH_LIST": "x", "TRITON_PTXAS_PATH": "/gone"}
    assert only(id, wrong, torch={"cuda": None, "file": "/x"}).verdict == "skip"


# --- architectures


def arch(value: str, tmp_path: Path, capability: tuple[int, int] = (9, 0)) -> Finding:
    package = tmp_path / "site" / "torch"
    (package / "utils").mkdir(parents=True, exist_ok=True)
    (package / "utils" / "cpp_extension.py").write_text("supported_arches = ['8.0', '8.6', '9.0', '9.0a', '12.0']\n")
    (package / "__init__.py").write_text(
        "class cuda:\n"
        "    is_available = staticmethod(lambda: True)\n    device_count = staticmethod(lambda: 1)\n"
        f"    get_device_capability = staticmethod(lambda index: {capability})\n"
    )
    environ = {"TORCH_CUDA_ARCH_LIST": value, "PYTHONPATH": str(package.parent)}
    return only("compile.arch", environ, torch=TORCH | {"file": str(package / "__init__.py")})


@pytest.mark.parametrize("value", ["sm_90", "9", "99.9", "All", "8.0;;9.0"])
def test_list_that_is_nonsense(value: str, tmp_path: Path) -> None:
    finding = arch(value, tmp_path)
    assert (finding.verdict, finding.fault) == ("warn", "compile.arch.unknown")
    assert f"TORCH_CUDA_ARCH_LIST={value}" in finding.evidence


@pytest.mark.parametrize(
    ("value", "capability", "fault"),
    [
        ("8.0 8.6", (9, 0), "compile.arch.other"),
        ("9.0", (8, 6), "compile.arch.other"),
        ("8.6", (8, 0), "compile.arch.other"),
        ("8.0", (8, 9), None),
        ("8.0+PTX", (9, 0), None),
        ("9.0a", (9, 0), None),
        ("Hopper", (9, 0), None),
        ("native", (9, 0), None),
    ],
)
def test_list_against_the_device(value: str, capability: tuple[int, int], fault: str | None, tmp_path: Path) -> None:
    finding = arch(value, tmp_path, capability)
    assert finding.fault == fault
    if fault:
        assert f"export TORCH_CUDA_ARCH_LIST='{capability[0]}.{capability[1]}'" in str(finding.fix)
