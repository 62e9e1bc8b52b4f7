"""How a workload can be executed: modes, spelled ``compile+bf16``. What they do is in ``llmbench/worker/modes``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from llmbench.errors import UserError, nearest


@dataclass(frozen=True)
class Mode:
    """One ingredient of a mode.

    Attributes:
        axis: of two ingredients of one axis only one can be chosen.
        needs: what it needs to run, in words; the worker checks it on the machine.
        parity: largest relative difference of the (smoothed) loss curve from eager fp32 that the arithmetic explains.
    """

    name: str
    axis: Literal["precision", "compile"]
    title: str
    needs: str
    parity: float


# In the order in which they are spelled. Limits of parity: rounding differs by about 2^-24 in fp32 and 2^-8 in bf16,
# and a training run amplifies it, the more the longer it is; how much is too much is a judgement.
MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "compile",
            "compile",
            "torch.compile with inductor",
            "a C++ compiler and Python headers on the CPU; triton and a C compiler on CUDA",
            1e-3,
        ),
        Mode("bf16", "precision", "bfloat16 autocast, fp32 weights", "any device; fast where bf16 is native", 1e-2),
    )
}
EAGER = "eager"


def canonical(name: str) -> str:
    """The mode's one spelling: ``bf16+compile`` → ``compile+bf16``.

    Raises:
        UserError: an unknown ingredient (the nearest is suggested), or two that exclude each other.
    """
    parts = [part.strip() for part in name.split("+")]
    if parts == [EAGER]:
        return EAGER
    for part in parts:
        if part == EAGER:
            raise UserError(f"mode {name!r}: eager means no other mode; it cannot be combined", "leave one of them out")
        if part not in MODES:
            raise UserError(f"mode {name!r}: unknown mode {part!r}", nearest(part, [EAGER, *MODES]))
    chosen: dict[str, str] = {}
    for part in parts:
        axis = MODES[part].axis
        if axis in chosen:
            raise UserError(f"mode {name!r}: {chosen[axis]} and {part} are both a choice of {axis}", "take one of them")
        chosen[axis] = part
    return "+".join(part for part in MODES if part in parts)


def combinations() -> list[str]:
    """Every mode there can be: of each axis one ingredient, or none."""
    axes = dict.fromkeys(mode.axis for mode in MODES.values())
    choices = [["", *(name for name, mode in MODES.items() if mode.axis == axis)] for axis in axes]
    return [canonical("+".join(filter(None, chosen)) or EAGER) for chosen in product(*choices)]


def ingredients(name: str) -> list[str]:
    """The parts of a canonical mode; none for eager."""
    return [] if name == EAGER else name.split("+")


def parity_limit(name: str) -> float:
    """Largest relative difference of the loss curve from eager fp32 that the mode's arithmetic explains."""
    return max((MODES[part].parity for part in ingredients(name)), default=0.0)
