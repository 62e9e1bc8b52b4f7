"""Packages that do not fit to torch: real metadata, and libraries compiled to be broken."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor.checks.companions import demangle
from llmbench.doctor.model import Finding
from llmbench.doctor.requirements import parse
from llmbench.doctor.runner import diagnose
from tests.doctor.conftest import ask, findings, one

from .made import package

TORCH = (
    "import types\n__version__ = '2.13.0'\n"
    "version = types.SimpleNamespace(cuda=None, hip=None, git_version='', debug=False)\n"
)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages on the import path, with a torch that can be imported."""
    folder = tmp_path / "packages"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    package(folder, "torch", "2.13.0+cu130", files={"torch/__init__.py": TORCH})
    return folder


def named(found: tuple[Finding, ...], fault: str) -> Finding:
    (finding,) = [finding for finding in found if finding.fault == fault]
    assert finding.cause
    assert finding.fix
    assert "<package>" not in finding.cause + finding.fix
    return finding


# --- companions.versions


@pytest.mark.parametrize(
    ("installed", "fault", "expected"),
    [
        (
            {"torchvision 0.20.1": ["numpy", "torch (==2.5.1)"], "numpy 2.1": []},
            "companions.versions.torch",
            "torchvision 0.20.1 requires torch==2.5.1, but torch 2.13.0+cu130 is installed",
        ),
        (
            {"flash-attn 2.6.3+cu123torch2.4cxx11abiFALSE": ["torch"]},
            "companions.versions.torch",
            "was built for torch 2.4, not for 2.13.0+cu130",
        ),
        (
            {"torchaudio 2.13.0+cu118": ["torch==2.13.0"]},
            "companions.versions.build",
            "torchaudio 2.13.0+cu118 was built for CUDA 11, torch 2.13.0+cu130 for CUDA 13",
        ),
        ({"torchvision 0.28+cpu": ["torch==2.13.0"]}, "companions.versions.build", "built for the CPU, torch"),
        (
            {"transformers 4.44": ["tokenizers<0.20,>=0.19"], "tokenizers 0.23": []},
            "companions.versions.requires",
            "transformers 4.44 requires tokenizers<0.20,>=0.19, but tokenizers 0.23 is installed",
        ),
        ({"peft 0.21": ["torch>=3"]}, "companions.versions.requires", "but torch 2.13.0+cu130 is installed"),
        ({"accelerate 1.15": ["safetensors"]}, "companions.versions.missing", "safetensors, which is not installed"),
        (
            {"transformers 9.0": ['torch>=2.14; extra == "torch"']},
            "companions.versions.unseen",
            "transformers 9.0 needs torch>=2.14, but torch 2.13.0+cu130",
        ),
        (
            {"triton 3.9": [], "pytorch-triton 3.1": []},
            "companions.versions.shared",
            "triton 3.9 and pytorch-triton 3.1 both install the module triton",
        ),
        ({"pynvml 11.5": [], "nvidia-ml-py 13.0": []}, "companions.versions.shared", "the module pynvml"),
        ({"apex 0.9.10.dev0": []}, "companions.versions.wrong", "apex 0.9.10.dev0 is not NVIDIA's"),
    ],
)
def test_packages_that_do_not_fit(
    site: Path, bare_python: str, installed: dict[str, list[str]], fault: str, expected: str
) -> None:
    for name, requires in installed.items():
        package(site, *name.split(" "), requires=requires)
    finding = named(ask("companions.versions", python=bare_python), fault)
    assert expected in finding.evidence


@pytest.mark.parametrize(
    "installed",
    [
        {"torchvision 0.28.0": ["torch==2.13.0"]},
        {"torchvision 0.28.0+cu130": ["torch==2.13.0"], "pynvml 13.0": ["nvidia-ml-py"], "nvidia-ml-py 13.0": []},
        {"transformers 5.0": ['torch>=2.4; extra == "torch"', 'sagemaker; extra == "sagemaker"']},
        {"accelerate 1.0": ['dataclasses; python_version < "3.7"', "torch>=1.10"]},
        {"apex 0.1": []},
    ],
)
def test_packages_that_fit(site: Path, bare_python: str, installed: dict[str, list[str]]) -> None:
    for name, requires in installed.items():
        package(site, *name.split(" "), requires=requires)
    assert one("companions.versions", python=bare_python).verdict == "pass"


def test_what_a_package_looks_at_when_it_is_imported_is_a_failure(site: Path, bare_python: str) -> None:
    package(site, "transformers", "4.44", ["tokenizers<0.20"])
    package(site, "tokenizers", "0.23")
    assert named(ask("companions.versions", python=bare_python), "companions.versions.requires").verdict == "fail"


