"""Every way in which torch is broken is one finding with a cause and a fix; nothing else is blamed."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Diagnosis, Finding
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context, diagnose
from tests.doctor.conftest import findings, inside, needs_root, verdicts

Stub = Callable[[str], None]
MACHINE = platform.machine()
FOREIGN = ("aarch64", 183) if MACHINE != "aarch64" else ("x86_64", 62)


@pytest.fixture(autouse=True)
def no_linker_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("LD_", "TORCH", "PYTORCH"))]:
        monkeypatch.delenv(name)


def alone(*checks: str, python: str = sys.executable, patience: float = 1.0) -> tuple[Finding, ...]:
    """The findings of the last of these checks, asked one after the other, without what they need and follow."""
    context = Context(python, dict(os.environ), False, Processes(), patience, {"python": {"pip": True}})
    by_id = {check.id: check for check in all_checks()}
    found: tuple[Finding, ...] = ()
    try:
        for id in checks:
            found = tuple(by_id[id].run(dataclasses.replace(context, deadline=by_id[id].deadline)))
    finally:
        context.processes.stop()
    return found


def only(*checks: str, python: str = sys.executable, patience: float = 1.0) -> Finding:
    (finding,) = alone(*checks, python=python, patience=patience)
    if finding.fault:
        assert finding.cause
        assert finding.fix
        left = set(re.findall(r"<([a-z ]+)>", f"{finding.cause} {finding.fix} {finding.script}"))
        assert left <= {"python", "its mount point"}
    return finding


def told(finding: Finding) -> str:
    return f"{finding.evidence} | {finding.cause} | {finding.fix}"


def only_fault(diagnosis: Diagnosis, check: str = "torch.import") -> Finding:
    """The one failure, which is that of this check; all that needs it was skipped for its sake."""
    failed = [(c.id, f) for c, f in diagnosis.of("fail", "incomplete")]
    assert [id for id, _ in failed] == [check]
    finding = failed[0][1]
    assert finding.cause
    assert finding.fix
    return finding


# --- import


def test_torch_is_missing(bare_python: str) -> None:
    diagnosis = diagnose(bare_python)
    finding = only_fault(diagnosis)
    assert finding.fault == "torch.import.missing"
    assert f"{bare_python} -m pip install torch" in told(finding)
    assert "ensurepip" in told(finding)  # since this interpreter has no pip to run
    for needing in ("torch.version", "torch.numpy", "numerics.tensor"):
        assert [f.evidence for f in findings(diagnosis, needing)] == ["needs torch.import"]
    assert diagnosis.exit_code() == 1
    assert diagnosis.to_json()["headline"].startswith("This install will not train")


RAISED = [
    (
        "torch.import.libstdcxx",
        "/x/libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by libtorch.so)",
        "GLIBC",
    ),
    ("torch.import.libstdcxx", "/x/libstdc++.so.6: version `CXXABI_1.3.15' not found", "CXXABI_1.3.15"),
    (
        "torch.import.glibc",
        "/lib/libc.so.6: version `GLIBC_2.34' not found (required by libtorch_cpu.so)",
        "newer system",
    ),
    ("torch.import.musl", "Error relocating /x/libtorch_cpu.so: __strtod_internal: symbol not found", "musl"),
    ("torch.import.nvjitlink", "libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4, version x", "nvJitLink"),
    ("torch.import.cuda-symbol", "libtorch_cuda.so: undefined symbol: cudnnGetStream", "LD_LIBRARY_PATH"),
    ("torch.import.cuda-symbol", "libtorch_cuda.so: undefined symbol: ncclCommRegister", "ncclCommRegister"),
    ("torch.import.mkl-symbol", "libtorch_cpu.so: undefined symbol: iJIT_NotifyEvent", "mkl<2024.1"),
    ("torch.import.torch-symbol", "_C.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocation", "two versions"),
    ("torch.import.symbol", "/x/libfoo.so: undefined symbol: foo_init", "foo_init"),
    ("torch.import.execstack", "libtorch_cpu.so: cannot enable executable stack as shared object requires", "patchelf"),
    ("torch.import.static-tls", "/t/lib/libgomp.so.1: cannot allocate memory in static TLS block", "LD_PRELOAD=/t/lib"),
    ("torch.import.noexec", "_C.so: failed to map segment from shared object: Operation not permitted", "noexec"),
    ("torch.import.memory", "libtorch_cpu.so: failed to map segment from shared object", "ulimit -v"),
    ("torch.import.memory", "libtorch_cpu.so: cannot allocate memory", "ulimit -v"),
    ("torch.import.not-elf", "/x/libtorch_cpu.so: invalid ELF header", "damaged|disk"),
    ("torch.import.not-elf", "/x/libc10.so: file too short", "cut off"),
    ("torch.import.wrong-machine", "/x/libc10.so: wrong ELF class: ELFCLASS32", "another processor"),
    ("torch.import.library-missing", "libcudnn.so.9: cannot open shared object file: No such file", "nvidia-cudnn"),
    ("torch.import.library-missing", "libmkl_intel_lp64.so.2: cannot open shared object file: No such file", "mkl"),
    ("torch.import.library-missing", "libgomp.so.1: cannot open shared object file: No such file", "libgomp1"),
    (
        "torch.import.library-missing",
        "libunheard.so.3: cannot open shared object file: No such file",
        "libunheard.so.3",
    ),
    ("torch.import.cuda-library", "libcublas.so.*[0-9] not found in the system path ['/x']", "nvidia-"),
    ("torch.import.permission", "_C.so: cannot open shared object file: Permission denied", "chmod"),
    (
        "torch.import.not-compiled",
        "Failed to load PyTorch C extensions: It appears that PyTorch has loaded",
        "source tree",
    ),
    ("torch.import.operator", "operator torchvision::nms does not exist", "torchvision"),
    ("torch.import.circular", "cannot import name 'Tensor' from partially initialized module 'torch'", "rename"),
    ("torch.import.twice", "function '_has_torch_function' already has a docstring", "two copies"),
    ("torch.import.raises", "something that nobody has seen before", "nobody has seen before"),
]


@pytest.mark.parametrize(("fault", "message", "expected"), RAISED, ids=[f"{f[13:]}-{m[:30]}" for f, m, _ in RAISED])
def test_import_raises(stub_torch: Stub, bare_python: str, fault: str, message: str, expected: str) -> None:
    stub_torch(f"raise ImportError({message!r})")
    finding = only("torch.import", python=bare_python)
    assert finding.fault == fault
    assert message.splitlines()[0] in finding.evidence
    assert any(word in told(finding) for word in expected.split("|"))


STUBS = [
    ("torch.import.crashes", "import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ("torch.import.illegal-instruction", "import os; os.kill(os.getpid(), 4)", "SIGILL"),
    ("torch.import.aborts", "import os; os.write(2, b'terminate called: bad_alloc\\n'); os.abort()", "bad_alloc"),
    ("torch.import.killed", "import os; os.kill(os.getpid(), 9)", "memory"),
    ("torch.import.bus-error", "import os; os.kill(os.getpid(), 7)", "truncated"),
    ("torch.import.cpu-time", "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "ulimit -t"),
    ("torch.import.sandbox", "import os, signal; os.kill(os.getpid(), signal.SIGSYS)", "seccomp"),
    (
        "torch.import.openmp",
        "import os; os.write(2, b'OMP: Error #15: Initializing libiomp5.so\\n'); os.abort()",
        "OMP:",
    ),
    ("torch.import.mkl", "import os; os.write(2, b'Intel MKL FATAL ERROR: Cannot load libmkl\\n'); os._exit(2)", "MKL"),
    ("torch.import.dependency-missing", "import no_such_dependency", "no_such_dependency, which torch needs, is not"),
    ("torch.import.ends", "import os; os._exit(0)", "no answer"),
    ("torch.import.raises", "import sys; sys.exit(7)", "SystemExit: 7"),
    ("torch.import.syntax", "x = 1\ndef broken(:", "__init__.py:2"),
    ("torch.import.memory", "raise MemoryError", "ulimit -v"),
    ("torch.import.raises", "print('{\"done\": true}'); print('garbage' * 1000)", "no attribute"),
    ("torch.import.not-compiled", "import torch._C", "torch._C"),
    ("torch.import.circular", "import json\nfrom torch import later\nlater = 1", "partially initialized"),
    (
        "torch.import.raises",
        "import os, sys\nfor i in range(3, 64):\n  try: os.close(i)\n  except OSError: pass\nraise OSError('x')",
        "torch",
    ),
]


@pytest.mark.parametrize(("fault", "source", "expected"), STUBS, ids=[f"{f[13:]}-{s[:20]!r}" for f, s, _ in STUBS])
def test_import_ends_badly(stub_torch: Stub, bare_python: str, fault: str, source: str, expected: str) -> None:
    stub_torch(source)
    finding = only("torch.import", python=bare_python)
    if expected != "torch":  # without its channel, the probe cannot say which
        assert finding.fault == fault
    assert expected in told(finding)


def test_place_of_a_crash_is_named(stub_torch: Stub) -> None:
    stub_torch("import ctypes\n\nctypes.string_at(0)\n")
    assert "torch/__init__.py:3 (ctypes.string_at(0))" in only("torch.import").evidence


def seconds_without_answer(finding: Finding) -> int:
    """At least its deadline: on a machine that lets it wait for a CPU it has longer."""
    (found,) = re.findall(r"gave no answer within (\d+) s and was killed", finding.evidence)
    return int(found)


def test_import_hangs(stub_torch: Stub) -> None:
    stub_torch("import time\ntime.sleep(600)  # waits\n")
    finding = only("torch.import", patience=0.1)
    assert finding.fault == "torch.import.hangs"
    assert seconds_without_answer(finding) >= 3
    assert "torch/__init__.py:2 (time.sleep(600)  # waits)" in finding.evidence


@pytest.mark.compiler
def test_import_hangs_in_compiled_code(stub_torch: Stub, tmp_path: Path) -> None:
    """C code that never gives the interpreter back: only a signal handler can still say where."""
    source = "#include <unistd.h>\nvoid *PyInit__C(void) { for (;;) pause(); }\n"
    stub_torch("from torch._C import *\n")
    _compile(source, tmp_path / "stub" / "torch" / "_C.so")
    finding = only("torch.import", patience=0.1)
    assert finding.fault == "torch.import.hangs"
    assert "torch/__init__.py:1 (from torch._C import *)" in finding.evidence


def _compile(source: str, path: Path, *options: str) -> None:
    path.with_suffix(".c").write_text(source)
    command = ["cc", "-w", "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c")), *options]
    subprocess.run(command, check=True)


FINE = (
    "import types\n"
    "__version__ = '{version}'\n"
    "version = types.SimpleNamespace(cuda=None, hip=None, git_version='', debug={debug})\n"
    "get_num_threads = lambda: 1\n"
    "yes = types.SimpleNamespace(is_available=lambda: True, get_cpu_capability=lambda: 'AVX2')\n"
    "backends = types.SimpleNamespace(cpu=yes, mkldnn=yes, openmp=yes, mkl=yes)\n"
    "distributed = types.SimpleNamespace(\n"
    "    is_available=lambda: True, is_gloo_available=lambda: True, is_nccl_available=lambda: False)\n"
    "_C = types.SimpleNamespace(has_lapack=True)\n"
)
"""A torch that says what it is, and cannot compute."""


def fine(version: str = "2.9.1", debug: bool = False) -> str:
    return FINE.format(version=version, debug=debug)


@pytest.mark.parametrize(
    ("fault", "source", "expected"),
    [
        (
            "torch.import.noise",
            "import os; os.write(2, b'libfoo: cannot open device\\n')",
            "libfoo: cannot open device",
        ),
        ("torch.import.slow", "import time; time.perf_counter = lambda f=time.perf_counter: f() + 20", "20 s"),
        (None, "import os; os.write(2, b'UserWarning: Failed to initialize NumPy: no\\n')", "torch 2.9.1 in"),
    ],
)
def test_import_that_succeeds(stub_torch: Stub, fault: str | None, source: str, expected: str) -> None:
    stub_torch(fine() + source)
    finding = only("torch.import")
    assert (finding.verdict, finding.fault) == ("warn" if fault else "pass", fault)
    assert expected in finding.evidence


def test_import_then_death(stub_torch: Stub) -> None:
    stub_torch(fine() + "import ctypes\nget_num_threads = lambda: ctypes.string_at(0)\n")
    finding = only("torch.import")
    assert finding.fault == "torch.import.dies-after"
    assert "SIGSEGV" in finding.evidence


def test_variable_that_breaks_the_import(stub_torch: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the message names it: that the import succeeds without it does."""
    stub_torch(fine() + "import os\nif os.environ.get('PYTORCH_TUNING'): raise ValueError('bad value')\n")
    monkeypatch.setenv("TORCH_HOME", "/somewhere")
    monkeypatch.setenv("PYTORCH_TUNING", "turbo")
    finding = only("torch.import")
    assert finding.fault == "torch.import.variable"
    assert "without PYTORCH_TUNING=turbo it succeeds" in finding.evidence
    assert finding.fix == "unset PYTORCH_TUNING"


