"""torch.compile and C++ extensions: the compiler, what it needs beside it, and where its work is kept.

What a build for CUDA needs is in ``compile_cuda`` and ``compile_triton``; the real work, with --deep, in
``compile_work``.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmbench.doctor.checks.compile_faults import (
    BROKEN,
    CC_GONE,
    CXX_EMPTY,
    CXX_GONE,
    CXX_NO_PROGRAM,
    CXX_WORDS,
    HANGS,
    LOADS_NOT,
    MISSING,
    NINJA_BROKEN,
    NINJA_MISSING,
    NINJA_OFF_PATH,
    NO_C,
    NO_PYTHON_H,
    RECOGNISED,
    SETUPTOOLS,
    TOO_OLD,
    UNCLEAR,
    VARIABLE,
)
from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context


@check("compile.python", "What C++ builds need of the interpreter", deadline=15, needs=("python.starts",))
def python(context: Context) -> Iterator[Finding]:
    """Keeps it as fact ``builds``. What is missing is told by the checks of what would need it."""
    outcome = context.probe("compile_python")
    if "setuptools" not in outcome.answer:
        yield skipped(f"asking {context.python} for its folders {outcome.ending}")
        return
    context.facts["builds"] = found = outcome.answer
    header = "Python.h in" if found["header"] else "no Python.h in"
    yield passed(f"{header} {found['include']}; setuptools {'is' if found['setuptools'] else 'is not'} installed")


@check(
    "compile.compiler", "There is a working C++ compiler", deadline=30, needs=("storage.temporary", "compile.python")
)
def compiler(context: Context) -> Iterator[Finding]:
    """Looks for it as inductor does: CXX, else g++. Builds and loads a library as inductor does. Fact ``compiler``."""
    # Messages are read, so they must be in English.
    context = dataclasses.replace(context, environ={**context.environ, "LC_ALL": "C"})
    asked = context.environ.get("CXX")
    path = shutil.which(asked or "g++", path=context.environ.get("PATH"))
    if path is None or asked == "":
        yield _not_found(context, asked)
        return
    source = f"CXX={asked}" if asked else path
    version = context.command([path, "--version"], deadline=10)
    if version.timed_out:
        yield HANGS.found(f"{source} --version {version.ending}")
        return
    if not version.ok or not version.noise.strip():
        yield _no_compiler(source, asked, version)
        return
    title = version.noise.strip().splitlines()[0]
    try:
        # The kernel may be loaded here, or nowhere: a folder that forbids it is told by compile.cache.
        with tempfile.TemporaryDirectory(prefix="llmbench-doctor-", ignore_cleanup_errors=True) as folder:
            findings = list(_try(context, path, source, Path(folder)))
    except OSError as error:
        yield skipped(f"no temporary folder to compile in: {error.strerror}")
        return
    if not findings:
        context.facts["compiler"] = {"path": path, "title": title, "short": _short(path, title)}
        findings = [passed(f"{path}: {title}; a library with OpenMP and Python.h builds and loads")]
    yield from findings


def _not_found(context: Context, asked: str | None) -> Finding:
    if asked is None:
        return MISSING.found("no C++ compiler: CXX is not set, and g++ is not found on PATH")
    if not asked.strip():
        return CXX_EMPTY.found("CXX is set, but empty")
    first = asked.split()[0]
    if first != asked and shutil.which(first, path=context.environ.get("PATH")):
        last = asked.split()[-1]
        return CXX_WORDS.found(f"CXX={asked} is more than the name of a program", compiler=last)
    if os.path.exists(asked):
        return CXX_NO_PROGRAM.found(f"CXX={asked} {_why_no_program(asked)}")
    return CXX_GONE.found(f"CXX={asked} does not exist")


def _why_no_program(path: str) -> str:
    return "is a folder" if os.path.isdir(path) else "is not executable"


def _no_compiler(source: str, asked: str | None, version: Outcome) -> Finding:
    evidence = f"{source} --version {version.ending if not version.ok else 'says nothing'}"
    words = version.last_words
    return BROKEN.found(
        evidence + (f": {words}" if words and words not in evidence else ""),
        fix="unset CXX, or point it to an existing compiler" if asked else None,
    )


# Parts of the program that can be left out, so that a second fault is found behind the first.
_OPENMP, _PYTHON = "OpenMP", "Python.h"
_PARTS = {
    _OPENMP: "#include <omp.h>\nstatic int threads() { return omp_get_max_threads(); }\n",
    _PYTHON: '#include <Python.h>\nextern "C" const char* version() { return PY_VERSION; }\n',
}
_WITHOUT = {_OPENMP: "static int threads() { return 1; }\n", _PYTHON: ""}
_PROGRAM = (
    "#include <stdlib.h>\n#include <limits>\n#include <new>\n%s"
    'extern "C" int kernel(int n) {\n  int sum = 0, *parts = new int[n + threads()];\n'
    "#pragma omp parallel for reduction(+ : sum)\n  for (int i = 0; i < n; i++) { parts[i] = i; sum += parts[i]; }\n"
    "  delete[] parts;\n  return sum;\n}\n"
)


def _try(context: Context, path: str, source: str, folder: Path) -> Iterator[Finding]:
    """What is wrong with a library that uses all that inductor's do; nothing if it is right."""
    left_out: set[str] = set()
    builds = context.facts["builds"]
    while True:
        outcome = _build(context, path, folder, left_out)
        if outcome.ok:
            break
        words = _complaint(outcome).replace(f"{folder}/", "")
        complaint = f"{source} cannot compile a small program: {words}"
        if outcome.timed_out:
            yield HANGS.found(f"{source} {outcome.ending} while it compiled a program of a few lines")
            return
        # A program of another user's making may need them, so they are asked one by one only when it fails.
        variable = _culprit(context, path, folder, left_out)
        if variable:
            value = context.environ[variable]
            yield VARIABLE.found(
                f"with {variable}={value}, {complaint}; without {variable} it compiles", variable=variable, value=value
            )
            return
        fault, part = _recognise(outcome)
        if fault is NO_PYTHON_H:
            complaint = f"{builds['include']}/Python.h does not exist ({words})"
        yield fault.found(complaint, version=builds["version"])
        if part is None or part in left_out:
            return
        left_out.add(part)
    if not left_out:
        yield from _load(context, source, folder)