def test_torch_and_its_index_are_in_the_fix(site: Path, bare_python: str) -> None:
    package(site, "torchvision", "0.20.1", ["torch==2.5.1"])
    finding = one("companions.versions", python=bare_python)
    assert finding.fix == (
        f"{bare_python} -m pip install --upgrade torchvision 'torch==2.13.0' "
        "--index-url https://download.pytorch.org/whl/cu130"
    )


# --- companions.numpy

_OLD, _NEW = "numpy.core._multiarray_umath", "numpy._core._multiarray_umath"


@pytest.mark.parametrize(
    ("numpy", "inside", "verdict"),
    [("2.4.6", _OLD, "warn"), ("1.26.4", _OLD, "pass"), ("2.4.6", f"{_NEW} {_OLD}", "pass"), ("2.4.6", "", "pass")],
)
def test_modules_built_for_another_numpy(site: Path, bare_python: str, numpy: str, inside: str, verdict: str) -> None:
    package(site, "numpy", numpy)
    files = {"pandas/__init__.py": "", "pandas/_libs/ops.cpython-311-x86_64-linux-gnu.so": f"\x7fELF {inside}\0"}
    package(site, "pandas", "2.0.3", ['numpy>=1.23.2; python_version >= "3.11"'], files=files)
    finding = one("companions.numpy", python=bare_python)
    assert finding.verdict == verdict
    if verdict == "warn":
        assert finding.fault == "companions.numpy.abi"
        assert "pandas 2.0.3 was built for NumPy 1.x, but NumPy 2.4.6 is installed" in finding.evidence


# --- companions.bitsandbytes


@pytest.mark.parametrize(("library", "verdict"), [("cuda124", "warn"), ("cuda130", "pass"), ("cpu", "skip")])
def test_bitsandbytes(site: Path, bare_python: str, library: str, verdict: str) -> None:
    (site / "torch" / "__init__.py").write_text(TORCH.replace("cuda=None", "cuda='13.0'"))
    package(site, "bitsandbytes", "0.43", files={f"bitsandbytes/libbitsandbytes_{library}.so": ""})
    finding = one("companions.bitsandbytes", python=bare_python)
    assert finding.verdict == verdict
    if verdict == "warn":
        assert finding.fault == "companions.bitsandbytes.cuda"
        assert finding.evidence == "bitsandbytes has libraries for CUDA 124, torch has CUDA 13.0"


# --- companions.load

_USES_TORCH = 'const char *uses = "_ZN3c10";\n'
_AT_LOADING = "#include <stdlib.h>\n#include <unistd.h>\n__attribute__((constructor)) static void start(void) { %s; }\n"


def compile_library(path: Path, source: str, *options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".c")
    file.write_text(source)
    command = ["cc", "-w", "-shared", "-fPIC", "-o", str(path), str(file), *options]
    subprocess.run(command, check=True, capture_output=True)


def extension(site: Path, source: str, *options: str, version: str = "1.0") -> Path:
    """A package flash-attn with one compiled module at the top, as its wheel has it."""
    path = site / "flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so"
    compile_library(path, _USES_TORCH + source, *options)
    package(site, "flash-attn", version, ["torch"])
    return path


_SYMBOL = "_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("source", "fault", "expected"),
    [
        (
            f"extern void {_SYMBOL}(void); void f(void) {{ {_SYMBOL}(); }}",
            "companions.load.symbol",
            "flash-attn 2.6.3+cu123torch2.4cxx11abiFALSE does not load: undefined symbol c10::Error::Error()",
        ),
        (_AT_LOADING % "*(volatile int *)0 = 1", "companions.load.crash", "was killed by SIGSEGV"),
        (
            _AT_LOADING % 'write(2, "OMP: Error #15: Initializing libiomp5.so\\n", 41); abort()',
            "companions.load.openmp",
            "OMP: Error #15: Initializing libiomp5.so",
        ),
        ("int f(void) { return 1; }", None, "1 libraries loaded"),
    ],
    ids=["symbol", "crash", "openmp", "sound"],
)
def test_loading(site: Path, bare_python: str, source: str, fault: str | None, expected: str) -> None:
    extension(site, source, "-Wl,-z,now", version="2.6.3+cu123torch2.4cxx11abiFALSE")
    finding = one("companions.load", python=bare_python)
    assert finding.fault == fault
    assert expected in finding.evidence
    if fault == "companions.load.symbol":
        assert "built for torch2.4 cxx11abiFALSE" in finding.evidence


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("library", "fault"),
    [("libcudart.so.99", "companions.load.library"), ("libavcodec.so.99", None)],  # ffmpeg is optional where it is used
)
def test_loading_needs_a_library_that_is_gone(
    site: Path, bare_python: str, tmp_path: Path, library: str, fault: str | None
) -> None:
    compile_library(tmp_path / library, "int there(void) { return 1; }", f"-Wl,-soname,{library}")
    extension(site, "int there(void); int f(void) { return there(); }", str(tmp_path / library))
    finding = one("companions.load", python=bare_python)
    assert finding.fault == fault
    if fault:
        assert f"{library} cannot be opened" in finding.evidence