def test_variable_that_makes_the_import_hang(stub_torch: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_torch(fine() + "import os, time\nif os.environ.get('LD_LIBRARY_PATH'): time.sleep(60)\n")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/old/lib")
    finding = only("torch.import", patience=0.1)
    assert finding.fault == "torch.import.variable"
    assert "without LD_LIBRARY_PATH=/opt/old/lib it succeeds" in finding.evidence


def test_variable_that_the_message_speaks_of(stub_torch: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_torch("raise ImportError('/opt/old/lib/libc10.so: undefined symbol: _ZN3c10')")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/old/lib")
    finding = only("torch.import")
    assert "(set is LD_LIBRARY_PATH=/opt/old/lib)" in finding.evidence
    assert "it succeeds" not in finding.evidence


def test_library_that_does_not_fit_and_comes_from_a_variable(stub_torch: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the message names the folder; that the import succeeds without it does."""
    stub_torch(
        fine()
        + "import os\nif os.environ.get('LD_LIBRARY_PATH'): raise ImportError('x.so: undefined symbol: cudnnGet')\n"
    )
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/old/lib")
    finding = only("torch.import")
    assert finding.fault == "torch.import.cuda-symbol"
    assert "without LD_LIBRARY_PATH=/opt/old/lib it succeeds" in finding.evidence


def test_reason_behind_a_long_message(stub_torch: Stub, bare_python: str) -> None:
    stub_torch(
        "try: import numpie\nexcept Exception as e: raise ImportError('\\n\\n  PLEASE READ THIS\\nmore') from e\n"
    )
    evidence = only("torch.import", python=bare_python).evidence
    assert "raised ImportError: PLEASE READ THIS, since ModuleNotFoundError: No module named 'numpie'" in evidence


def test_another_package_without_its_code(stub_torch: Stub, tmp_path: Path, bare_python: str) -> None:
    stub_torch("import sympathy\nsympathy.Symbol\n")
    (tmp_path / "stub" / "sympathy").mkdir()
    finding = only("torch.import", python=bare_python)
    assert finding.fault == "torch.import.other-package"
    assert str(finding.cause).startswith("sympathy, ")


def test_torch_logs(monkeypatch: pytest.MonkeyPatch, stub_torch: Stub) -> None:
    stub_torch("import os; raise ValueError('Invalid log settings: ' + os.environ['TORCH_LOGS'])")
    monkeypatch.setenv("TORCH_LOGS", "compile")
    finding = only("torch.import")
    assert finding.fault == "torch.import.logs"
    assert "Invalid log settings: compile" in finding.evidence
    assert finding.script == "unset TORCH_LOGS"


def test_backend_extension(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stub_torch: Stub) -> None:
    stub_torch(
        "try: import libnpu_missing\n"
        "except Exception as error:\n"
        "    raise RuntimeError('Failed to load the backend extension: npu. You can disable it') from error\n"
    )
    info = tmp_path / "stub" / "torch_npu-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[torch.backends]\nnpu = torch_npu:_autoload\n")
    finding = only("torch.import")
    assert finding.fault == "torch.import.backend"
    for part in ("torch_npu 2.1", "npu = torch_npu:_autoload", "libnpu_missing"):
        assert part in finding.evidence
    assert "pip uninstall torch_npu" in str(finding.fix)


def test_old_dependency(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str) -> None:
    site = tmp_path / "site"
    distribution(site, "2.9.0", requires=["typing-extensions>=4.10.0"], source="from typing_extensions import TypeIs\n")
    (site / "typing_extensions.py").write_text("Literal = 1\n")
    info = site / "typing_extensions-3.7.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typing_extensions\nVersion: 3.7.4\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    finding = only("torch.import", python=bare_python)
    assert finding.fault == "torch.import.dependency-old"
    assert "typing_extensions 3.7.4 is installed" in finding.evidence
    assert "torch requires typing-extensions>=4.10.0" in finding.evidence


@pytest.mark.parametrize("breakage", ["raise RuntimeError('no')", "import ctypes; ctypes.string_at(0)"])
def test_other_package_breaks_the_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str, breakage: str
) -> None:
    site = tmp_path / "site-packages"
    distribution(site, "2.9.0", source="import sympathy\n")
    (site / "sympathy").mkdir()
    (site / "sympathy" / "__init__.py").write_text(breakage)
    monkeypatch.setenv("PYTHONPATH", str(site))
    finding = only("torch.import", python=bare_python)
    assert finding.fault == "torch.import.other-package"
    assert "sympathy" in str(finding.cause)
    assert "sympathy/__init__.py:1" in finding.evidence


# --- files


def distribution(
    site: Path,
    version: str,
    *,
    requires: list[str] | None = None,
    source: str = "x = 1\n",
    name: str = "torch",
    files: dict[str, bytes] | None = None,
    tag: str = "",
) -> Path:
    """A package with a record of its files, as an installer leaves it. Returns its dist-info."""
    contents = (
        files
        if files is not None
        else {
            f"{name}/__init__.py": source.encode(),
            f"{name}/nn.py": b"y = 2\n",
            f"{name}/version.py": f"__version__ = '{version}'\ncuda = None\n".encode(),
            f"{name}/_C.so": elf(),
            f"{name}/lib/libtorch.so": elf(),
        }
    )
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    for path, content in contents.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    lines = "".join(f"Requires-Dist: {line}\n" for line in requires or [])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}")
    (info / "RECORD").write_text("".join(f"{path},sha256=x,{len(content)}\n" for path, content in contents.items()))
    (info / "INSTALLER").write_text("pip\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag or f'cp311-cp311-manylinux_2_28_{MACHINE}'}\n")
    return info


def elf(machine: int = {"x86_64": 62, "aarch64": 183}.get(MACHINE, 62), sections: int = 0) -> bytes:
    """The head of a shared library, without more."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little")
    return (
        head.ljust(40, b"\0")
        + (64).to_bytes(8, "little")
        + bytes(10)
        + (64).to_bytes(2, "little")
        + (sections).to_bytes(2, "little")
        + bytes(2)
    )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages on the path of the bare interpreter, with a sound torch 2.9.0."""
    folder = tmp_path / "site"
    distribution(folder, "2.9.0")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def _rewrite(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def _unrecord(site: Path, installer: str) -> None:
    info = site / "torch-2.9.0.dist-info"
    (info / "RECORD").unlink()
    (info / "INSTALLER").write_text(installer)


def _edit_many(site: Path) -> None:
    record = site / "torch-2.9.0.dist-info" / "RECORD"
    for number in range(30):
        (site / "torch" / f"m{number}.py").write_text("# of another version\n")
        record.write_text(record.read_text() + f"torch/m{number}.py,sha256=x,5\n")


def _other_python(site: Path) -> None:
    (site / "torch" / "_C.so").rename(site / "torch" / "_C.cpython-37m-x86_64-linux-gnu.so")
    _rewrite(site / "torch-2.9.0.dist-info" / "RECORD", "_C.so", "_C.cpython-37m-x86_64-linux-gnu.so")


def _source_tree(site: Path) -> None:
    (site / "torch" / "_C.so").unlink()
    _rewrite(site / "torch-2.9.0.dist-info" / "RECORD", "torch/_C.so", "torch/nn.py")


DAMAGE: list[tuple[str | None, str, Callable[[Path], object], str]] = [
    (
        "torch.files.truncated",
        "fail",
        lambda s: (s / "torch/lib/libtorch.so").write_bytes(elf()[:50]),
        "50 bytes; its i",
    ),
    ("torch.files.truncated", "fail", lambda s: (s / "torch/lib/libtorch.so").write_bytes(b""), "has 0 bytes"),
    ("torch.files.truncated", "fail", lambda s: (s / "torch/nn.py").write_bytes(b""), "torch/nn.py"),
    (
        "torch.files.truncated",
        "fail",
        lambda s: (s / "torch/_C.so").write_bytes(elf(sections=9)),
        "headers speak of 640",
    ),
    ("torch.files.missing", "fail", lambda s: (s / "torch/nn.py").unlink(), "torch/nn.py"),
    ("torch.files.missing", "fail", lambda s: (s / "torch/lib/libtorch.so").unlink(), "torch/lib/libtorch.so"),
    ("torch.files.missing", "fail", lambda s: (s / "torch/_C.so").unlink(), "torch/_C.so"),
    ("torch.files.corrupt", "fail", lambda s: (s / "torch/_C.so").write_bytes(bytes(64)), "starts with zeros"),
    (
        "torch.files.corrupt",
        "fail",
        lambda s: (s / "torch/_C.so").write_bytes(b"version https://git-lfs".ljust(64)),
        "lfs",
    ),
    ("torch.files.replaced", "warn", lambda s: (s / "torch/_C.so").write_bytes(elf() + b"x"), "65 bytes"),
    (
        "torch.files.mixed",
        "fail",
        lambda s: _rewrite(s / "torch/version.py", "2.9.0", "2.8.0"),
        "2.8.0, and the installer",
    ),
    ("torch.files.mixed", "fail", _edit_many, "30 files have other sizes"),
    ("torch.files.other-python", "fail", _other_python, "_C.cpython-37m"),
    ("torch.files.not-compiled", "fail", _source_tree, "no _C*.so"),
    ("torch.files.other-machine", "fail", lambda s: (s / "torch/_C.so").write_bytes(elf(FOREIGN[1])), FOREIGN[0]),
    ("torch.files.other-machine", "fail", lambda s: _tag(s, f"musllinux_1_2_{MACHINE}"), "musllinux"),
    ("torch.files.other-machine", "fail", lambda s: _tag(s, f"manylinux_2_28_{FOREIGN[0]}"), FOREIGN[0]),
    (
        "torch.files.two-versions",
        "warn",
        lambda s: _copy_info(s, "2.5.0"),
        "2 torch distributions are installed: 2.5.0",
    ),
    ("torch.files.leftover", "warn", lambda s: (s / "~orch").mkdir(), "interrupted pip install of torch"),
    ("torch.files.leftover", "warn", lambda s: (s / "~orch-2.8.0.dist-info").mkdir(), "~orch-2.8.0"),
    ("torch.files.no-record", "warn", lambda s: _unrecord(s, "pip"), "no RECORD"),
    (
        "torch.files.unknown-to-pip",
        "warn",
        lambda s: shutil.rmtree(s / "torch-2.9.0.dist-info"),
        "no torch-*.dist-info",
    ),
    (None, "pass", lambda s: _unrecord(s, "debian"), "no record"),
    (None, "pass", lambda s: (s / "torch/nn.py").write_text("# edited by hand, and longer\n"), "1 edited"),
    (None, "pass", lambda s: None, "5 files as recorded"),
]


def _tag(site: Path, platform: str) -> None:
    (site / "torch-2.9.0.dist-info" / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: cp311-cp311-{platform}\n")


def _copy_info(site: Path, version: str) -> None:
    info = site / f"torch-{version}.dist-info"
    shutil.copytree(site / "torch-2.9.0.dist-info", info)
    _rewrite(info / "METADATA", "2.9.0", version)


@pytest.mark.parametrize(
    ("fault", "verdict", "change", "expected"), DAMAGE, ids=[f"{d[0]}-{d[3][:20]}" for d in DAMAGE]
)
def test_files_against_the_record(
    site: Path,
    bare_python: str,
    fault: str | None,
    verdict: str,
    change: Callable[[Path], object],
    expected: str,
) -> None:
    change(site)
    finding = only("torch.files", python=bare_python)
    assert (finding.fault, finding.verdict) == (fault, verdict)
    assert expected in finding.evidence


def test_namespace_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str) -> None:
    (tmp_path / "left" / "torch").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "left"))
    diagnosis = diagnose(bare_python, only=["torch"])
    finding = only_fault(diagnosis, "torch.files")
    assert finding.fault == "torch.files.namespace"
    assert "__init__.py" in finding.evidence
    assert findings(diagnosis, "torch.import")[0].evidence.startswith("follows from torch.files: ")


def test_torch_of_conda_and_of_pip(site: Path, bare_python: str) -> None:
    meta = Path(bare_python).parent.parent / "conda-meta"
    meta.mkdir()
    (meta / "pytorch-2.5.1-py3.11_cpu_0.json").write_text("{}")
    try:
        finding = only("torch.files", python=bare_python)
    finally:
        shutil.rmtree(meta)
    assert finding.fault == "torch.files.two-installers"
    assert "pytorch-2.5.1" in finding.evidence


def test_another_copy_comes_first(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str
) -> None:
    shutil.copytree(site / "torch", tmp_path / "copy" / "torch")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'copy'}:{site}")
    finding = only("torch.files", python=bare_python)
    assert finding.fault == "torch.files.elsewhere"
    assert str(tmp_path / "copy") in finding.evidence
    assert str(site) in finding.evidence


def test_files_of_another_user(site: Path, tmp_path: Path, bare_python: str) -> None:
    closed = site / "torch" / "_C.so"
    closed.chmod(0)
    python = bare_python
    if os.geteuid() == 0:  # who may read all
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv to give that right away")
        python = str(tmp_path / "python")
        options = "--bounding-set=-dac_override,-dac_read_search --inh-caps=-all"
        Path(python).write_text(f'#!/bin/sh\nexec setpriv {options} {bare_python} "$@"\n')
        Path(python).chmod(0o755)
    finding = only("torch.files", python=python)
    assert finding.fault == "torch.files.unreadable"
    assert f"{closed}: Permission denied" in finding.evidence


def test_packages_that_cannot_be_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str) -> None:
    broken = "import importlib.util\nimportlib.util.find_spec = lambda name: 1 / 0\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert only("torch.files", python=bare_python).fault == "torch.files.unlistable"


# --- CUDA libraries as packages


def wheel(site: Path, name: str, version: str, library: str | None = None) -> None:
    files = {library: elf()} if library else {}
    distribution(site, version, name=name, files=files)


@pytest.fixture
def cuda_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A torch for CUDA 13 with two CUDA libraries as it wants them, one of them through a collection."""
    folder = tmp_path / "site"
    distribution(
        folder,
        "2.9.0",
        requires=[
            'nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"',
            'cuda-toolkit[cublas]==13.0.2; platform_system == "Linux"',
            "nvidia-nvtx; platform_system == 'Windows'",
            "nvidia-cusparselt-cu13==0.8.0; extra == 'sparse'",
            "filelock",
        ],
    )
    (folder / "torch" / "version.py").write_text("__version__ = '2.9.0'\ncuda: Optional[str] = '13.0'\n")
    _rewrite(folder / "torch-2.9.0.dist-info" / "RECORD", "torch/version.py", "torch/version.pyc")
    wheel(folder, "nvidia-cudnn-cu13", "9.19.0.56", "nvidia/cudnn/lib/libcudnn.so.9")
    wheel(folder, "nvidia-cublas", "13.0.1.40", "nvidia/cu13/lib/libcublas.so.13")
    wheel(folder, "nvidia-ml-py", "13.580.65")
    info = distribution(folder, "13.0.2", name="cuda-toolkit", files={})
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cuda-toolkit\nVersion: 13.0.2\n"
        "Requires-Dist: nvidia-cublas==13.0.*; (sys_platform == 'linux') and extra == 'cublas'\n"
        "Requires-Dist: nvidia-cufft==12.0.*; extra == 'cufft'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def _wheel_at(site: Path, name: str, old: str, new: str) -> None:
    (site / f"{name}-{old}.dist-info").rename(site / f"{name}-{new}.dist-info")


WHEELS: list[tuple[str | None, Callable[[Path], object], list[str]]] = [
    (None, lambda s: None, ["3 packages"]),
    (
        "torch.wheels.mismatch",
        lambda s: _wheel_at(s, "nvidia_cudnn_cu13", "9.19.0.56", "9.1.0.70"),
        ["but you have", "9.1.0.70"],
    ),
    (
        "torch.wheels.mismatch",
        lambda s: _wheel_at(s, "nvidia_cublas", "13.0.1.40", "13.1.0.3"),
        ["nvidia-cublas==13.0.*"],
    ),
    (
        "torch.wheels.missing",
        lambda s: shutil.rmtree(s / "nvidia_cublas-13.0.1.40.dist-info"),
        ["nvidia-cublas==13.0.*"],
    ),
    (
        "torch.wheels.two-majors",
        lambda s: wheel(s, "nvidia-cudnn-cu12", "9.10.2.21"),
        ["cu12 and cu13", "side by side"],
    ),
    ("torch.wheels.damaged", lambda s: (s / "nvidia/cudnn/lib/libcudnn.so.9").write_bytes(b"x" * 99), ["99 bytes"]),
    (
        "torch.wheels.damaged",
        lambda s: (s / "nvidia/cu13/lib/libcublas.so.13").unlink(),
        ["libcublas.so.13 is missing"],
    ),
]


@pytest.mark.parametrize(("fault", "change", "expected"), WHEELS)
def test_cuda_libraries(
    cuda_site: Path, bare_python: str, fault: str | None, change: Callable[[Path], object], expected: list[str]
) -> None:
    change(cuda_site)
    finding = only("torch.files", "torch.wheels", python=bare_python)
    assert finding.fault == fault
    assert all(part in finding.evidence for part in expected)


def test_a_torch_without_cuda_libraries(site: Path, bare_python: str) -> None:
    assert only("torch.files", "torch.wheels", python=bare_python).verdict == "skip"


# --- the dynamic linker


def test_libraries_are_fine() -> None:
    finding = only("torch.libraries")
    assert finding.verdict == "pass", finding


def test_preloaded_library_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/no/such/lib.so")
    finding = only("torch.libraries")
    assert finding.fault == "torch.libraries.preload-gone"
    assert "LD_PRELOAD names /no/such/lib.so, which does not exist" in finding.evidence


def test_preloaded_library_without_a_folder_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc_that_is_not_installed.so.2")
    assert only("torch.libraries").fault == "torch.libraries.preload-gone"


def test_preloaded_file_that_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_text("this is not machine code")
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "lib.so"))
    finding = only("torch.libraries")
    assert finding.fault == "torch.libraries.preload-broken"
    assert "LD_PRELOAD" in finding.evidence