def _build(context: Context, path: str, folder: Path, left_out: set[str]) -> Outcome:
    """Compiles and links as inductor does, without optimisation."""
    program = folder / "kernel.cpp"
    parts = "".join(_WITHOUT[name] if name in left_out else text for name, text in _PARTS.items())
    program.write_text(_PROGRAM % parts, encoding="utf-8")
    flags = ["-shared", "-fPIC", "-std=c++17", *([] if _OPENMP in left_out else ["-fopenmp"])]
    include = f"-I{context.facts['builds']['include']}"
    return context.command([path, *flags, include, "-o", str(folder / "kernel.so"), str(program)])


def _complaint(outcome: Outcome) -> str:
    """The compiler's first error, which the later ones follow from."""
    lines = [line.strip() for line in outcome.noise.splitlines()]
    errors = [line for line in lines if re.search(r"error|cannot|Error|not found", line)]
    return errors[0] if errors else outcome.last_words or outcome.ending


def _recognise(outcome: Outcome) -> tuple[Fault, str | None]:
    """Which fault the compiler complains of, and the part of the program that it concerns."""
    for pattern, found, part in RECOGNISED:
        if re.search(pattern, outcome.noise, re.MULTILINE):
            return found, part
    return UNCLEAR, None


# What changes where compilers, their wrappers and linkers look, or how they start.
VARIABLES = (
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "CCACHE_DIR",
    "CCACHE_CONFIGPATH",
    "CCACHE_PREFIX",
    "SCCACHE_DIR",
    "GCC_COMPARE_DEBUG",
    "DEPENDENCIES_OUTPUT",
    "SUNPRO_DEPENDENCIES",
)


def _culprit(context: Context, path: str, folder: Path, left_out: set[str]) -> str | None:
    """The variable without which it compiles."""
    for variable in VARIABLES:
        if variable in context.environ:
            rest = {name: value for name, value in context.environ.items() if name != variable}
            if _build(dataclasses.replace(context, environ=rest), path, folder, left_out).ok:
                return variable
    return None


def _load(context: Context, source: str, folder: Path) -> Iterator[Finding]:
    count = 10
    outcome = context.probe("compile_load", {"library": str(folder / "kernel.so"), "count": count}, deadline=10)
    if outcome.ok and outcome.answer["value"] == count * (count - 1) // 2:
        return
    words = outcome.last_words
    if re.search(r"failed to map segment|Operation not permitted|Permission denied", words):
        return  # the folder forbids it: compile.cache tells whether this matters
    if outcome.ok:
        yield LOADS_NOT.found(f"a library built by {source} loads, but computes {outcome.answer['value']}")
        return
    yield LOADS_NOT.found(f"a library built by {source} cannot be loaded: {words or outcome.ending}")


