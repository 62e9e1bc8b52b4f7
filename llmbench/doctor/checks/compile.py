"""torch.compile: its C++ compiler, and whether it makes kernels that are right."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmbench.doctor.checks.environment import is_on
from llmbench.doctor.checks.registry import check
from llmbench.doctor.checks.torch import install
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

_PROGRAM = "#include <cmath>\n#include <vector>\nint main() { return std::vector<double>{0.0}.size() - 1; }\n"


@check("compile.compiler", "There is a working C++ compiler", deadline=30, needs=("storage.temporary",))
def compiler(context: Context) -> Iterator[Finding]:
    """Looks for it as inductor does: CXX, else g++. Keeps it as fact ``compiler``."""
    asked = context.environ.get("CXX") or ""
    name = asked or "g++"
    path = shutil.which(name, path=context.environ.get("PATH"))
    if path is None and not asked:
        yield warning(
            "no C++ compiler: CXX is not set, and g++ is not found on PATH",
            "torch.compile cannot make CPU kernels; the compile modes will be skipped",
            "apt-get install -y g++  (conda: conda install gxx; Fedora: dnf install gcc-c++)",
        )
        return
    if path is None:
        yield failure(
            f"CXX={asked} does not exist",
            "torch.compile uses the compiler that CXX names, and no other",
            "unset CXX, or point it to an existing compiler",
        )
        return
    source = f"CXX={asked}" if asked else path
    version = context.command([path, "--version"])
    if not version.ok or not version.noise.strip():
        yield failure(
            f"{source} --version {version.ending if not version.ok else 'says nothing'}",
            "this is no working C++ compiler, so torch.compile fails",
            "unset CXX, or point it to an existing compiler" if asked else "apt-get install --reinstall -y g++",
        )
        return
    title = version.noise.splitlines()[0]
    outcome = _try(context, path)
    if not outcome.ok:
        yield failure(
            f"{source} cannot compile a program of three lines: {_complaint(outcome)}",
            "the C++ compiler is broken or incomplete, so torch.compile fails",
            "apt-get install --reinstall -y g++, and the package cpp or gcc of the same version",
        )
        return
    context.facts["compiler"] = {"path": path, "title": title, "short": _short(path, title)}
    yield passed(f"{path}: {title}")


def _try(context: Context, path: str) -> Outcome:
    """Compiles and links nothing to a file: -S to /dev/null needs neither space nor a linker."""
    try:
        with tempfile.TemporaryDirectory(prefix="llmbench-doctor-") as folder:
            program = Path(folder, "program.cpp")
            program.write_text(_PROGRAM, encoding="utf-8")
            return context.command([path, "-std=c++17", "-o", str(program.with_suffix("")), str(program)])
    except OSError as error:
        return Outcome(noise=f"no temporary folder to compile in: {error.strerror}")


def _complaint(outcome: Outcome) -> str:
    """The compiler's first error, which the later ones follow from."""
    lines = [line.strip() for line in outcome.noise.splitlines() if "error" in line.lower()]
    return lines[0] if lines else outcome.last_words or outcome.ending


def _short(path: str, title: str) -> str:
    number = re.search(r"\d+\.\d+(?:\.\d+)?", re.sub(r"\(.*?\)", "", title))
    return f"{Path(path).name} {number[0]}" if number else Path(path).name


# What makes it quick: one compiler process, no precompiled headers (which would also stay behind), and no trial
# compilations of every vector width (10 s here). Scalar code needs the same compiler, headers and libraries.
_QUICK = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
}
_TOLERANCE = 1e-5
_DEEP_DEADLINE = 300.0