@pytest.mark.compiler
@pytest.mark.parametrize("variable", ["LD_PRELOAD", pytest.param("LD_LIBRARY_PATH", marks=pytest.mark.slow)])
def test_old_cxx_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    pytest.importorskip("torch")
    (tmp_path / "versions").write_text("GLIBCXX_3.4 { global: *; };\nCXXABI_1.3 { };\n")
    library = tmp_path / "libstdc++.so.6"
    _compile("int x;", library, "-Wl,-soname,libstdc++.so.6", f"-Wl,--version-script={tmp_path / 'versions'}")
    monkeypatch.setenv(variable, f"/usr/share:{tmp_path}" if variable == "LD_LIBRARY_PATH" else str(library))
    diagnosis = diagnose(only=["torch.import", "torch.libraries"])
    finding = only_fault(diagnosis, "torch.libraries")
    assert finding.fault == "torch.libraries.libstdcxx-old"
    assert finding.evidence.startswith(f"{variable}=")
    assert "GLIBCXX_3.4;" in finding.evidence
    assert finding.fix == ("export LD_LIBRARY_PATH=/usr/share" if variable == "LD_LIBRARY_PATH" else "unset LD_PRELOAD")
    assert findings(diagnosis, "torch.import")[0].root == "torch.libraries"