@pytest.mark.compiler
def test_loading_needs_a_newer_system(site: Path, bare_python: str, tmp_path: Path) -> None:
    library, versions = tmp_path / "libstd.so", tmp_path / "versions"
    for version in ("GLIBCXX_9.9", "GLIBCXX_3.4"):
        versions.write_text(f"{version} {{ global: *; }};")
        compile_library(library, "int there(void) { return 1; }", f"-Wl,--version-script={versions}")
        if version == "GLIBCXX_9.9":
            extension(site, "int there(void); int f(void) { return there(); }", str(library))
    finding = one("companions.load", python=bare_python)
    assert finding.fault == "companions.load.system"
    assert "version `GLIBCXX_9.9' not found" in finding.evidence


@pytest.mark.compiler
def test_loading_hangs(site: Path, bare_python: str, patience: Callable[[float], None]) -> None:
    path = extension(site, _AT_LOADING % "pause()")
    patience(2.0)
    finding = one("companions.load", python=bare_python)
    assert (finding.fault, str(path) in finding.evidence) == ("companions.load.hangs", True)


@pytest.mark.compiler
def test_what_requires_another_torch_is_told_once(site: Path, bare_python: str) -> None:
    extension(site, f"extern void {_SYMBOL}(void); void f(void) {{ {_SYMBOL}(); }}", "-Wl,-z,now")
    (site / "flash_attn-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flash-attn\nVersion: 1.0\nRequires-Dist: torch==2.4.0\n\n"
    )
    diagnosis = diagnose(bare_python, only=["companions.versions", "companions.load"])
    assert [finding.fault for _, finding in diagnosis.of("fail")] == ["companions.versions.torch"]
    assert findings(diagnosis, "companions.load")[0].verdict == "pass"


@pytest.mark.slow
@pytest.mark.compiler
def test_loading_beside_the_real_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    extension(tmp_path, f"extern void {_SYMBOL}(void); void f(void) {{ {_SYMBOL}(); }}", "-Wl,-z,now")
    # It is there, in libc10 of this torch, which this library is not linked with but finds in the process.
    compile_library(tmp_path / "torchao" / "_C.so", "extern void _ZN3c1016_import_no_suchEv(void);\n" + _USES_TORCH)
    package(tmp_path, "torchao", "1.0", ["torch"], info={"RECORD": "torchao/_C.so,,1\n"})
    found = {finding.evidence.split()[0]: finding.fault for finding in ask("companions.load")}
    assert found["flash-attn"] == "companions.load.symbol"
    assert found["torchao"] is None


# --- parts


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN3c104cuda9SetDeviceEi", "c10::cuda::SetDevice()"),
        ("_ZNK3c1017SymbolicShapeMeta18init_is_contiguousEv", "c10::SymbolicShapeMeta::init_is_contiguous()"),
        ("_ZN3c106detail14torchCheckFailEv", "c10::detail::torchCheckFail()"),
        ("cublasCreate", "cublasCreate"),
    ],
)
def test_demangle(symbol: str, name: str) -> None:
    assert demangle(symbol).split(" [")[0] == name


@pytest.mark.parametrize(
    ("text", "installed", "allowed"),
    [
        ("torch==2.5.1", "2.5.1+cu124", True),
        ("torch==2.5.1+cu121", "2.5.1+cu124", False),
        ("torch (>=2.4,<3)", "2.13.0", True),
        ("torch>=2.6", "2.6.0a0+ecf3bae40a.nv25.01", True),  # a vendor's build of 2.6
        ("torch<2.6", "2.10.0", False),
        ("numpy!=1.24.*,>=1.19", "1.24.3", False),
        ("numpy~=1.26.2", "1.26.4", True),
        ("numpy~=1.26.2", "1.27.0", False),
        ("triton===3.0", "3.0", True),
        ("numpy", "0.1", True),
        ("torch[extra]>=2", "1.13", False),
        ("x==1.0", "1", True),
        ("x>1.0.post1", "1.0.post2", True),
    ],
)
def test_versions(text: str, installed: str, allowed: bool) -> None:
    requirement = parse(text)
    assert requirement
    assert requirement.allows(installed) is allowed


@pytest.mark.parametrize(
    ("marker", "applies"),
    [
        ('python_version < "3.9"', False),
        ('python_version >= "3.10" and platform_system == "Linux"', True),
        ("sys_platform == 'win32' or (platform_machine == 'x86_64' and python_version > '3.9')", True),
        ('platform_machine not in "aarch64 arm64"', True),
        ('extra == "dev"', False),
        ("nonsense here", False),
    ],
)
def test_markers(marker: str, applies: bool) -> None:
    requirement = parse(f"x>=1; {marker}")
    assert requirement
    environment = {
        "python_version": "3.11",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    assert requirement.applies(environment) is applies
