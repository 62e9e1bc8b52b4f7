"""What builds for CUDA need: NVIDIA's toolkit (nvcc), and a list of architectures that holds the devices."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

_TOOLKIT = "https://developer.nvidia.com/cuda-toolkit-archive"
_EXTENSIONS = "builds of CUDA extensions (torch.utils.cpp_extension, flash-attn, DeepSpeed, Apex) fail"

_HOME_GONE = fault(
    "compile.nvcc.home-gone",
    "warn",
    "CUDA_HOME names no CUDA toolkit",
    cause=f"torch looks for nvcc there and nowhere else, so {_EXTENSIONS}; torch itself does not need it",
    fix="unset <variable>, or point it to the folder of a toolkit for CUDA <version>",
)
_NVCC_BROKEN = fault(
    "compile.nvcc.broken",
    "warn",
    "nvcc does not run",
    cause=f"the CUDA toolkit is incomplete, or for another machine: {_EXTENSIONS}",
    fix="install the toolkit for CUDA <version> anew",
    link=_TOOLKIT,
)
_MAJOR = fault(
    "compile.nvcc.major",
    "warn",
    "nvcc and torch are of different CUDA versions",
    cause="a mismatch in the major version: torch.utils.cpp_extension refuses to build with this nvcc "
    "('The detected CUDA version mismatches the version that was used to compile PyTorch')",
    fix="install the toolkit for CUDA <version>, and export CUDA_HOME to its folder",
    link=_TOOLKIT,
)
_TWO = fault(
    "compile.nvcc.two",
    "warn",
    "Two versions of nvcc: CUDA_HOME and PATH disagree",
    cause="torch takes the nvcc of CUDA_HOME, CMake and scripts take that of PATH: one build mixes both",
    fix="export PATH=$CUDA_HOME/bin:$PATH, with CUDA_HOME the toolkit for CUDA <version>",
)
_HOST = fault(
    "compile.nvcc.host",
    "warn",
    "The C++ compiler is newer than this nvcc knows",
    cause="nvcc refuses it ('unsupported GNU version! gcc versions later than <newest> are not supported!'): "
    "builds of CUDA extensions fail",
    fix="apt-get install -y g++-<newest>, and export CXX=g++-<newest> CC=gcc-<newest>; or install a newer CUDA toolkit",
)
_HEADERS = fault(
    "compile.nvcc.headers",
    "warn",
    "The CUDA toolkit has no headers",
    cause=f"nvcc is there, but cuda_runtime.h is not: only a part of the toolkit is installed, so {_EXTENSIONS}",
    fix="install the whole toolkit for CUDA <version>: apt-get install -y cuda-toolkit (conda: conda install "
    "cuda-toolkit)",
    link=_TOOLKIT,
)


def _without_cuda(context: Context) -> bool:
    return not context.facts["torch"].get("cuda")


@check("compile.nvcc", "The CUDA toolkit fits to torch", needs=("torch.import",))
def nvcc(context: Context) -> Iterator[Finding]:
    """Finds nvcc as torch.utils.cpp_extension does: CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda. Fact ``nvcc``."""
    if _without_cuda(context):
        yield skipped("this torch is not built for CUDA")
        return
    wanted = context.facts["torch"]["cuda"]
    variable = next((name for name in ("CUDA_HOME", "CUDA_PATH") if context.environ.get(name)), None)
    on_path = shutil.which("nvcc", path=context.environ.get("PATH"))
    home = Path(context.environ[variable]) if variable else _default_home(on_path)
    if home is None:
        yield passed("no CUDA toolkit: torch and torch.compile need none, only builds of CUDA extensions do")
        return
    program, named = home / "bin" / "nvcc", f"{variable}={home}" if variable else str(home)
    values = {"variable": variable or "CUDA_HOME", "version": wanted}
    if not home.is_dir():
        yield _HOME_GONE.found(f"{named} does not exist", **values)
        return
    if not program.is_file():
        yield _HOME_GONE.found(f"{named} has no bin/nvcc", **values)
        return
    release, trouble = _release(context, str(program))
    if release is None:
        yield _NVCC_BROKEN.found(f"{program} --version {trouble}", **values)
        return
    context.facts["nvcc"] = {"path": str(program), "release": release}
    faults = list(_mismatches(context, home, named, release, on_path))
    yield from faults
    if not faults:
        yield passed(f"{program}: CUDA {release}, torch is built with {wanted}")


def _default_home(on_path: str | None) -> Path | None:
    if on_path:
        return Path(on_path).parent.parent
    usual = Path("/usr/local/cuda")
    return usual if usual.is_dir() else None


def _release(context: Context, program: str) -> tuple[str | None, str]:
    """The CUDA version that an nvcc tells, or why it tells none."""
    outcome = context.command([program, "--version"])
    found = re.search(r"release (\d+\.\d+)", outcome.noise)
    if outcome.ok and found:
        return found[1], ""
    return None, outcome.ending if not outcome.ok else "names no release"


def _mismatches(context: Context, home: Path, named: str, release: str, on_path: str | None) -> Iterator[Finding]:
    wanted = context.facts["torch"]["cuda"]
    if _major(release) != _major(wanted):
        yield _MAJOR.found(
            f"nvcc {release} ({named}) mismatches CUDA {wanted}, which torch was built with", version=wanted
        )
        return
    other = _release(context, on_path)[0] if on_path and not _same(on_path, home / "bin" / "nvcc") else None
    if other and other != release:
        yield _TWO.found(f"{named} has nvcc {release}, but {on_path} is nvcc {other}", version=wanted)
    if named != str(home) and not any((home / place / "cuda_runtime.h").is_file() for place in _INCLUDES):
        yield _HEADERS.found(f"{home}/include/cuda_runtime.h does not exist ({named})", version=wanted)
    newest, compiler = _newest_host(home), context.facts.get("compiler") or _host(context)
    found = re.match(r"(?:\S*g\+\+\S*|gcc) (\d+)", compiler.get("short", ""))
    if newest and found and int(found[1]) > newest:
        yield _HOST.found(
            f"{compiler['path']} is {compiler['short']}; nvcc {release} knows g++ up to {newest}", newest=newest
        )


_INCLUDES = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")


def _major(version: str) -> str:
    return version.partition(".")[0]


def _same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _host(context: Context) -> dict[str, str]:
    """The compiler, where the check of the compiler has not told it yet."""
    name = context.environ.get("CXX") or "g++"
    path = shutil.which(name, path=context.environ.get("PATH"))
    if path is None:
        return {}
    version = context.command([path, "-dumpfullversion", "-dumpversion"])
    return {"path": path, "short": f"{Path(path).name} {version.noise.strip()}"} if version.ok else {}


def _newest_host(home: Path) -> int | None:
    """The newest g++ that this toolkit accepts, as its own header says."""
    for place in _INCLUDES:
        try:
            text = (home / place / "crt" / "host_config.h").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = re.search(r"__GNUC__\s*>\s*(\d+)", text)
        if found:
            return int(found[1])
    return None


_NONSENSE = fault(
    "compile.arch.unknown",
    "warn",
    "TORCH_CUDA_ARCH_LIST names no architecture",
    cause="torch.utils.cpp_extension raises 'Unknown CUDA arch': no CUDA extension can be built",
    fix="unset TORCH_CUDA_ARCH_LIST, or export TORCH_CUDA_ARCH_LIST='9.0' (the compute capability of the device)",
)
_OTHER = fault(
    "compile.arch.other",
    "warn",
    "TORCH_CUDA_ARCH_LIST leaves this GPU out",
    cause="extensions are built for other GPUs, and fail here with 'no kernel image is available for execution on the "
    "device'",
    fix="unset TORCH_CUDA_ARCH_LIST, or export TORCH_CUDA_ARCH_LIST='<capability>'",
)
_NAMES = {
    "Kepler": "3.5+PTX",
    "Kepler+Tesla": "3.7",
    "Maxwell": "5.0;5.2+PTX",
    "Maxwell+Tegra": "5.3",
    "Pascal": "6.0;6.1+PTX",
    "Volta": "7.0+PTX",
    "Volta+Tegra": "7.2",
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ampere+Tegra": "8.7",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
    "Blackwell+Tegra": "11.0",
}


@check("compile.arch", "TORCH_CUDA_ARCH_LIST holds this machine's GPUs", deadline=30, needs=("torch.import",))
def arch(context: Context) -> Iterator[Finding]:
    value = context.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if _without_cuda(context):
        yield skipped("this torch is not built for CUDA")
        return
    if value.strip() in ("", "native"):
        yield passed("it is not set: torch takes the GPUs that it sees")
        return
    # Split as torch does: two separators in a row make an empty name, which it refuses.
    asked = [part for name in value.replace(" ", ";").split(";") for part in _NAMES.get(name, name).split(";")]
    known = _known(Path(context.facts["torch"]["file"]).parent)
    unknown = [name for name in asked if not _valid(name, known)]
    if unknown:
        shown = ", ".join(name or "an empty name" for name in unknown)
        yield _NONSENSE.found(f"TORCH_CUDA_ARCH_LIST={value} holds {shown}, which this torch does not know")
        return
    outcome = context.torch_probe("cuda_capabilities")
    if "capabilities" not in outcome.answer:
        yield skipped(f"asking the GPUs for their compute capability {outcome.ending}")
        return
    served = {f"{a}.{b}": _serves(asked, a, b) for a, b in outcome.answer["capabilities"]}
    left_out = [capability for capability, is_served in served.items() if not is_served]
    if left_out:
        yield _OTHER.found(
            f"TORCH_CUDA_ARCH_LIST={value} has nothing for compute capability {', '.join(left_out)} of this "
            "machine's GPUs",
            capability=";".join(served),
        )
    else:
        yield passed(f"TORCH_CUDA_ARCH_LIST={value}; GPUs here: {', '.join(served) or 'none visible'}")


def _known(torch: Path) -> list[str]:
    """The architectures that this torch's own list names; empty where it is not found."""
    try:
        source = (torch / "utils" / "cpp_extension.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lists = re.search(r"supported_arches = \[([^\]]*)\]", source)
    return re.findall(r"'([^']+)'", lists[1]) if lists else []


def _valid(name: str, known: Sequence[str]) -> bool:
    bare = name.removesuffix("+PTX")
    return bare in known if known else re.fullmatch(r"\d{1,2}\.\d[af]?", bare) is not None


def _serves(asked: Sequence[str], major: int, minor: int) -> bool:
    """Binary code serves its own major version from its minor version on, PTX every later device."""
    for name in asked:
        found = re.match(r"(\d+)\.(\d+)([af]?)", name)
        if found is None:
            continue
        own, letter = (int(found[1]), int(found[2])), found[3]
        if own == (major, minor) or (own[0] == major and own[1] <= minor and not letter):
            return True
        if name.endswith("+PTX") and own <= (major, minor) and not letter:
            return True
    return False