@pytest.mark.compiler
def test_torch_that_needs_a_newer_system(site: Path, bare_python: str) -> None:
    """A library that needs a version of libc which no libc has yet."""
    folder = site.parent / "libc"
    folder.mkdir()
    (folder / "versions").write_text("GLIBC_2.99 { global: *; };\n")
    _compile(
        "int from_the_future(void) { return 1; }", folder / "libfuture.so", f"-Wl,--version-script={folder}/versions"
    )
    source = "int from_the_future(void); int f(void) { return from_the_future(); }"
    _compile(source, site / "torch/lib/libtorch_cpu.so", str(folder / "libfuture.so"))
    finding = only("torch.libraries", python=bare_python)
    assert finding.fault == "torch.libraries.glibc-old"
    assert "libtorch_cpu.so needs GLIBC_2.99" in finding.evidence


@pytest.mark.compiler
def test_older_cuda_libraries_come_first(
    cuda_site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    _compile("unsigned long cudnnGetVersion(void) { return 91000; }", old / "libcudnn.so.9")
    (old / "libcublas.so.13.0.0.19").write_bytes(elf())
    (old / "libcublas.so.13").symlink_to("libcublas.so.13.0.0.19")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(old))
    finding = only("torch.libraries", python=bare_python)
    assert finding.fault == "torch.libraries.cuda-older"
    assert f"LD_LIBRARY_PATH={old}" in finding.evidence
    assert "libcudnn.so.9 (version 9.10.0; torch brings 9.19.0.56)" in finding.evidence
    assert "libcublas.so.13 (version 13.0.0.19; torch brings 13.0.1.40)" in finding.evidence
    assert finding.fix == "unset LD_LIBRARY_PATH"


