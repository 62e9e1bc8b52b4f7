"""Variables that are set for debugging, forgotten, and then change how everything runs; and values that are wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed
from llmbench.doctor.runner import Context

_NCCL_MANUAL = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html"
_CUDA_MANUAL = "https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html"
_TORCH_NCCL_MANUAL = "https://docs.pytorch.org/docs/main/torch_nccl_environment_variables.html"


def is_on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off")


def _is_zero(value: str) -> bool:
    return value.strip().lower() in ("0", "false", "off", "no")


def _is_one(value: str) -> bool:
    return value.strip() == "1"


def _is_set(value: str) -> bool:
    return True


def _has_text(value: str) -> bool:
    return value.strip() != ""


def _is_bounded(value: str) -> bool:
    return value.strip().upper() not in ("", "ALL", "DEFAULT")


def _is_number(value: str) -> bool:
    """As NCCL reads switches: by their number, so that ``true`` switches nothing."""
    text = value.strip()
    return text.lstrip("-").isdigit() and int(text) != 0


def _one_of(*names: str) -> Callable[[str], bool]:
    return lambda value: value.strip().upper() in names


def assignments(environ: Mapping[str, str], names: Iterable[str]) -> str:
    return " ".join(f"{name}={environ[name]}" for name in names)


def slug(variable: str) -> str:
    return variable.strip("_").lower().replace("_", "-")


@dataclass(frozen=True)
class Leftover:
    """A variable whose value, if it ``matters``, has this ``effect``."""

    name: str
    effect: str
    matters: Callable[[str], bool] = is_on
    link: str | None = None
    fault: Fault = field(init=False)

    def __post_init__(self) -> None:
        named = fault(
            f"environment.leftovers.{slug(self.name)}",
            "warn",
            f"{self.name} is left over",
            cause=f"with it, {self.effect}",
            fix=f"unset {self.name}",
            link=self.link,
            script=f"unset {self.name}",
        )
        object.__setattr__(self, "fault", named)


def _nccl(name: str, effect: str, matters: Callable[[str], bool] = _is_number) -> Leftover:
    return Leftover(name, effect, matters, _NCCL_MANUAL)


LEFTOVERS = (
    # torch.compile
    Leftover("TORCHDYNAMO_DISABLE", "torch.compile does nothing", _is_one),
    Leftover("TORCH_COMPILE_DISABLE", "torch.compile does nothing", _is_one),
    Leftover("TORCH_COMPILE_DEBUG", "every compilation writes debug files, and is slow", _is_one),
    Leftover("TORCH_TRACE", "every compilation writes traces into that folder, which fills the disk", _has_text),
    Leftover("TORCH_COMPILE_CPROFILE", "every compilation is profiled, and is slow", _has_text),
    Leftover("TORCHDYNAMO_SUPPRESS_ERRORS", "what fails to compile runs uncompiled, and nothing says so", _has_text),
    Leftover("TORCHDYNAMO_REPRO_AFTER", "a failing compilation is minimised instead of reported, for hours", _has_text),
    Leftover("TORCHDYNAMO_TRANSLATION_VALIDATION", "every guard is proved by a solver: compilation is slow", _is_one),
    Leftover("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "every start compiles everything again"),
    Leftover("TORCHINDUCTOR_FX_GRAPH_CACHE", "every start compiles everything again", _is_zero),
    Leftover("TORCHINDUCTOR_AUTOGRAD_CACHE", "every start traces and compiles again", _is_zero),
    Leftover("TORCHINDUCTOR_COMPILE_THREADS", "kernels are compiled one after the other, not side by side", _is_one),
    Leftover("TORCHINDUCTOR_NAN_ASSERTS", "every kernel's results are searched for NaN, which is slow", _is_one),
    Leftover("TORCHINDUCTOR_SAVE_ARGS", "every compilation saves its arguments, which fills the disk", _is_one),
    Leftover("TORCHINDUCTOR_EMULATE_PRECISION_CASTS", "compiled kernels round as often as eager ones: slower", _is_one),
    Leftover("TORCHINDUCTOR_PROFILE", "every kernel is timed when it runs, which is slow", _has_text),
    Leftover("TRITON_INTERPRET", "Triton kernels are interpreted on the CPU, thousands of times slower", is_on),
    Leftover("TRITON_ALWAYS_COMPILE", "Triton compiles every kernel again at every start", is_on),
    Leftover("TRITON_KERNEL_DUMP", "Triton writes every stage of every kernel to the disk", is_on),
    Leftover("MLIR_ENABLE_DUMP", "Triton prints the code of every kernel", is_on),
    # torch
    Leftover(
        "TORCH_LOGS",
        "torch writes its internal logs to stderr, which slows compilation and floods the output",
        lambda value: "+" in value or "all" in value.split(","),
    ),
    Leftover("PYTORCH_JIT", "TorchScript is switched off", _is_zero),
    Leftover("ATEN_CPU_CAPABILITY", "vectorised CPU kernels are switched off", _one_of("DEFAULT")),
    Leftover("ONEDNN_VERBOSE", "oneDNN prints a line for each operation", is_on),
    Leftover("DNNL_VERBOSE", "oneDNN prints a line for each operation", is_on),
    Leftover("MKL_VERBOSE", "MKL prints a line for each operation", is_on),
    Leftover("ONEDNN_MAX_CPU_ISA", "oneDNN leaves newer vector instructions unused", _is_bounded),
    Leftover("DNNL_MAX_CPU_ISA", "oneDNN leaves newer vector instructions unused", _is_bounded),
    Leftover("MKL_ENABLE_INSTRUCTIONS", "MKL leaves newer vector instructions unused", _has_text),
    Leftover("MKL_CBWR", "MKL takes slower kernels that give the same bits on every machine", _has_text),
    Leftover("MKL_THREADING_LAYER", "MKL uses one thread", _one_of("SEQUENTIAL")),
    Leftover(
        "KMP_DUPLICATE_LIB_OK",
        "two OpenMP libraries may run in one process, which can crash or compute wrong results without a word",
        _one_of("TRUE", "1", "YES", "ON", "T"),
    ),
    Leftover("OMP_THREAD_LIMIT", "CPU operations use one thread", _is_one),
    Leftover("OMP_DISPLAY_ENV", "every process prints the settings of OpenMP", _one_of("TRUE", "VERBOSE", "1")),
    Leftover("TORCH_SHOW_CPP_STACKTRACES", "every exception of torch looks up a C++ stack, which is slow", is_on),
    Leftover("TORCH_CPP_LOG_LEVEL", "torch's C++ code writes its logs to stderr", _one_of("INFO", "0")),
    Leftover("TORCH_DISTRIBUTED_DEBUG", "every collective is checked, and is slow", _one_of("DETAIL")),
    Leftover("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "torch.load runs code that a file contains", is_on),
    # CUDA
    Leftover("CUDA_LAUNCH_BLOCKING", "every CUDA launch waits for its end", is_on, _CUDA_MANUAL),
    Leftover(
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        "every CUDA allocation goes to the driver, which is very slow (any value switches it on, even 0)",
        _is_set,
        "https://docs.pytorch.org/docs/stable/notes/cuda.html",
    ),
    Leftover("NVIDIA_TF32_OVERRIDE", "TF32 is off in every library, and fp32 matmuls are slow", _is_zero),
    Leftover(
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "fp32 matmuls are computed in TF32, with 10 bits, whatever the program asks for",
        _is_one,
    ),
    Leftover("CUDA_CACHE_DISABLE", "kernels that are compiled for this GPU are thrown away and compiled again", is_on),
    Leftover("CUDA_FORCE_PTX_JIT", "every kernel is compiled when it is loaded: a start takes minutes", is_on),
    Leftover("CUDA_DISABLE_PTX_JIT", "kernels that come as PTX only do not run", is_on),
    Leftover(
        "CUDA_MODULE_LOADING", "all kernels are loaded at the start: slower, and with more memory", _one_of("EAGER")
    ),
    Leftover("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "launches are slower, and an error writes a core file", is_on),
    Leftover("CUDA_INJECTION64_PATH", "a tool, mostly a profiler, is loaded into every CUDA process", _has_text),
    Leftover("CUDNN_LOGINFO_DBG", "cuDNN writes a log of each call", is_on),
    Leftover("CUDNN_LOGLEVEL_DBG", "cuDNN writes a log of each call", is_on),
    Leftover("CUDNN_FRONTEND_LOG_INFO", "cuDNN writes a log of each call", is_on),
    Leftover("TORCH_CUDNN_V8_API_DISABLED", "torch uses cuDNN's old interface, with slower plans", is_on),
    Leftover("CUBLAS_LOGINFO_DBG", "cuBLAS writes a log of each call", is_on),
    Leftover("CUBLASLT_LOG_LEVEL", "cuBLASLt writes a log of each call", is_on),
    # collectives
    _nccl("NCCL_P2P_DISABLE", "GPUs do not talk to each other directly"),
    _nccl("NCCL_P2P_LEVEL", "GPUs do not talk to each other directly", _one_of("LOC", "0")),
    _nccl("NCCL_IB_DISABLE", "collectives between machines use sockets instead of InfiniBand"),
    _nccl("NCCL_SHM_DISABLE", "processes of one machine do not use shared memory for collectives"),
    _nccl("NCCL_NVLS_ENABLE", "NVSwitch does not add up in the network: all-reduce is slower", _is_zero),
    _nccl("NCCL_NET", "collectives between machines use sockets, not the fast network", _one_of("SOCKET")),
    _nccl("NCCL_NET_GDR_LEVEL", "GPU memory does not go to the network directly", _one_of("LOC", "0")),
    _nccl("NCCL_ALGO", "NCCL cannot choose its algorithm by the size of a message", _has_text),
    _nccl("NCCL_PROTO", "NCCL cannot choose its protocol by the size of a message", _has_text),
    _nccl("NCCL_MAX_NCHANNELS", "collectives use few channels, and not all of the links", _one_of("1", "2")),
    _nccl("NCCL_CHECK_POINTERS", "NCCL checks the pointers of each call, which is slow"),
    _nccl("NCCL_DEBUG", "every process writes NCCL's log", _one_of("INFO", "TRACE", "ABORT")),
    Leftover(
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "a failed collective is not noticed: ranks hang for ever instead of stopping",
        _is_zero,
        _TORCH_NCCL_MANUAL,
    ),
    Leftover("TORCH_NCCL_BLOCKING_WAIT", "the CPU waits for every collective", is_on, _TORCH_NCCL_MANUAL),
    Leftover(
        "TORCH_NCCL_ENABLE_TIMING", "every collective records events, which costs time", is_on, _TORCH_NCCL_MANUAL
    ),
    Leftover("TORCH_NCCL_DESYNC_DEBUG", "ranks tell each other of every collective", is_on, _TORCH_NCCL_MANUAL),
    Leftover("TORCH_NCCL_NAN_CHECK", "the input of every collective is searched for NaN", is_on, _TORCH_NCCL_MANUAL),
    Leftover(
        "TORCH_NCCL_ENABLE_MONITORING", "a process that hangs in NCCL is never stopped", _is_zero, _TORCH_NCCL_MANUAL
    ),
    # Python, the C library
    Leftover("PYTHONOPTIMIZE", "assert statements, torch's own too, are switched off"),
    Leftover("PYTHONDEVMODE", "Python checks its memory and warns of everything: slow", is_on),
    Leftover(
        "PYTHONMALLOC",
        "Python checks or does not pool its memory: slow",
        _one_of("DEBUG", "MALLOC", "MALLOC_DEBUG", "PYMALLOC_DEBUG"),
    ),
    Leftover("PYTHONPROFILEIMPORTTIME", "every process prints the time of each import", is_on),
    Leftover("PYTHONVERBOSE", "every process prints each import", is_on),
    Leftover("PYTHONTRACEMALLOC", "Python keeps a stack for each allocation: slow, and with more memory", is_on),
    Leftover("PYTHONASYNCIODEBUG", "asyncio checks everything, and is slow", is_on),
    Leftover("PYTHONINSPECT", "a program that ends, or fails, waits for input: jobs hang", _has_text),
    Leftover("MALLOC_CHECK_", "the C library checks each allocation, and is slow", is_on),
    Leftover("MALLOC_PERTURB_", "the C library overwrites all memory that it hands out or takes back: slow", is_on),
    Leftover("LD_DEBUG", "the loader prints every library of every program", _has_text),
)


@check("environment.leftovers", "No debugging variable is left over")
def leftovers(context: Context) -> Iterator[Finding]:
    found = 0
    for leftover in LEFTOVERS:
        value = context.environ.get(leftover.name)
        if value is not None and leftover.matters(value) and _understood(leftover.name, value):
            found += 1
            yield leftover.fault.found(f"{leftover.name}={value} is set")
    if not found:
        yield passed(f"none of {len(LEFTOVERS)} is set")


@dataclass(frozen=True)
class Setting:
    """A variable that must hold one of some values; others have this ``effect``."""

    name: str
    valid: Callable[[str], bool]
    expected: str
    effect: str
    verdict: Literal["fail", "warn"] = "warn"
    fault: Fault = field(init=False)

    def __post_init__(self) -> None:
        named = fault(
            f"environment.values.{slug(self.name)}",
            self.verdict,
            f"{self.name} holds a value that is not understood",
            cause=f"it must be {self.expected}: {self.effect}",
            fix=f"unset {self.name}",
            script=f"unset {self.name}",
        )
        object.__setattr__(self, "fault", named)


def _understood(name: str, value: str) -> bool:
    return all(setting.valid(value) for setting in SETTINGS if setting.name == name)


def _names(*names: str) -> Callable[[str], bool]:
    return lambda value: value.strip().lower() in {name.lower() for name in names}


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value.strip(), re.IGNORECASE) is not None


def _between(low: int, high: int) -> Callable[[str], bool]:
    return lambda value: value.strip().isascii() and value.strip().isdigit() and low <= int(value) <= high


_ALGORITHMS = r"\^?(?:Tree|Ring|CollNet|CollNetDirect|CollNetChain|NVLS|NVLSTree|PAT)"
_PROTOCOLS = r"\^?(?:LL|LL128|Simple)"


def _choices(names: str) -> Callable[[str], bool]:
    """``ring,tree`` or ``allreduce:tree;broadcast:ring``, as NCCL reads it."""
    return _matches(rf"(?:(?:\w+:)?{names}(?:,{names})*;?)+")


SETTINGS = (
    Setting(
        "TORCH_DISTRIBUTED_DEBUG", _names("OFF", "INFO", "DETAIL"), "OFF, INFO or DETAIL", "import torch raises", "fail"
    ),
    Setting(
        "TORCH_CPP_LOG_LEVEL",
        _names("INFO", "WARNING", "ERROR", "FATAL", "0", "1", "2", "3"),
        "INFO, WARNING, ERROR or FATAL",
        "torch ignores it",
    ),
    Setting(
        "ATEN_CPU_CAPABILITY",
        _names("default", "avx2", "avx512", "avx512_vnni", "amx", "sve", "sve256", "vsx", "zvector"),
        "default, avx2 or avx512",
        "torch warns and ignores it",
    ),
    Setting("TORCHINDUCTOR_COMPILE_THREADS", _between(0, 4096), "a number", "torch.compile raises ValueError", "fail"),
    Setting(
        "NCCL_DEBUG",
        _names("VERSION", "WARN", "INFO", "ABORT", "TRACE", "NONE"),
        "VERSION, WARN, INFO or TRACE",
        "NCCL writes no log",
    ),
    Setting(
        "NCCL_ALGO",
        _choices(_ALGORITHMS),
        "a list of Ring, Tree, CollNetDirect, CollNetChain, NVLS, NVLSTree",
        "NCCL ignores it, or fails to initialise",
    ),
    Setting(
        "NCCL_PROTO", _choices(_PROTOCOLS), "a list of LL, LL128, Simple", "NCCL ignores it, or fails to initialise"
    ),
    Setting(
        "NCCL_P2P_LEVEL",
        _names("LOC", "NVL", "C2C", "PIX", "PXB", "PXN", "PHB", "SYS", *map(str, range(10))),
        "LOC, NVL, PIX, PXB, PHB or SYS",
        "NCCL ignores it",
    ),
    Setting("NCCL_P2P_DISABLE", _matches(r"-?\d*"), "0 or 1", "NCCL reads a number, and ignores anything else"),
    Setting("NCCL_IB_DISABLE", _matches(r"-?\d*"), "0 or 1", "NCCL reads a number, and ignores anything else"),
    Setting("NCCL_SHM_DISABLE", _matches(r"-?\d*"), "0 or 1", "NCCL reads a number, and ignores anything else"),
    Setting(
        "CUDA_DEVICE_ORDER",
        _names("FASTEST_FIRST", "PCI_BUS_ID"),
        "FASTEST_FIRST or PCI_BUS_ID",
        "CUDA ignores it, and numbers GPUs otherwise than nvidia-smi",
    ),
    Setting("CUDA_MODULE_LOADING", _names("EAGER", "LAZY", "DEFAULT"), "LAZY or EAGER", "CUDA ignores it"),
    Setting("CUDA_DEVICE_MAX_CONNECTIONS", _between(1, 32), "a number from 1 to 32", "CUDA ignores it"),
    Setting(
        "CUBLAS_WORKSPACE_CONFIG",
        _matches(r"(?::\d+:\d+)+"),
        ":4096:8 or :16:8",
        "torch refuses deterministic algorithms",
    ),
    Setting(
        "OMP_PROC_BIND",
        _matches(r"(?:true|false|primary|master|close|spread)(?:,(?:primary|master|close|spread))*"),
        "true, false, close or spread",
        "the OpenMP library ignores it",
    ),
    Setting("OMP_WAIT_POLICY", _names("active", "passive"), "active or passive", "the OpenMP library ignores it"),
    Setting(
        "MKL_THREADING_LAYER",
        _names("INTEL", "GNU", "TBB", "PGI", "SEQUENTIAL"),
        "INTEL, GNU, TBB or SEQUENTIAL",
        "MKL ignores it, or stops",
    ),
    Setting(
        "WANDB_MODE",
        _names("online", "offline", "disabled", "shared", "dryrun", "run"),
        "online, offline or disabled",
        "wandb.init raises",
    ),
)


@check("environment.values", "Variables hold values that are understood")
def values(context: Context) -> Iterator[Finding]:
    found = 0
    for setting in SETTINGS:
        value = context.environ.get(setting.name)
        if value and not setting.valid(value):
            found += 1
            yield setting.fault.found(f"{setting.name}={value} is not {setting.expected}")
    if not found:
        names = [setting.name for setting in SETTINGS if setting.name in context.environ]
        yield passed(f"{', '.join(names)} understood" if names else f"none of {len(SETTINGS)} is set")