@check(
    "compile.kernel",
    "torch.compile compiles, and is right",
    deadline=90,
    needs=("torch.import", "compile.compiler"),
    deep=True,
)
def kernel(context: Context) -> Iterator[Finding]:
    """Compiles into a fresh folder, so that nothing can come from a cache, and removes it."""
    if "compiler" not in context.facts:
        yield skipped("no C++ compiler (see compile.compiler)")
        return
    off = [n for n in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE") if is_on(context.environ.get(n, ""))]
    if off:
        yield skipped(f"{off[0]} switches torch.compile off (see environment.leftovers)")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="llmbench-doctor-", ignore_cleanup_errors=True) as folder:
            outcome = context.probe(
                "compile_kernel",
                {"deep": context.deep},
                {
                    **({} if context.deep else _QUICK),
                    "TORCHINDUCTOR_CACHE_DIR": folder,
                    "TMPDIR": folder,
                    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
                },
                _DEEP_DEADLINE if context.deep else None,
            )
    except OSError as error:
        yield failure(
            f"no temporary folder to compile in: {error.strerror}",
            "torch.compile writes the code of its kernels there",
            "export TMPDIR to a folder that can be written",
        )
        return
    yield from _judge(context, outcome)


def _judge(context: Context, outcome: Outcome) -> Iterator[Finding]:
    found, short = outcome.answer, context.facts["compiler"]["short"]
    if "error" not in found:
        yield _compile_failure(context, outcome)
        return
    if not found["graphs"] or not found["libraries"]:
        yield failure(
            f"torch.compile ran, but made {found['graphs']} graphs and {found['libraries']} libraries",
            "something switches it off, and it silently runs the eager code",
            "look for TORCH_COMPILE and TORCHDYNAMO variables, and for code that patches torch.compile",
        )
        return
    worst = found["error"]
    if not worst <= _TOLERANCE:
        yield failure(
            f"the compiled kernel is off by {worst:.1e} from eager (limit {_TOLERANCE:.0e})",
            f"code compiled by {short} computes wrong values",
            "use another compiler: export CXX",
        )
        return
    if found.get("vector") == "INVALID_VEC_ISA":
        yield warning(
            "inductor finds no vector instructions that both the CPU and the compiler know",
            "compiled kernels are scalar, and slow",
            "use a newer compiler, and unset ATEN_CPU_CAPABILITY",
        )
    context.facts["compile_works"] = True
    width = f", {found['vector']}" if "vector" in found else ""
    work = "forward and backward" if context.deep else "one kernel"
    yield passed(f"{work} in {found['seconds']:.1f} s with {short}{width}; off by {worst:.0e}")


def _compile_failure(context: Context, outcome: Outcome) -> Finding:
    path = context.facts["compiler"]["path"]
    text = f"{(outcome.error or {}).get('message', '')}\n{outcome.noise}"
    lines = [line.strip() for line in text.splitlines() if re.search(r"\b(fatal )?error:|No such file|No space", line)]
    evidence = f"torch.compile {outcome.ending}" + (f": {lines[0]}" if lines else "")
    missing = (outcome.error or {}).get("module", "")
    if missing and not missing.startswith("torch."):
        return failure(evidence, f"{missing}, which torch needs, is not installed", install(context, missing))
    for pattern, cause, fix in _COMPILE_CAUSES:
        if re.search(pattern, text):
            return failure(evidence, cause, fix)
    if outcome.timed_out:
        return failure(
            evidence,
            "the compiler, or a lock on its cache folder, does not come to an end",
            f"see how long the compiler takes alone: time {path} --version",
        )
    return failure(
        evidence,
        f"{path} or torch's inductor fails on a function of one line",
        f"{context.python} -c 'import torch; torch.compile(lambda x: x + 1)(torch.ones(8))' shows all of it",
    )


# What to look for in the message, cause, fix.
_COMPILE_CAUSES = (
    (
        r"Python\.h",
        "the headers of Python are not installed, which inductor's generated code includes",
        "apt-get install -y python3-dev  (Fedora: dnf install python3-devel)",
    ),
    (
        r"No space left",
        "the temporary folder is full",
        "free space there, or export TMPDIR to a larger file system",
    ),
    (r"omp\.h|lgomp|libgomp", "the compiler has no OpenMP", "apt-get install -y libgomp1 g++"),
    (
        r"No module named 'torch\.",
        "a part of torch is missing",
        "reinstall it: pip install --force-reinstall --no-cache-dir torch",
    ),
)