def test_newer_cuda_libraries_and_those_of_another_major_version_are_fine(
    cuda_site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str
) -> None:
    toolkit = tmp_path / "toolkit"
    toolkit.mkdir()
    for name in ("libcublas.so.12.4.5.8", "libcudnn.so.8.9.7", "libcudnn.so.9.19.0", "libcublas.so.13.1.0.3"):
        (toolkit / name).write_bytes(elf())
        (toolkit / ".".join(name.split(".")[:3])).symlink_to(name)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{toolkit}:/no/such/folder")
    finding = only("torch.libraries", python=bare_python)
    assert finding.verdict == "pass", finding
    assert "libcublas.so.13 13.1.0.3" in finding.evidence


def test_another_libtorch_comes_first(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare_python: str
) -> None:
    other = tmp_path / "libtorch"
    other.mkdir()
    (other / "libtorch.so").write_bytes(elf() + b"x")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{other}:{site / 'torch' / 'lib'}")
    finding = only("torch.libraries", python=bare_python)
    assert finding.fault == "torch.libraries.other-torch"
    assert f"another libtorch.so (in {other})" in finding.evidence
    assert finding.fix == f"export LD_LIBRARY_PATH={site / 'torch' / 'lib'}"


@needs_root
@pytest.mark.compiler
def test_library_preloaded_for_all_programs(tmp_path: Path) -> None:
    setup = f"mount --bind {tmp_path} /etc 2>/dev/null; echo /no/such/lib.so > /etc/ld.so.preload"
    (finding,) = inside(setup, "--only", "torch.libraries")["torch.libraries"]
    assert finding["fault"] == "torch.libraries.preload-gone"
    assert "/etc/ld.so.preload names /no/such/lib.so" in finding["evidence"]


