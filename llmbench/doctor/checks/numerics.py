"""Arithmetic of torch on the CPU against values known in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, warning
from llmbench.doctor.runner import Context
from llmbench.doctor.system import cpu_flags

_REINSTALL = "reinstall torch in a fresh environment; if it stays, test the machine's memory and CPU"


@check("numerics.tensor", "Tensor arithmetic is right", deadline=60, needs=("torch.import",))
def tensor(context: Context) -> Iterator[Finding]:
    """Runs all the arithmetic in one process; the other checks of this area read what it found."""
    outcome = context.torch_probe("numerics", {"size": 512 if context.deep else 128})
    context.facts["numerics"] = outcome.answer | {"process": "reported all" if outcome.ok else outcome.ending}
    yield _compared(context, "tensor", "matmul, sums and softmax")


@check("numerics.autograd", "Autograd is right", needs=("numerics.tensor",))
def autograd(context: Context) -> Iterator[Finding]:
    yield _compared(context, "autograd", "first and second derivatives")


@check("numerics.mse", "Gradient descent follows its closed form", needs=("numerics.tensor",))
def mse(context: Context) -> Iterator[Finding]:
    found = context.facts["numerics"].get("mse")
    if found is None:
        yield _died(context, "MSE and SGD")
    elif not found["relative_error"] <= found["limit"]:
        yield failure(
            f"MSE and weights are off by {found['relative_error']:.1e} after {found['steps']} steps of y = 3x "
            f"(limit {found['limit']:.0e})",
            "loss, gradient or optimizer compute wrong values",
            _REINSTALL,
        )
    else:
        yield passed(f"y = 3x: loss and weight of {found['steps']} steps off by {found['relative_error']:.0e} at most")


@check("numerics.nan", "NaN is not lost", needs=("numerics.tensor",))
def nan(context: Context) -> Iterator[Finding]:
    found = context.facts["numerics"].get("nan")
    if found is None:
        yield _died(context, "NaN")
    elif found["lost"]:
        yield failure(
            f"NaN is lost by {', '.join(found['lost'])}",
            "a library was built with -ffast-math, or patches torch: a diverged training looks sound",
            _REINSTALL,
        )
    else:
        yield passed("sum, max, relu, matmul, MSE and clamp pass it on")


@check("numerics.bf16", "bfloat16 matmul is right", needs=("numerics.tensor",))
def bf16(context: Context) -> Iterator[Finding]:
    yield _low_precision(context, "bf16", {"avx512_bf16", "amx_bf16"})


@check("numerics.fp16", "float16 matmul is right", needs=("numerics.tensor",))
def fp16(context: Context) -> Iterator[Finding]:
    yield _low_precision(context, "fp16", {"avx512_fp16", "amx_fp16"})


def _died(context: Context, what: str) -> Finding:
    return failure(
        f"the process that computes {what} {context.facts['numerics']['process']}",
        "torch imports, but breaks when it computes",
        _REINSTALL,
    )


def _compared(context: Context, part: str, what: str) -> Finding:
    found: dict[str, Any] | None = context.facts["numerics"].get(part)
    if found is None:
        return _died(context, what)
    if found["wrong"]:
        wrong = ", ".join(f"{name} by {error:.1e}" for name, error in found["wrong"].items())
        return failure(f"off from the closed form: {wrong}", f"torch computes wrong values in {what}", _REINSTALL)
    return passed(f"{what}: {len(found['tried'])} results as their closed forms say")


def _low_precision(context: Context, name: str, in_hardware: set[str]) -> Finding:
    found = context.facts["numerics"].get(name)
    if found is None:
        return _died(context, f"{name} matmul")
    if not found["worst_of_loose_bound"] <= 1:
        return failure(
            f"{name} matmul is off by {found['worst_of_loose_bound']:.1f} times what {name} allows at worst",
            f"the {name} matmul of this machine is wrong: training in {name} does not compute what it should",
            _REINSTALL + "; until then train in fp32",
        )
    share = found["worst_of_bound"]
    if not share <= 1:
        return warning(
            f"{name} matmul is off by {share:.1f} times the bound for sums kept in fp32",
            f"sums are kept in {name} itself, which loses precision in long dot products",
            "train in bf16 with fp32 sums, or in fp32",
        )
    flags = in_hardware & cpu_flags()
    speed = f"in hardware ({', '.join(sorted(flags))})" if flags else "in software on this CPU, so it may be slow"
    return passed(f"within {share:.0%} of the error bound; {speed}")
