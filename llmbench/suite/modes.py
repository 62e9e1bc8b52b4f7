"""How a workload can be executed: modes, spelled ``compile+bf16``. What they do is in ``llmbench/worker/modes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Literal

from llmbench.errors import UserError, nearest

Axis = Literal[
    "compile", "precision", "optimizer", "recompute", "accumulation", "head", "offload", "attention", "parallel"
]


@dataclass(frozen=True)
class Mode:
    """One ingredient of a mode.

    Attributes:
        axis: of two ingredients of one axis only one can be chosen.
        needs: what it needs to run, in words; the worker checks it on the machine.
        parity: largest relative difference of the (smoothed) loss curve from eager fp32 that its arithmetic explains.
    """

    name: str
    axis: Axis
    title: str
    needs: str = "nothing"
    parity: float = 1e-3


# Limits of parity: sums in another order differ by about 2^-24, in bf16 by 2^-8, and training amplifies it.
_INDUCTOR = "a C++ compiler and Python headers on the CPU; triton and a C compiler on CUDA"
_HALF = "on CUDA bf16, fp16 or bf16-params"
_ALL = (
    Mode("compile", "compile", "torch.compile with inductor, the whole model", _INDUCTOR),
    Mode("compile-blocks", "compile", "torch.compile of each block: compiles once, starts sooner", _INDUCTOR),
    Mode("reduce-overhead", "compile", "torch.compile with CUDA graphs", "CUDA, triton"),
    Mode("max-autotune", "compile", "torch.compile that tries several kernels for each product", _INDUCTOR),
    Mode("tf32", "precision", "fp32 with TF32 products", "CUDA, compute capability 8.0", 1e-2),
    Mode("bf16", "precision", "bfloat16 autocast, fp32 weights", "any device; fast where bf16 is native", 1e-2),
    Mode("fp16", "precision", "float16 autocast with a gradient scaler, fp32 weights", "any device", 1e-2),
    Mode("bf16-params", "precision", "weights, gradients and optimizer state in bfloat16", "any device", 3e-2),
    Mode("fp8", "precision", "linear layers in float8 (torchao), the rest in bf16", "CUDA 8.9, torchao", 3e-2),
    Mode("fused", "optimizer", "AdamW as one kernel over all tensors"),
    Mode("ac", "recompute", "activation checkpointing: keep only the inputs of blocks"),
    Mode("sac", "recompute", "selective checkpointing: keep outputs of products and attention"),
    Mode("accum4", "accumulation", "gradients of 4 micro-batches accumulated to one step"),
    Mode("chunked-ce", "head", "cross-entropy in chunks: never all logits at once", "a language model of llmbench"),
    Mode("cpu-offload", "offload", "activations (with fsdp: parameters and optimizer) wait in host memory", "CUDA"),
    Mode("sdpa-math", "attention", "attention as plain products", "attention"),
    Mode("sdpa-flash", "attention", "flash attention, no other kernel", _HALF),
    Mode("sdpa-cudnn", "attention", "cuDNN's attention, no other kernel", "CUDA; bf16, fp16 or bf16-params"),
    Mode("flex", "attention", "FlexAttention", "CUDA, triton; a transformer of llmbench"),
    Mode("ddp", "parallel", "DistributedDataParallel: a copy on every rank, gradients averaged"),
    Mode("fsdp", "parallel", "FSDP2: weights, gradients and optimizer state sharded"),
    Mode("hsdp", "parallel", "FSDP2 within groups of ranks, copies between them"),
    Mode("tp", "parallel", "tensor parallelism: heads and MLPs split over the ranks", "a transformer of llmbench"),
    Mode("pp", "parallel", "pipeline parallelism (1F1B): blocks split over the ranks", "a model of llmbench"),
)
MODES: dict[str, Mode] = {mode.name: mode for mode in _ALL}  # in the order in which they are spelled
EAGER = "eager"
FP32 = "fp32"  # what eager is; an alias of saying nothing

COMPOSED = (
    Mode(
        "fsdp+tp",
        "parallel",
        "2-D: tensor parallelism within groups of ranks, FSDP2 over the groups",
        "a transformer of llmbench",
    ),
)
"""Of one axis, and yet possible together."""
_TOGETHER = [frozenset(mode.name.split("+")) for mode in COMPOSED]
_REFUSED: dict[frozenset[str], str] = {
    frozenset({"pp", "accum4"}): "a pipeline splits the batch into micro-batches already",
    frozenset({"pp", "fp16"}): "each stage would scale its gradients by itself, and skip steps of its own",
    frozenset({"tp", "fp16"}): "torch's GradScaler cannot judge tensors that are split beside others that are whole",
    frozenset({"sac", "flex"}): "under selective checkpointing torch does not compile FlexAttention",
}


def canonical(name: str) -> str:
    """The mode's one spelling: ``bf16+compile`` → ``compile+bf16``, ``fp32`` → ``eager``.

    Raises:
        UserError: an unknown ingredient (the nearest is suggested), or two that exclude each other.
    """
    parts = [part.strip() for part in name.split("+")]
    if parts == [EAGER]:
        return EAGER
    for part in parts:
        if part == EAGER:
            raise UserError(f"mode {name!r}: eager means no other mode; it cannot be combined", "leave one of them out")
        if part not in MODES and part != FP32:
            raise UserError(f"mode {name!r}: unknown mode {part!r}", nearest(part, [EAGER, FP32, *MODES]))
    reason = refusal(parts)
    if reason:
        raise UserError(f"mode {name!r}: {reason}", "take one of them")
    return "+".join(part for part in MODES if part in parts) or EAGER


def refusal(parts: Sequence[str]) -> str | None:
    """Why these ingredients cannot be combined; None if they can."""
    for one, other in combinations(parts, 2):
        if one == other:
            return f"{one} is there twice"
        pair = frozenset({one, other})
        if pair in _REFUSED:
            return f"{one} and {other} exclude each other: {_REFUSED[pair]}"
        axis = _axis(one)
        if axis == _axis(other) and pair not in _TOGETHER:
            return f"{one} and {other} are both a choice of {axis}"
    return None


def _axis(part: str) -> Axis:
    return "precision" if part == FP32 else MODES[part].axis


def any_mode_matches(pattern: str) -> bool:
    """Whether a shell pattern can meet a mode: each of its parts meets an ingredient, or it is a mode's spelling."""
    if not set("*?[") & set(pattern):
        try:
            return canonical(pattern) == pattern
        except UserError:
            return False
    names = [EAGER, *MODES]
    return all(any(fnmatchcase(name, part) for name in names) for part in pattern.split("+") if part.strip("*"))


def ingredients(name: str) -> list[str]:
    """The parts of a canonical mode; none for eager."""
    return [] if name == EAGER else name.split("+")


def parallel(name: str) -> bool:
    """Whether the mode is made for several processes."""
    return any(MODES[part].axis == "parallel" for part in ingredients(name))


def compiles(name: str) -> bool:
    """Whether inductor is at work in the mode."""
    return any(MODES[part].axis == "compile" for part in ingredients(name))


def precision(name: str) -> str:
    """The ingredient that says the precision; fp32 where none does."""
    return next((part for part in ingredients(name) if MODES[part].axis == "precision"), FP32)


def arithmetic(name: str) -> str:
    """The precision of the mode's matrix products: fp32, tf32, bf16, fp16 or fp8."""
    return precision(name).removesuffix("-params")


def parity_limit(name: str) -> float:
    """Largest relative difference of the loss curve from eager fp32 that the mode's arithmetic explains."""
    return max((MODES[part].parity for part in ingredients(name)), default=0.0)


def rungs(ladder: Sequence[str]) -> list[str]:
    """The modes of a ladder: eager, then one technique more on each."""
    return [EAGER, *(canonical("+".join(ladder[: index + 1])) for index in range(len(ladder)))]