# --- version


@pytest.mark.parametrize(
    ("fault", "version", "debug", "expected"),
    [
        ("torch.version.old", "2.4.1", False, "torch 2.4.1"),
        ("torch.version.debug", "2.9.0", True, "debug build"),
        ("torch.version.nightly", "2.9.0.dev20250801+cu129", False, "nightly build of"),
        (None, "2.9.0.dev20991301", False, "at least 2.6"),
        (None, "2.6.0a0+ecf3bae40a.nv25.01", False, "at least 2.6"),
        (None, "2.13.0+cpu", False, "at least 2.6"),
    ],
)
def test_version(stub_torch: Stub, fault: str | None, version: str, debug: bool, expected: str) -> None:
    stub_torch(fine(version, debug))
    finding = only("torch.import", "torch.version")
    assert finding.fault == fault
    assert expected in finding.evidence


# --- numpy


TENSORS = (
    "class Tensor:\n"
    "    def __init__(self, values): self.values = values\n"
    "    def numpy(self): {numpy}\n"
    "    def tolist(self): return self.values\n"
    "arange = lambda n: Tensor([0.0, 1.0, 2.0])\n"
    "from_numpy = lambda array: Tensor(array.values)\n"
)
ARRAY = "class array(list):\n  values = [1.0, 2.0, 3.0]\n  def __add__(self, other): return self\n"
SOUND = "import numpy; return numpy.array()"
NUMPY: list[tuple[str | None, str, str, str]] = [
    ("torch.numpy.import", "raise ImportError('libopenblas.so.0: cannot open shared object')", SOUND, "libopenblas"),
    ("torch.numpy.import", "import numpy.no_such_part", SOUND, "numpy.no_such_part"),
    ("torch.numpy.crash", "import ctypes; ctypes.string_at(0)", SOUND, "SIGSEGV"),
    ("torch.numpy.crash", "import os; os.kill(os.getpid(), 4)", SOUND, "SIGILL"),
    ("torch.numpy.crash", ARRAY, "import ctypes; ctypes.string_at(0)", "makes an array"),
    ("torch.numpy.abi", ARRAY, "raise RuntimeError('Numpy is not available')", "Numpy is not available"),
    ("torch.numpy.wrong", ARRAY.replace("3.0", "3.5"), SOUND, "3.5"),
    (None, ARRAY, SOUND, "tensor to array and back"),
]


