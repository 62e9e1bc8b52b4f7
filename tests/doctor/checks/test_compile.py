"""Toolchains broken for real: compilers that are gone, incomplete or fake; ninja; what torch's sources read."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from tests.doctor.conftest import inside, needs_root, one

from .toolchain import BUILDS, asked, only, program

has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


# --- which compiler


def test_no_compiler_is_a_warning(tmp_path: Path) -> None:
    finding = only("compile.compiler", {"PATH": str(tmp_path)})
    assert (finding.verdict, finding.fault) == ("warn", "compile.compiler.missing")
    assert "no C++ compiler" in finding.evidence
    assert "apt-get install -y g++" in str(finding.fix)


@pytest.mark.parametrize(
    ("value", "fault", "evidence"),
    [
        ("/opt/gcc-9/bin/g++", "compile.compiler.cxx-gone", "CXX=/opt/gcc-9/bin/g++ does not exist"),
        ("", "compile.compiler.cxx-empty", "CXX is set, but empty"),
        ("sh g++", "compile.compiler.cxx-words", "CXX=sh g++ is more than the name of a program"),
        ("/usr", "compile.compiler.cxx-no-program", "CXX=/usr is a folder"),
        (__file__, "compile.compiler.cxx-no-program", f"CXX={__file__} is not executable"),
        ("/bin/false", "compile.compiler.broken", "CXX=/bin/false --version ended with exit code 1"),
    ],
)
def test_cxx_that_names_no_compiler(value: str, fault: str, evidence: str) -> None:
    finding = only("compile.compiler", {"CXX": value})
    assert (finding.verdict, finding.fault) == ("fail", fault)
    assert evidence in finding.evidence
    assert "CXX" in str(finding.fix)


def test_compiler_that_hangs(tmp_path: Path) -> None:
    compiler = program(tmp_path / "g++", "exec sleep 60")
    finding = only("compile.compiler", {"CXX": compiler}, patience=0.02)
    assert finding.fault == "compile.compiler.hangs"
    assert "gave no answer within" in finding.evidence


def test_compiler_that_hangs_at_work(tmp_path: Path) -> None:
    compiler = program(tmp_path / "g++", '[ "$1" = --version ] && { echo "g++ 12.2.0"; exit; }\nexec sleep 60')
    finding = only("compile.compiler", {"CXX": compiler}, patience=0.02)
    assert finding.fault == "compile.compiler.hangs"
    assert "while it compiled" in finding.evidence


# --- what it complains of


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("/tmp/cc.s: fatal error: error writing: No space left on device", "compile.compiler.space"),
        ("ccache: error: Failed to create directory /x: Permission denied", "compile.compiler.wrapper"),
        ("sccache: error: Server startup failed", "compile.compiler.wrapper"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "compile.compiler.memory"),
        ("cc1plus: out of memory allocating 65536 bytes", "compile.compiler.memory"),
        ("g++: fatal error: cannot execute 'cc1plus': execvp: No such file or directory", "compile.compiler.cc1plus"),
        ("collect2: fatal error: cannot find 'ld'", "compile.compiler.binutils"),
        ("g++: error trying to exec 'as': execvp: No such file or directory", "compile.compiler.binutils"),
        ('clang: error: unable to execute command: Executable "ld" doesn\'t exist!', "compile.compiler.binutils"),
        ("k.cpp:3:10: fatal error: 'omp.h' file not found", "compile.compiler.openmp"),
        ("/usr/bin/ld: cannot find -lgomp: No such file or directory", "compile.compiler.openmp"),
        ("k.cpp:4:10: fatal error: Python.h: No such file or directory", "compile.compiler.python-h"),
        ("/usr/include/stdlib.h:32:10: fatal error: stddef.h: No such file or directory", "compile.compiler.libgcc"),
        ("/usr/bin/ld: cannot find crtbeginS.o: No such file or directory", "compile.compiler.libgcc"),
        ("k.cpp:2:10: fatal error: limits: No such file or directory", "compile.compiler.libstdcxx"),
        ("/usr/bin/ld: cannot find -lstdc++: No such file or directory", "compile.compiler.libstdcxx"),
        ("os_defines.h:39:10: fatal error: features.h: No such file or directory", "compile.compiler.libc"),
        ("/usr/bin/ld: cannot find crti.o: No such file or directory", "compile.compiler.libc"),
        ("/usr/bin/ld: k.o: file in wrong format", "compile.compiler.foreign"),
        ("cc1plus: fatal error: /usr/include/omp.hh: Permission denied", "compile.compiler.denied"),
        ("g++: internal compiler error: Segmentation fault", "compile.compiler.fails"),
    ],
)
def test_what_the_compiler_says(words: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(words + "\n")
    compiler = program(
        tmp_path / "g++", f'[ "$1" = --version ] && {{ echo "g++ 12.2.0"; exit; }}\ncat {tmp_path}/words >&2; exit 1'
    )
    finding = asked("compile.compiler", {"CXX": compiler})[0]
    assert (finding.verdict, finding.fault) == ("fail", fault)
    assert words.split("error:")[-1].strip() in finding.evidence


@has_compiler
@pytest.mark.compiler
def test_compiler_is_named_and_what_it_builds_loads() -> None:
    finding = one("compile.compiler")
    assert finding.verdict == "pass"
    assert str(shutil.which("g++")) in finding.evidence


@has_compiler
@pytest.mark.compiler
def test_missing_headers_of_python_are_found_behind_missing_openmp(tmp_path: Path) -> None:
    real = shutil.which("g++")
    compiler = program(
        tmp_path / "g++",
        f'for word; do [ "$word" = -fopenmp ] && {{ echo "fatal error: omp.h: No such file" >&2; exit 1; }}; done\n'
        f'exec {real} "$@"',
    )
    found = asked("compile.compiler", {"CXX": compiler}, builds=BUILDS | {"include": str(tmp_path)})
    assert [finding.fault for finding in found] == ["compile.compiler.openmp", "compile.compiler.python-h"]
    assert f"{tmp_path}/Python.h does not exist" in found[1].evidence
    assert f"python{BUILDS['version']}-dev" in str(found[1].fix)


@has_compiler
@pytest.mark.compiler
@pytest.mark.parametrize("variable", ["CPATH", "CPLUS_INCLUDE_PATH"])
def test_variable_that_breaks_the_compiler(variable: str, tmp_path: Path) -> None:
    (tmp_path / "stdlib.h").write_text("#error an old copy\n")
    finding = only("compile.compiler", {variable: str(tmp_path)})
    assert (finding.verdict, finding.fault) == ("fail", "compile.compiler.variable")
    assert f"with {variable}={tmp_path}" in finding.evidence
    assert finding.fix == f"unset {variable}"


@has_compiler
@pytest.mark.compiler
def test_library_that_does_not_load(tmp_path: Path) -> None:
    compiler = program(
        tmp_path / "g++",
        '[ "$1" = --version ] && { echo "g++ 12.2.0"; exit; }\n'
        'while [ "$1" != -o ]; do shift; done; echo "no library" > "$2"',
    )
    finding = only("compile.compiler", {"CXX": compiler})
    assert finding.fault == "compile.compiler.loads-not"
    assert "cannot be loaded" in finding.evidence


@needs_root
@has_compiler
@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.parametrize(
    ("setup", "fault"),
    [
        ("mount --bind /dev/null $(g++ -print-prog-name=cc1plus)", "compile.compiler.cc1plus"),
        ("mount -t tmpfs none $(dirname $(g++ -print-file-name=include/omp.h))", "compile.compiler.libgcc"),
        ("mount -t tmpfs none /usr/include/c++", "compile.compiler.libstdcxx"),
        (f"mount -t tmpfs none {BUILDS['include']}", "compile.compiler.python-h"),
    ],
)
def test_parts_hidden_for_real(setup: str, fault: str) -> None:
    found = inside(setup, "--only", "compile.compiler")["compile.compiler"]
    assert [(finding["verdict"], finding["fault"]) for finding in found] == [("fail", fault)]


# --- what torch writes, and C


def _torch(folder: Path, standard: str = "c++20", cuda: str | None = None) -> dict[str, object]:
    """The facts of a torch that lies here, with the one line of it that is read."""
    source = folder / "torch" / "_inductor" / "cpp_builder.py"
    source.parent.mkdir(parents=True)
    source.write_text(f'def _get_cpp_std_cflag(std_num: str = "{standard}") -> list[str]:\n', encoding="utf-8")
    return {"file": str(folder / "torch" / "__init__.py"), "cuda": cuda}


def test_compiler_too_old_for_this_torch(tmp_path: Path) -> None:
    path = program(tmp_path / "g++", "echo \"g++: error: unrecognized option '-std=c++20'\" >&2; exit 1")
    compiler = {"path": path, "title": "g++ 7.5.0", "short": "g++ 7.5.0"}
    finding = only("compile.standard", torch=_torch(tmp_path), compiler=compiler)
    assert (finding.verdict, finding.fault) == ("fail", "compile.standard.old")
    assert "g++ 7.5.0 does not take -std=c++20" in finding.evidence


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_the_standard_is_asked_of_torch(standard: str, tmp_path: Path) -> None:
    path = program(tmp_path / "g++", f'[ "$1" = -std={standard} ]')
    finding = only(
        "compile.standard", torch=_torch(tmp_path, standard), compiler={"path": path, "title": "g++", "short": "g++"}
    )
    assert finding.verdict == "pass"


@pytest.mark.parametrize(("cuda", "verdict"), [("13.0", "fail"), (None, "warn")])
def test_cc_that_is_gone(cuda: str | None, verdict: str) -> None:
    finding = only("compile.cc", {"CC": "/opt/gcc-9/bin/gcc"}, torch={"cuda": cuda})
    assert (finding.verdict, finding.fault) == (verdict, "compile.cc.gone")
    assert "CC=/opt/gcc-9/bin/gcc does not exist" in finding.evidence


def test_no_c_compiler_matters_to_triton_only(tmp_path: Path) -> None:
    finding = only("compile.cc", {"PATH": str(tmp_path)}, torch={"cuda": "13.0"})
    assert (finding.verdict, finding.fault) == ("fail", "compile.cc.missing")
    assert only("compile.cc", {"PATH": str(tmp_path)}, torch={"cuda": None}).verdict == "pass"


# --- packages


def test_setuptools_missing(bare_python: str) -> None:
    finding = only("compile.setuptools", builds=BUILDS | {"setuptools": False})
    assert (finding.verdict, finding.fault) == ("fail", "compile.setuptools.missing")
    seen = one("compile.python", python=bare_python)
    assert "setuptools is not installed" in seen.evidence


@pytest.mark.parametrize(
    ("script", "package", "fault"),
    [
        (None, False, "compile.ninja.missing"),
        (None, True, "compile.ninja.off-path"),
        ("exit 1", False, "compile.ninja.broken"),
    ],
)
def test_ninja(script: str | None, package: bool, fault: str, tmp_path: Path) -> None:
    if script:
        program(tmp_path / "ninja", script)
    finding = only("compile.ninja", {"PATH": str(tmp_path)}, builds=BUILDS | {"ninja": package})
    assert (finding.verdict, finding.fault) == ("warn", fault)


def test_ninja_is_found(tmp_path: Path) -> None:
    program(tmp_path / "ninja", "echo 1.13.0")
    assert only("compile.ninja", {"PATH": str(tmp_path)}).evidence == f"{tmp_path}/ninja 1.13.0"


# --- settings

_CONFIG = """
max_autotune = os.environ.get("TORCHINDUCTOR_MAX_AUTOTUNE") == "1"
online_softmax = os.environ.get(
    "TORCHINDUCTOR_ONLINE_SOFTMAX", "0" if is_fbcode() else "1"
) == "1"
vec_isa_ok: bool | None = get_tristate_env("TORCHINDUCTOR_VEC_ISA_OK")
quiesce: bool = Config(
    env_name_force="TORCHINDUCTOR_QUIESCE",
    default=False,
)
logs: str = Config(
    env_name_force="TORCHINDUCTOR_LOGS",
    default="",
)
threads = int(os.environ["TORCHINDUCTOR_COMPILE_THREADS"])
warmup = int(
    os.getenv("TORCHINDUCTOR_DEFAULT_AUTOTUNE_WARMUP", 25)
)
start = os.environ["TORCHINDUCTOR_WORKER_START"]
"""


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, object]:
    facts = _torch(tmp_path)
    (tmp_path / "torch" / "_inductor" / "config.py").write_text(_CONFIG, encoding="utf-8")
    (tmp_path / "torch" / "_inductor" / "codecache.py").write_text('"TORCHINDUCTOR_CACHE_DIR"', encoding="utf-8")
    return facts


@pytest.mark.parametrize(
    ("variable", "value", "verdict", "fault"),
    [
        ("TORCHINDUCTOR_COMPILE_THREADS", "auto", "fail", "compile.settings.number"),
        ("TORCHINDUCTOR_DEFAULT_AUTOTUNE_WARMUP", "", "fail", "compile.settings.number"),
        ("TORCHINDUCTOR_MAX_AUTOTUNE", "true", "warn", "compile.settings.switch"),
        ("TORCHINDUCTOR_ONLINE_SOFTMAX", "off", "warn", "compile.settings.switch"),
        ("TORCHINDUCTOR_VEC_ISA_OK", "yes", "warn", "compile.settings.switch"),
        ("TORCHINDUCTOR_QUIESCE", "false", "warn", "compile.settings.switch"),
        ("TORCHINDUCTOR_WORKER_START", "forkserver", "fail", "compile.settings.choice"),
        ("TORCHINDUCTOR_MAXAUTOTUNE", "1", "warn", "compile.settings.unknown"),
        ("MAX_JOBS", "all", "warn", "compile.settings.jobs"),
    ],
)
def test_setting_that_torch_cannot_read(
    variable: str, value: str, verdict: str, fault: str, sources: dict[str, object]
) -> None:
    finding = only("compile.settings", {variable: value}, torch=sources)
    assert (finding.verdict, finding.fault) == (verdict, fault)
    assert f"{variable}={value}" in finding.evidence


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TORCHINDUCTOR_COMPILE_THREADS", "4"),
        ("TORCHINDUCTOR_MAX_AUTOTUNE", "1"),
        ("TORCHINDUCTOR_QUIESCE", "0"),
        ("TORCHINDUCTOR_LOGS", "anything"),
        ("TORCHINDUCTOR_WORKER_START", "spawn"),
        ("TORCHINDUCTOR_CACHE_DIR", "/scratch/cache"),
        ("MAX_JOBS", "8"),
    ],
)
def test_setting_that_is_right(variable: str, value: str, sources: dict[str, object]) -> None:
    assert only("compile.settings", {variable: value}, torch=sources).verdict == "pass"


def test_settings_of_the_real_torch() -> None:
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        pytest.skip("no torch here")
    facts = {"file": torch.origin}
    right = {"TORCHINDUCTOR_COMPILE_THREADS": "2", "TORCHINDUCTOR_FX_GRAPH_CACHE": "1", "TORCHINDUCTOR_CACHE_DIR": "/x"}
    assert only("compile.settings", right, torch=facts).verdict == "pass"
    wrong = {"TORCHINDUCTOR_COMPILE_THREADS": "two", "TORCHINDUCTOR_MAX_AUTOTUNE": "yes"}
    found = asked("compile.settings", wrong, torch=facts)
    assert {finding.fault for finding in found} == {"compile.settings.number", "compile.settings.switch"}


# --- the user's name


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("import getpass\nname = getpass.getuser()\n", "fail"),
        ("try:\n    username = getpass.getuser()\nexcept KeyError:\n    pass\n", "pass"),
    ],
)
def test_user_without_a_name(source: str, verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    (tmp_path / "torch" / "_inductor" / "runtime").mkdir(parents=True)
    (tmp_path / "torch" / "_inductor" / "runtime" / "runtime_utils.py").write_text(source, encoding="utf-8")
    torch = {"file": str(tmp_path / "torch" / "__init__.py")}
    finding = only("compile.user", torch=torch)
    assert (finding.verdict, finding.fault) == (verdict, "compile.user.nameless" if verdict == "fail" else None)
    assert str(os.getuid()) in finding.evidence
    assert only("compile.user", {"USER": "me"}, torch=torch).verdict == "pass"
    assert only("compile.user", {"TORCHINDUCTOR_CACHE_DIR": "/x"}, torch=torch).verdict == "pass"