def _short(path: str, title: str) -> str:
    number = re.search(r"\d+\.\d+(?:\.\d+)?", re.sub(r"\(.*?\)", "", title))
    return f"{Path(path).name} {number[0]}" if number else Path(path).name


@check(
    "compile.standard",
    "The compiler knows the C++ that torch.compile writes",
    needs=("torch.import", "compile.compiler"),
)
def standard(context: Context) -> Iterator[Finding]:
    """Reads the standard from the installed torch, and asks the compiler whether it takes that option."""
    if "compiler" not in context.facts:
        yield skipped("no C++ compiler (see compile.compiler)")
        return
    compiler, name = context.facts["compiler"], _torchs_standard(Path(context.facts["torch"]["file"]).parent)
    outcome = context.command([compiler["path"], f"-std={name}", "-fsyntax-only", "-x", "c++", os.devnull])
    if outcome.ok:
        yield passed(f"{compiler['short']} takes -std={name}")
    else:
        yield TOO_OLD.found(f"{compiler['title']} does not take -std={name}: {_complaint(outcome)}", standard=name)


def _torchs_standard(torch: Path) -> str:
    """What inductor passes as -std=."""
    try:
        source = (torch / "_inductor" / "cpp_builder.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        source = ""
    found = re.search(r'std_num: str = "(c\+\+\d+)"', source)
    return found[1] if found else "c++17"


@check(
    "compile.cc",
    "There is a C compiler",
    needs=("torch.import",),
    follows=("compile.compiler",),
)
def c_compiler(context: Context) -> Iterator[Finding]:
    """Triton compiles its launcher by CC, else gcc, else clang; extensions of Python are built by CC too."""
    named, search = context.environ.get("CC"), context.environ.get("PATH")
    # torch on the CPU does not use it, but whatever pip builds from source does.
    gravity = "fail" if context.facts["torch"].get("cuda") else "warn"
    if named:
        if shutil.which(named.split()[0], path=search):
            yield passed(f"CC={named}")
        else:
            yield CC_GONE.found(f"CC={named} does not exist", verdict="fail" if gravity == "fail" else "warn")
        return
    found = next((path for path in (shutil.which(name, path=search) for name in ("gcc", "clang")) if path), None)
    if found:
        yield passed(found)
    elif gravity == "fail":
        yield NO_C.found("no C compiler: CC is not set, and neither gcc nor clang is on PATH")
    else:
        yield passed("none, and torch without CUDA needs none")


@check("compile.setuptools", "torch can import what its builds need", needs=("torch.import", "compile.python"))
def setuptools(context: Context) -> Iterator[Finding]:
    """torch.utils.cpp_extension imports setuptools, and inductor imports that for CPU kernels."""
    builds = context.facts.get("builds")
    if builds is None:
        yield skipped("the interpreter's packages could not be listed")
    elif builds["setuptools"]:
        yield passed("setuptools is installed")
    else:
        yield SETUPTOOLS.found(f"{context.python} has no package setuptools")


@check("compile.ninja", "ninja is there, for C++ extensions", needs=("compile.python",))
def ninja(context: Context) -> Iterator[Finding]:
    """Asks as torch.utils.cpp_extension does: the program ``ninja`` of PATH."""
    path = shutil.which("ninja", path=context.environ.get("PATH"))
    builds = context.facts.get("builds", {})
    if path is None and builds.get("ninja"):
        yield NINJA_OFF_PATH.found(
            f"the package ninja is installed, but its program is not found: {builds['scripts']} is not on PATH",
            scripts=builds["scripts"],
        )
        return
    if path is None:
        yield NINJA_MISSING.found("ninja is not found on PATH")
        return
    outcome = context.command([path, "--version"])
    if outcome.ok:
        yield passed(f"{path} {outcome.noise.strip()}")
    else:
        yield NINJA_BROKEN.found(f"{path} --version {outcome.ending} {outcome.last_words}".strip())


from llmbench.doctor.checks import compile_cache, compile_cuda, compile_triton, compile_work  # noqa: E402, F401  (checks of this area)