@pytest.mark.parametrize(("fault", "numpy", "tensor", "expected"), NUMPY)
def test_numpy(
    stub_torch: Stub, tmp_path: Path, bare_python: str, fault: str | None, numpy: str, tensor: str, expected: str
) -> None:
    stub_torch(fine() + TENSORS.format(numpy=tensor))
    (tmp_path / "stub" / "numpy").mkdir()
    (tmp_path / "stub" / "numpy" / "__init__.py").write_text("__version__ = '2.1.0'\n" + numpy)
    finding = only("torch.import", "torch.numpy", python=bare_python)
    assert finding.fault == fault
    assert "numpy" in finding.evidence
    assert expected in finding.evidence


def test_numpy_hangs(stub_torch: Stub, tmp_path: Path, bare_python: str) -> None:
    stub_torch(fine())
    (tmp_path / "stub" / "numpy.py").write_text("import time; time.sleep(60)\n")
    finding = only("torch.import", "torch.numpy", python=bare_python, patience=0.1)
    assert finding.fault == "torch.numpy.crash"
    assert seconds_without_answer(finding) >= 1


def test_numpy_is_missing(stub_torch: Stub, bare_python: str) -> None:
    stub_torch(fine())
    finding = only("torch.import", "torch.numpy", python=bare_python)
    assert (finding.fault, finding.verdict) == ("torch.numpy.missing", "warn")
    assert f"numpy is not installed in {bare_python}" in finding.evidence


