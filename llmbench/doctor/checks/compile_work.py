"""With --deep: what torch.compile and torch's build system make, and whether it is right."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.environment import is_on
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.checks.torch import install
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

_TOLERANCE = 1e-4
"""Of the largest value: a hundred roundings of fp32, and far below what any wrong kernel is off by."""

_WRONG = fault(
    "compile.kernel.wrong",
    "fail",
    "A compiled kernel computes wrong values",
    cause="code compiled by <compiler> computes something else than eager torch: training with torch.compile is wrong",
    fix="use another compiler: export CXX; clear the caches: export TORCHINDUCTOR_CACHE_DIR=<fresh folder>; for a GPU, "
    "reinstall torch and Triton",
)
_NOTHING = fault(
    "compile.kernel.nothing",
    "fail",
    "torch.compile runs, but compiles nothing",
    cause="something switches it off, and it silently runs the eager code",
    fix="look for TORCH_COMPILE and TORCHDYNAMO variables, and for code that patches torch.compile",
)
_SCALAR = fault(
    "compile.kernel.scalar",
    "warn",
    "torch.compile makes scalar CPU kernels",
    cause="inductor finds no vector instructions that the CPU, the compiler and this torch all know: its kernels "
    "are slow",
    fix="use a newer compiler, and unset ATEN_CPU_CAPABILITY and TORCHINDUCTOR_VEC_ISA_OK",
)
_STATIC = fault(
    "compile.kernel.recompiles",
    "warn",
    "torch.compile compiles anew for every shape",
    cause="dynamic=True does not hold: every new batch size is compiled again, which takes seconds each time",
    fix="unset TORCHDYNAMO variables; look at TORCH_LOGS=recompiles",
)
_COLD = fault(
    "compile.kernel.cold",
    "warn",
    "torch.compile does not find again what it compiled",
    cause="its cache on disk gives nothing back, so every start compiles everything",
    fix="unset TORCHINDUCTOR_FX_GRAPH_CACHE and TORCHINDUCTOR_FORCE_DISABLE_CACHES",
)
_HANGS = fault(
    "compile.kernel.hangs",
    "fail",
    "torch.compile does not come to an end",
    cause="the compiler, or a lock on its cache folder, does not come to an end; or this machine is very slow or "
    "overloaded",
    fix="see how long the compiler takes alone: time <compiler> --version; look at the load: uptime; "
    "or give it more time with --patience",
)
_INCOMPLETE = fault(
    "compile.kernel.torch-incomplete",
    "fail",
    "A part of torch that torch.compile needs is missing",
    cause="torch is incomplete: a part of it is missing",
    fix="reinstall it: <python> -m pip install --force-reinstall --no-cache-dir torch",
)
_PACKAGE = fault(
    "compile.kernel.package",
    "fail",
    "A package that torch.compile needs is missing",
    cause="<package>, which torch needs, is not installed",
    fix="<python> -m pip install <package>",
)
_LIBSTDCXX = fault(
    "compile.kernel.libstdcxx",
    "fail",
    "Compiled kernels need a newer libstdc++ than is loaded",
    cause="the compiler is newer than the libstdc++.so.6 that this Python loads (of conda, or named by "
    "LD_LIBRARY_PATH)",
    fix="conda install -c conda-forge gxx libstdcxx-ng; or unset LD_LIBRARY_PATH",
)
_MAP = fault(
    "compile.kernel.noexec",
    "fail",
    "Compiled kernels cannot be loaded from the temporary folder",
    cause="the temporary folder is on a file system mounted noexec",
    fix="export TMPDIR=<folder on a file system without noexec>",
)
_SPACE = fault(
    "compile.kernel.space",
    "fail",
    "torch.compile finds no space",
    cause="the temporary folder is full, or it takes more space than is left while compiling",
    fix="free space there, or export TMPDIR to a larger file system",
)
_MEMORY = fault(
    "compile.kernel.memory",
    "fail",
    "torch.compile runs out of memory",
    cause="compilers, or the processes of inductor's pool, need more memory than there is, and are killed",
    fix="export TORCHINDUCTOR_COMPILE_THREADS=1, or give the container or job more memory",
)
_OPENMP = fault(
    "compile.kernel.openmp",
    "fail",
    "Compiled kernels have no OpenMP",
    cause="omp.h, or the library of OpenMP, is missing or of another compiler",
    fix="apt-get install --reinstall -y libgomp1 g++",
)
_PYTHON_H = fault(
    "compile.kernel.python-h",
    "fail",
    "torch.compile finds no headers of Python",
    cause="the headers of Python are not installed, which the code that inductor and Triton generate includes",
    fix="apt-get install -y python3-dev  (Fedora: dnf install python3-devel)",
)
_TRITON = fault(
    "compile.kernel.triton",
    "fail",
    "Triton does not work",
    cause="Triton, which makes the kernels of the GPU, is missing, broken or too old for this torch",
    fix="<python> -m pip install --force-reinstall torch; see compile.triton",
)
_LIBCUDA = fault(
    "compile.kernel.libcuda",
    "fail",
    "Triton does not find the driver's library",
    cause="Triton asks ldconfig where libcuda.so.1 is, and its cache does not list it",
    fix="ldconfig  (as root); or export TRITON_LIBCUDA_PATH=<folder of libcuda.so.1>",
)
_PTXAS = fault(
    "compile.kernel.ptxas",
    "fail",
    "Triton's assembler fails",
    cause="ptxas is missing, or older than this GPU: it does not know its architecture",
    fix="export TRITON_PTXAS_PATH=<ptxas of a newer CUDA toolkit>, or install a newer torch",
)
_OLD_GPU = fault(
    "compile.kernel.old-gpu",
    "fail",
    "The GPU is too old for Triton",
    cause="Triton needs compute capability 7.0 or newer, so torch.compile does not work on this GPU",
    fix="train without torch.compile on this GPU",
)
_NO_C = fault(
    "compile.kernel.cc",
    "fail",
    "Triton finds no C compiler",
    cause="Triton compiles a launcher for its kernels with CC, gcc or clang",
    fix="apt-get install -y gcc",
)
_LOCKED = fault(
    "compile.kernel.lock",
    "fail",
    "torch.compile gives up waiting for a lock",
    cause="another process holds the lock of a kernel for long, or the file system does not lock",
    fix="export TORCHINDUCTOR_CACHE_DIR=<fresh folder on a local disk>",
)
_FAILS = fault(
    "compile.kernel.fails",
    "fail",
    "torch.compile fails",
    cause="<compiler> or torch's inductor fails on a small function",
    fix="<python> -c 'import torch; torch.compile(lambda x: x + 1)(torch.ones(8))' shows all of it",
)
_NOWHERE = fault(
    "compile.kernel.folder",
    "fail",
    "There is no folder to compile in",
    cause="torch.compile writes the code of its kernels into a temporary folder, and there is none",
    fix="export TMPDIR to a folder that can be written",
)

# What to look for in the message and in what was printed.
_CAUSES: tuple[tuple[str, Fault], ...] = (
    (r"No space left|Disk quota exceeded", _SPACE),
    (r"GLIBCXX_|CXXABI_", _LIBSTDCXX),
    (r"failed to map segment", _MAP),
    (r"Python\.h", _PYTHON_H),
    (r"omp\.h|lgomp|libgomp|GOMP_", _OPENMP),
    (r"No module named 'torch\.", _INCOMPLETE),
    (r"GPUTooOldForTriton|too old to be supported by the triton", _OLD_GPU),
    (r"libcuda\.so", _LIBCUDA),
    (r"ptxas|is not defined for option 'gpu-name'", _PTXAS),
    (r"Failed to find C compiler", _NO_C),
    (r"TritonMissing|working triton installation|No module named 'triton|cannot import name .* from 'triton", _TRITON),
    (r"file lock .* could not be acquired|filelock\S*Timeout", _LOCKED),
    (r"Cannot allocate memory|MemoryError|Killed signal|terminated abruptly|BrokenProcessPool", _MEMORY),
)


@check(
    "compile.kernel",
    "torch.compile compiles, and is right",
    deadline=400,
    needs=("torch.import", "compile.compiler"),
    follows=(
        "python.requirements",
        "compile.settings",
        "compile.setuptools",
        "compile.standard",
        "compile.cc",
        "compile.triton",
    ),
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
            changes = {
                "TORCHINDUCTOR_CACHE_DIR": folder,
                "TRITON_CACHE_DIR": None,
                "TMPDIR": folder,
                "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
            }
            outcome = context.probe("compile_kernel", {}, changes)
    except OSError as error:
        yield _NOWHERE.found(f"no temporary folder to compile in: {error.strerror}")
        return
    yield from _judge(context, outcome)


def _judge(context: Context, outcome: Outcome) -> Iterator[Finding]:
    found, compiler = outcome.answer, context.facts["compiler"]["short"]
    faults = []
    devices = [device for device in ("cpu", "cuda") if device in found]
    for device in devices:
        faults += list(_device(device, found[device], compiler))
    if not outcome.ok:
        faults.append(_failure(context, outcome))
    elif found.get("vector") == "INVALID_VEC_ISA":
        faults.append(_SCALAR.found("inductor picks no vector instructions (INVALID_VEC_ISA)"))
    yield from faults
    if faults:
        return
    context.facts["compile_works"] = True
    for device in devices:
        steps = found[device]
        times = ", ".join(f"{name} {step['seconds']:.0f} s" for name, step in steps.items())
        worst = max(step["error"] for step in steps.values())
        by = f"{compiler}, {found['vector']}" if device == "cpu" else "Triton"
        yield passed(f"{device}, with {by}: {times}; off by {worst:.0e} of the largest value")


def _device(device: str, steps: dict[str, Any], compiler: str) -> Iterator[Finding]:
    forward, dynamic, warm = (steps.get(name) for name in ("forward", "dynamic", "warm"))
    by = compiler if device == "cpu" else "Triton"
    if forward and not (forward["graphs"] and forward["libraries"]):
        yield _NOTHING.found(
            f"torch.compile for {device} ran, but made {forward['graphs']} graphs and {forward['libraries']} libraries"
        )
        return
    for name, step in steps.items():
        if not step["error"] <= _TOLERANCE:
            yield _WRONG.found(
                f"compiled {name} on {device} is off by {step['error']:.1e} of the largest value from eager fp64 "
                f"(limit {_TOLERANCE:.0e})",
                compiler=by,
            )
            return
    if dynamic and dynamic["graphs"] > 1:
        yield _STATIC.found(f"three sizes on {device} made {dynamic['graphs']} graphs, with dynamic=True")
    if warm and not warm["hits"]:
        yield _COLD.found(f"the same function on {device} was compiled again, from {warm['seconds']:.0f} s of work")


def _failure(context: Context, outcome: Outcome) -> Finding:
    path = context.facts["compiler"]["path"]
    text = f"{(outcome.error or {}).get('message', '')}\n{outcome.noise}"
    lines = [line.strip() for line in text.splitlines() if re.search(r"\b(fatal )?error:|No such file|No space", line)]
    at = outcome.answer.get("at")
    step = f" for {at[0]}, {at[1]}," if at else ""
    evidence = f"torch.compile{step} {outcome.ending}" + (f": {lines[0]}" if lines else "")
    missing = (outcome.error or {}).get("module", "")
    if missing and missing.partition(".")[0] not in ("torch", "triton"):
        return _PACKAGE.found(evidence, fix=install(context, missing), package=missing)
    for pattern, found in _CAUSES:
        if re.search(pattern, text):
            return found.found(evidence)
    return (_HANGS if outcome.timed_out else _FAILS).found(evidence, compiler=path)


_EXTENSION = fault(
    "compile.extension.fails",
    "fail",
    "A C++ extension cannot be built",
    cause="torch.utils.cpp_extension fails on a function of one line: extensions such as those of DeepSpeed or "
    "flash-attn cannot be built here",
    fix="<python> -m pip install ninja setuptools; all that it says: <python> -c "
    '"from torch.utils.cpp_extension import load_inline; '
    "load_inline('t', cpp_sources='int f() { return 1; }', functions=['f'], verbose=True)\"",
)
_EXTENSION_WRONG = fault(
    "compile.extension.wrong",
    "fail",
    "A C++ extension computes wrong values",
    cause="the compiler, or its flags (CXXFLAGS, CFLAGS), do not fit to this torch",
    fix="unset CXXFLAGS CFLAGS, and use another compiler: export CXX",
)


@check(
    "compile.extension",
    "A C++ extension can be built",
    deadline=240,
    needs=("torch.import", "compile.compiler"),
    follows=("compile.ninja", "compile.setuptools", "compile.standard"),
    deep=True,
)
def extension(context: Context) -> Iterator[Finding]:
    if "compiler" not in context.facts:
        yield skipped("no C++ compiler (see compile.compiler)")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="llmbench-doctor-", ignore_cleanup_errors=True) as folder:
            outcome = context.probe("compile_extension", {"folder": folder})
    except OSError as error:
        yield skipped(f"no temporary folder to build in: {error.strerror}")
        return
    found = outcome.answer
    if not outcome.ok:
        missing = "Ninja is required" in f"{outcome.error}"
        yield _EXTENSION.found(f"building an extension {outcome.ending}", verdict="warn" if missing else None)
    elif found["value"] != 42:
        yield _EXTENSION_WRONG.found(f"twice 21 is {found['value']}")
    else:
        yield passed(f"one function in {found['seconds']:.0f} s")
