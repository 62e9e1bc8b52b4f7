"""Settings of torch's memory allocator, names of variables, and what is switched offline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Literal

from llmbench.doctor.checks.environment_leftovers import assignments
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context
from llmbench.doctor.variables import misspelled
from llmbench.results.redact import is_secret_name

BAD_OPTION = fault(
    "environment.allocator.option",
    "fail",
    "The settings of torch's memory allocator hold an unknown name",
    cause="torch raises 'Unrecognized key' when it first uses a GPU, also for options that this version does not "
    "know yet",
    fix="export <variable>=<meant>",
    link="https://docs.pytorch.org/docs/stable/notes/cuda.html",
)
BAD_VALUE = fault(
    "environment.allocator.value",
    "fail",
    "The settings of torch's memory allocator hold a value that torch does not take",
    cause="torch raises when it first uses a GPU",
    fix="write <option>:<expected>, or unset <variable>",
    link="https://docs.pytorch.org/docs/stable/notes/cuda.html",
)
TWO_SETTINGS = fault(
    "environment.allocator.two",
    "warn",
    "torch's memory allocator has two settings that differ",
    cause="which of the two counts depends on the version of torch",
    fix="unset PYTORCH_CUDA_ALLOC_CONF, and keep PYTORCH_ALLOC_CONF (torch before 2.9: the other way round)",
    link="https://github.com/pytorch/pytorch/issues/183387",
)
_BOOLEAN = (r"True|False", "True (spelled so) or False")
_WHOLE = (r"\d+", "a number")
_ALLOCATOR = {
    "max_split_size_mb": (r"[2-9]\d|\d{3,}", "a number of at least 20"),
    "max_non_split_rounding_mb": (r"[2-9]\d|\d{3,}", "a number of at least 20"),
    "large_segment_size_mb": _WHOLE,
    "garbage_collection_threshold": (r"0?\.\d*[1-9]\d*", "a number between 0 and 1"),
    "roundup_power2_divisions": (r"\d+|\[.*\]", "a power of two, or a list such as [256:1,512:2,>:4]"),
    "backend": (r"native|cudaMallocAsync|hipMallocAsync", "native or cudaMallocAsync"),
    "expandable_segments": _BOOLEAN,
    "release_lock_on_cudamalloc": _BOOLEAN,
    "release_lock_on_hipmalloc": _BOOLEAN,
    "throw_on_cudamalloc_oom": _BOOLEAN,
    "per_process_memory_fraction": (r"0?\.\d*[1-9]\d*|1(?:\.0*)?", "a number between 0 and 1"),
    "pinned_use_cuda_host_register": _BOOLEAN,
    "pinned_use_hip_host_register": _BOOLEAN,
    "pinned_use_background_threads": _BOOLEAN,
    "pinned_num_register_threads": (r"1|2|4|8|16|32|64|128", "a power of two up to 128"),
    "pinned_reserve_segment_size_mb": _WHOLE,
    "graph_capture_record_stream_reuse": _BOOLEAN,
}
"""The options that torch 2.0 to 2.13 knows, with the pattern of their values."""


@check("environment.allocator", "The settings of torch's memory allocator are understood")
def allocator(context: Context) -> Iterator[Finding]:
    """Reads them as torch does when it first uses a GPU."""
    names = [
        n for n in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF") if context.environ.get(n)
    ]
    found = [finding for name in names for finding in _allocator(name, context.environ[name])]
    both = [context.environ[name].replace(" ", "") for name in names if name != "PYTORCH_HIP_ALLOC_CONF"]
    if len(set(both)) > 1:
        found.append(TWO_SETTINGS.found(assignments(context.environ, names)))
    yield from found
    if not found:
        yield passed(assignments(context.environ, names) if names else "PYTORCH_ALLOC_CONF is not set")


def _allocator(variable: str, text: str) -> Iterator[Finding]:
    # Without a GPU nothing reads them, and nothing breaks yet.
    verdict: Literal["fail", "warn"] = "fail" if nvidia_devices() else "warn"
    for part in re.split(r",(?![^\[]*\])", text.replace(" ", "")):
        option, colon, value = part.partition(":")
        if not part:
            continue
        if option not in _ALLOCATOR:
            meant = next(iter(get_close_matches(re.split(r"[=:]", option)[0], _ALLOCATOR, n=1)), None)
            hint = f"; {meant} is meant" if meant else ""
            yield BAD_OPTION.found(
                f"{variable}={text}: torch knows no option {option!r}{hint}",
                verdict=verdict,
                fix=None if meant else f"unset {variable}",
                variable=variable,
                meant=f"{meant}:{_example(meant)}" if meant else "",
            )
        elif not colon or not re.fullmatch(_ALLOCATOR[option][0], value):
            yield BAD_VALUE.found(
                f"{variable}={text}: {option} must be {_ALLOCATOR[option][1]}, not {value!r}",
                verdict=verdict,
                option=option,
                expected=_ALLOCATOR[option][1],
                variable=variable,
            )


def _example(option: str) -> str:
    expected = _ALLOCATOR[option]
    return "True" if expected is _BOOLEAN else "512" if option.endswith("_mb") else "<value>"


MISSPELLED = fault(
    "environment.names.misspelled",
    "warn",
    "A variable is nearly one that training reads, but nothing reads this one",
    cause="it is misspelled, and has no effect",
    fix="unset <name>, and set <meant> instead if it is still wanted",
)
RENAMED = fault(
    "environment.names.renamed",
    "warn",
    "A variable has another name now",
    cause="newer versions of torch warn of it, and will ignore it",
    fix='export <meant>="$<name>"; unset <name>',
    link="https://docs.pytorch.org/docs/main/torch_nccl_environment_variables.html",
)
IDLE = fault(
    "environment.names.idle",
    "warn",
    "A variable that nothing reads is set",
    cause="no such variable was ever read, or no longer is: <instead>",
    fix="unset <name>; <instead>",
)
_RENAMED = {
    "NCCL_ASYNC_ERROR_HANDLING": "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "NCCL_BLOCKING_WAIT": "TORCH_NCCL_BLOCKING_WAIT",
    "NCCL_DESYNC_DEBUG": "TORCH_NCCL_DESYNC_DEBUG",
    "NCCL_ENABLE_TIMING": "TORCH_NCCL_ENABLE_TIMING",
    "NCCL_HIGH_PRIORITY": "TORCH_NCCL_HIGH_PRIORITY",
    "NCCL_DUMP_ON_TIMEOUT": "TORCH_NCCL_DUMP_ON_TIMEOUT",
    "TORCH_HUB": "TORCH_HOME",
    "TORCH_MODEL_ZOO": "TORCH_HOME",
    "NCCL_IB_GDR_LEVEL": "NCCL_NET_GDR_LEVEL",
    "HUGGINGFACE_HUB_CACHE": "HF_HUB_CACHE",
}
_IDLE = {
    "NCCL_TIMEOUT": "set the timeout with init_process_group(timeout=…)",
    "NCCL_TIMEOUT_MS": "set the timeout with init_process_group(timeout=…)",
    "NCCL_SOCKET_TIMEOUT": "set the timeout with init_process_group(timeout=…)",
    "TORCH_NCCL_TIMEOUT": "set the timeout with init_process_group(timeout=…)",
    "TORCH_DISTRIBUTED_TIMEOUT": "set the timeout with init_process_group(timeout=…)",
    "NCCL_RINGS": "NCCL finds its rings since 2.5",
    "NCCL_LL_THRESHOLD": "NCCL chooses by itself since 2.5; NCCL_PROTO and NCCL_ALGO overrule it",
    "NCCL_TREE_THRESHOLD": "NCCL chooses by itself since 2.5; NCCL_PROTO and NCCL_ALGO overrule it",
    "TORCH_USE_CUDA_DSA": "torch itself must be built with it",
    "PYTORCH_CUDA_MEMORY_FRACTION": "call torch.cuda.set_per_process_memory_fraction",
    "MKL_DEBUG_CPU_TYPE": "MKL ignores it since 2020.1",
}  # fmt: skip


@check("environment.names", "Names of variables are spelled right")
def names(context: Context) -> Iterator[Finding]:
    """Compares the names that are set with those that torch, CUDA, NCCL and others read. Values are not looked at."""
    known = {*_RENAMED, *_IDLE}
    wrong = misspelled(name for name in sorted(context.environ) if name not in known and not is_secret_name(name))
    for name, meant in wrong.items():
        yield MISSPELLED.found(f"{name} is set, which nothing reads; {meant} is meant", name=name, meant=meant)
    renamed = [name for name in _RENAMED if name in context.environ]
    for name in renamed:
        meant = _RENAMED[name]
        yield RENAMED.found(f"{name} is set; it is called {meant} now", name=name, meant=meant)
    idle = [name for name in _IDLE if name in context.environ]
    for name in idle:
        yield IDLE.found(f"{name} is set, which nothing reads: {_IDLE[name]}", name=name, instead=_IDLE[name])
    if not (wrong or renamed or idle):
        yield passed(f"{len(context.environ)} names")


OFFLINE = fault(
    "environment.offline.empty",
    "warn",
    "Hugging Face is offline, and its cache is empty",
    cause="models, tokenizers and data sets are taken from the cache only: loading any fails",
    fix="unset <names>, or fill <folder> on a machine with a connection: hf download NAME",
    link="https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables",
)


@check("environment.offline", "What is offline has what it needs")
def offline(context: Context) -> Iterator[Finding]:
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    on = [name for name in switches if context.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if not on:
        yield passed("Hugging Face may connect")
        return
    cache = _hub_cache(context.environ)
    try:
        kept = [name for name in os.listdir(cache) if name.startswith(("models--", "datasets--"))]
    except OSError:
        kept = []
    if kept:
        yield passed(f"{assignments(context.environ, on)}; {len(kept)} models and data sets in {cache}")
    else:
        yield OFFLINE.found(
            f"{assignments(context.environ, on)}, but {cache} holds no model and no data set",
            names=" ".join(on),
            folder=cache,
        )


def _hub_cache(environ: Mapping[str, str]) -> str:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return os.path.expanduser(environ[name])
    base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(environ.get("HF_HOME") or os.path.join(base, "huggingface"), "hub")