def test_numpy_of_two_versions(stub_torch: Stub, tmp_path: Path, bare_python: str) -> None:
    stub_torch(fine() + TENSORS.format(numpy=SOUND))
    distribution(tmp_path / "stub", "1.26.4", name="numpy", files={"numpy/__init__.py": b"__version__ = '2.1.0'\n"})
    (tmp_path / "stub" / "numpy" / "__init__.py").write_text("__version__ = '2.1.0'\n" + ARRAY)
    finding = only("torch.import", "torch.numpy", python=bare_python)
    assert finding.fault == "torch.numpy.mixed"
    assert "1.26.4 is recorded" in finding.evidence


# --- the first computation


COMPUTES = (
    "class Tensor:\n"
    "    def __init__(self, *shape, requires_grad=False): self.grad = {grad}\n"
    "    def __matmul__(self, other): {product}; return self\n"
    "    def __getitem__(self, key): return 32.0\n"
    "    def __mul__(self, other): return self\n"
    "    def sum(self): return self\n"
    "    def backward(self): {backward}\n"
    "    def tolist(self): return [2.0, 2.0]\n"
    "ones = Tensor\n"
)


def computing(product: str = "pass", grad: str = "self", backward: str = "pass") -> str:
    return fine() + COMPUTES.format(product=product, grad=grad, backward=backward)


_NO = "types.SimpleNamespace(is_available=lambda: False)"
BASICS: list[tuple[str | None, str, str]] = [
    ("torch.basics.crash", computing("import ctypes; ctypes.string_at(0)"), "a matrix product was killed by SIGSEGV"),
    ("torch.basics.crash", computing("import os; os.kill(os.getpid(), 4)"), "SIGILL"),
    (
        "torch.basics.mkl",
        computing("import os; os.write(2, b'Intel MKL FATAL ERROR: Cannot load libmkl_avx2.so.\\n'); os._exit(2)"),
        "Cannot load libmkl_avx2.so",
    ),
    ("torch.basics.autograd", computing(backward="raise RuntimeError('no grad')"), "RuntimeError: no grad"),
    ("torch.basics.autograd", computing(grad="None"), "is None"),
    ("torch.basics.openmp", computing() + f"backends.openmp = {_NO}\n", "without openmp"),
    ("torch.basics.distributed", computing() + f"distributed = {_NO}\n", "without distributed"),
    ("torch.basics.gloo", computing() + "distributed.is_gloo_available = lambda: False\n", "without gloo"),
    ("torch.basics.lapack", computing() + "_C.has_lapack = False\n", "without lapack"),
    (
        "torch.basics.cudnn",
        computing() + "version.cuda = '13.0'\n"
        "def broken(): raise RuntimeError('cuDNN version incompatibility: compiled')\n"
        "backends.cudnn = types.SimpleNamespace(version=broken)\n",
        "cuDNN version incompatibility",
    ),
    (None, computing(), "a matrix product and a gradient"),
]


@pytest.mark.parametrize(("fault", "source", "expected"), BASICS, ids=[f"{b[0]}-{b[2][:20]}" for b in BASICS])
def test_first_computation(stub_torch: Stub, bare_python: str, fault: str | None, source: str, expected: str) -> None:
    stub_torch(source)
    finding = only("torch.import", "torch.basics", python=bare_python)
    assert finding.fault == fault
    assert expected in finding.evidence


def test_crash_at_the_end(stub_torch: Stub, bare_python: str) -> None:
    stub_torch(fine() + "import atexit, ctypes\natexit.register(lambda: ctypes.string_at(0))\n")
    finding = only("torch.import", "torch.exit", python=bare_python)
    assert finding.fault == "torch.exit.crash"
    assert "SIGSEGV at its exit" in finding.evidence


def test_clean_end(stub_torch: Stub, bare_python: str) -> None:
    stub_torch(fine())
    assert only("torch.import", "torch.exit", python=bare_python).verdict == "pass"


# --- the real torch


def test_the_torch_of_this_environment_is_sound() -> None:
    pytest.importorskip("torch")
    diagnosis = diagnose(sys.executable, only=["torch"])
    assert {id: v for id, v in verdicts(diagnosis).items() if v not in ("pass", "skip")} == {}
    for check in ("torch.files", "torch.import", "torch.libraries", "torch.version", "torch.basics"):
        assert verdicts(diagnosis)[check] == "pass", findings(diagnosis, check)
