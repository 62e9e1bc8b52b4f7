"""With --deep: the arithmetic of each dtype, layer, optimizer and attention backend, on each device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.numerics import PATCHED, REINSTALL, load
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.runner import Context
from llmbench.doctor.system import usable_cpus


def _deep(part: str, what: str, title: str) -> tuple[Fault, Fault]:
    wrong = fault(
        f"numerics.{part}.wrong",
        "fail",
        title,
        cause=f"{what} computes wrong values on <device>: training with it is wrong. A GPU "
        f"may be faulty, or a library (cuBLAS, cuDNN, oneDNN) has a bug or is of another version; else {PATCHED}",
        fix=f"on a GPU: dcgmi diag -r 3, and take the GPU out of service if it fails; else {REINSTALL}",
    )
    breaks = fault(
        f"numerics.{part}.breaks",
        "fail",
        f"{what} breaks",
        cause=f"{what} fails where every device must be able to do it: so will training. A library that "
        "torch calls is broken or of another version, or the device is faulty",
        fix=f"on a GPU: nvidia-smi, and the kernel log (dmesg | grep -i xid); else {REINSTALL}",
    )
    return wrong, breaks


_DEEP = {
    part: _deep(part, what, title)
    for part, what, title in (
        ("matmul", "matmul", "The matmul of a dtype is wrong"),
        ("convolution", "convolution", "Convolutions are wrong"),
        ("attention", "scaled_dot_product_attention", "An attention backend is wrong"),
        ("layers", "a layer or a loss", "A layer or a loss is wrong"),
        ("optimizer", "an optimizer", "An optimizer is wrong"),
        ("determinism", "the same computation, repeated,", "The same computation gives other results"),
    )
}


@check("numerics.matmul", "Each dtype's matmul is right", deadline=120, needs=("numerics.tensor",), deep=True)
def matmul(context: Context) -> Iterator[Finding]:
    yield from _judged(context, "matmul")


@check("numerics.convolution", "Convolutions are right", deadline=180, needs=("numerics.tensor",), deep=True)
def convolution(context: Context) -> Iterator[Finding]:
    yield from _judged(context, "convolution")


@check("numerics.attention", "Each attention backend is right", deadline=180, needs=("numerics.tensor",), deep=True)
def attention(context: Context) -> Iterator[Finding]:
    yield from _judged(context, "attention")


@check("numerics.layers", "Layers and losses are right", deadline=120, needs=("numerics.tensor",), deep=True)
def layers(context: Context) -> Iterator[Finding]:
    yield from _judged(context, "layers")


@check("numerics.optimizer", "Optimizers follow their recursions", deadline=180, needs=("numerics.tensor",), deep=True)
def optimizer(context: Context) -> Iterator[Finding]:
    yield from _judged(context, "optimizer")


@check(
    "numerics.determinism",
    "The same computation gives the same bits",
    deadline=120,
    needs=("numerics.tensor",),
    deep=True,
)
def determinism(context: Context) -> Iterator[Finding]:
    yield from _judged(context, "determinism")


def _judged(context: Context, part: str) -> Iterator[Finding]:
    """A finding per device: the cases that are wrong, or how near to their bounds all came, and what it lacks."""
    outcome = context.torch_probe("numerics_deep", {"part": part})
    for device, cases in outcome.answer.items():
        wrong = {name: share for name, share in cases.items() if not isinstance(share, dict) and not share <= 1}
        if wrong:
            shown = ", ".join(f"{name} {share:.3g} times" for name, share in wrong.items())
            yield _DEEP[part][0].found(f"on {device}, off by more than the format allows: {shown}", device=device)
        else:
            yield _all_right(device, cases)
    if outcome.timed_out:
        yield skipped(f"{part} {outcome.ending}; load {load()} on {usable_cpus()} CPUs: this machine is slow or busy")
    elif not outcome.ok:
        where = outcome.last_words
        yield _DEEP[part][1].found(f"{part} {outcome.ending}" + (f": {where}" if where not in outcome.ending else ""))


def _all_right(device: str, cases: dict[str, Any]) -> Finding:
    shares = {name: share for name, share in cases.items() if not isinstance(share, dict)}
    lacking = [name for name in cases if name not in shares]
    nearest = max(shares, key=lambda name: shares[name], default=None)
    text = f"{device}: {', '.join(shares)}"
    if nearest and shares[nearest]:
        text += f"; nearest to its bound is {nearest} ({shares[nearest]:.0%})"
    if lacking:
        text += f"; it has no {', '.join(lacking)} ({cases[lacking[0]]['skip']})"
    return passed(text)
