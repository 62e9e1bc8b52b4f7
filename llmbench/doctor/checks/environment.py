"""Environment variables and the working folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, warning
from llmbench.doctor.runner import Context


def is_on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off")


def _is_zero(value: str) -> bool:
    return value.strip() == "0"


@dataclass(frozen=True)
class Leftover:
    """A variable that is set for debugging, forgotten, and then changes how everything runs."""

    name: str
    effect: str
    matters: Callable[[str], bool] = is_on


LEFTOVERS = (
    Leftover("TORCHDYNAMO_DISABLE", "torch.compile does nothing"),
    Leftover("TORCH_COMPILE_DISABLE", "torch.compile does nothing"),
    Leftover("TORCH_COMPILE_DEBUG", "every compilation writes debug files, and is slow"),
    Leftover("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "every start compiles everything again"),
    Leftover("PYTORCH_JIT", "TorchScript is switched off", _is_zero),
    Leftover("ATEN_CPU_CAPABILITY", "vectorised CPU kernels are switched off", lambda value: value == "default"),
    Leftover("TORCH_DISTRIBUTED_DEBUG", "every collective is checked, and is slow", lambda v: v.upper() == "DETAIL"),
    Leftover("CUDA_LAUNCH_BLOCKING", "every CUDA launch waits for its end"),
    Leftover("PYTORCH_NO_CUDA_MEMORY_CACHING", "every CUDA allocation goes to the driver, which is very slow"),
    Leftover("NVIDIA_TF32_OVERRIDE", "TF32 is off in every library, and fp32 matmuls are slow", _is_zero),
    Leftover("NCCL_P2P_DISABLE", "GPUs do not talk to each other directly"),
    Leftover("NCCL_IB_DISABLE", "collectives between machines use sockets instead of InfiniBand"),
    Leftover("NCCL_SHM_DISABLE", "processes of one machine do not use shared memory for collectives"),
    Leftover("PYTHONOPTIMIZE", "assert statements, torch's own too, are switched off"),
)


@check("environment.leftovers", "No debugging variable is left over")
def leftovers(context: Context) -> Iterator[Finding]:
    values = {leftover: context.environ.get(leftover.name) for leftover in LEFTOVERS}
    found = [leftover for leftover, value in values.items() if value is not None and leftover.matters(value)]
    for leftover in found:
        yield warning(
            f"{leftover.name}={values[leftover]} is set", f"with it, {leftover.effect}", f"unset {leftover.name}"
        )
    if not found:
        yield passed(f"none of {len(LEFTOVERS)} is set")


@check("environment.distributed", "No variable of another job is left over")
def distributed(context: Context) -> Iterator[Finding]:
    names = [n for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if n in context.environ]
    if not names:
        yield passed("neither RANK, WORLD_SIZE nor MASTER_ADDR is set")
        return
    shown = " ".join(f"{name}={context.environ[name]}" for name in names)
    if "TORCHELASTIC_RUN_ID" in context.environ or "SLURM_PROCID" in context.environ:
        yield passed(f"{shown}, set by the launcher of this job")
        return
    yield warning(
        f"{shown} set in this environment, but not by a launcher",
        "whatever calls init_process_group waits for ranks that nobody starts",
        f"unset {' '.join(names)}",
    )


@check("environment.libraries", "LD_PRELOAD and LD_LIBRARY_PATH lead somewhere")
def libraries(context: Context) -> Iterator[Finding]:
    preload = [part for part in context.environ.get("LD_PRELOAD", "").replace(":", " ").split() if "/" in part]
    folders = [part for part in context.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    gone = [part for part in preload if not os.path.exists(part)]
    if gone:
        yield warning(
            f"LD_PRELOAD names {gone[0]}, which does not exist",
            "every program prints an error and runs without it",
            "unset LD_PRELOAD, or install what it names",
        )
    hiding = [folder for folder in folders if os.path.exists(os.path.join(folder, "libstdc++.so.6"))]
    if not gone:
        note = f"; LD_LIBRARY_PATH provides a libstdc++.so.6 of its own in {hiding[0]}" if hiding else ""
        yield passed(f"{len(preload)} libraries preloaded, {len(folders)} library folders{note}")


@check("environment.folder", "The working folder exists")
def folder(context: Context) -> Iterator[Finding]:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        yield failure(
            "the current working directory no longer exists (it was deleted)",
            "everything that looks at a relative path fails",
            'cd "$HOME"',
        )
        return
    yield passed(here)
