"""Arithmetic of torch on the CPU against values known in closed form. Each group is reported as it is done."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

SHORT = 16


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    yield {"mode": mode(torch)}
    torch.manual_seed(0)
    size = arguments["size"]
    yield {"random": random_numbers(torch)}
    yield {"tensor": tensor(torch, size)}
    yield {"autograd": autograd(torch)}
    yield {"mse": mse(torch)}
    yield {"nan": nan(torch)}
    yield {"bf16": low_precision(torch, torch.bfloat16, 2.0**-8, size)}
    yield {"fp16": low_precision(torch, torch.float16, 2.0**-11, size)}


def mode(torch: Any) -> dict:
    """What a library, or code that runs before a user's, may have changed for the whole process."""
    smallest, tiny = sys.float_info.min, torch.full((8,), 1e-40)
    one, half = 1.0, sys.float_info.epsilon / 2
    # To nearest, a tie goes to the even 1.0, and three quarters of the last digit go up.
    rounded = (one + half == 1.0, one + 1.5 * half != 1.0, -one - half == -1.0, -one - 1.5 * half != -1.0)
    flushed = smallest / 2 == 0.0 or not bool((tiny * 1.0 != 0).all())
    return {
        "flushed": flushed,
        "flushing": flushing_libraries() if flushed else [],
        "to_nearest": all(rounded),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.empty(0).device),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


LARGE = 200 * 2**20
# orl $0x8040, n(%rsp) and ldmxcsr n(%rsp): the start code that -ffast-math links into a library sets FTZ and DAZ so.
SETS_FTZ = re.compile(rb"\x81[\x0c\x4c]\x24.?\x40\x80\x00\x00\x0f\xae[\x14\x54]\x24", re.DOTALL)


def flushing_libraries() -> list:
    """Loaded libraries with the start code that makes x86 flush denormals; those too large to read are left out."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(None, 5)[5].strip() for line in maps if ".so" in line}
    except OSError:
        return []
    found = []
    for path in sorted(paths):
        try:
            if os.path.getsize(path) < LARGE:
                with open(path, "rb") as file:
                    found += [path] if SETS_FTZ.search(file.read()) else []
        except OSError:
            continue
    return found


def random_numbers(torch: Any) -> dict:
    """The same seed gives the same numbers; other numbers follow; they are spread as they should be."""
    torch.manual_seed(1)
    first, second = torch.randn(4096), torch.randn(4096)
    torch.manual_seed(1)
    again = torch.randn(4096)
    return {
        "repeats": bool(torch.equal(first, again)),
        "moves": not bool(torch.equal(first, second)),
        # Means of n draws are off by 1/sqrt(n), variances by sqrt(2/n): six of that is never seen.
        "mean": abs(float(first.mean())) * 64 / 6,
        "variance": abs(float(first.var()) - 1) * 64 / math.sqrt(2) / 6,
    }


def tensor(torch: Any, size: int) -> dict:
    """(A B)_ij with A_ik = i + k and B_kj = k - j is a sum of squares: exact in fp64, and in fp32 while below 2^24."""
    n = min(size, 96)
    index = torch.arange(n)
    i, j = index[:, None].double(), index[None, :].double()
    s1, s2 = n * (n - 1) / 2, (n - 1) * n * (2 * n - 1) / 6
    expected = s2 + (i - j) * s1 - i * j * n
    wrong = {}
    for dtype in (torch.float32, torch.float64):
        a = (index[:, None] + index[None, :]).to(dtype)
        b = (index[:, None] - index[None, :]).to(dtype)
        wrong[f"matmul {dtype}"] = float((a @ b - expected.to(dtype)).abs().max())
    x = torch.arange(1, 1001, dtype=torch.float64)
    wrong["sum of 1..1000"] = abs(float(x.sum()) - 500500.0)
    wrong["sum of squares"] = abs(float((x * x).sum()) - 333833500.0)
    wrong["softmax"] = abs(float(torch.softmax(torch.tensor([0.0, math.log(3.0)], dtype=torch.float64), 0)[1]) - 0.75)
    return {"wrong": {name: error for name, error in wrong.items() if not error <= 1e-12}, "tried": list(wrong)}


def autograd(torch: Any) -> dict:
    """d(sum x^3)/dx = 3 x^2; d tanh = 1 - tanh^2; a second derivative: d^2(x^4)/dx^2 = 12 x^2."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    cube = torch.autograd.grad((x**3).sum(), x)[0]
    tanh = torch.autograd.grad(torch.tanh(x).sum(), x)[0]
    first = torch.autograd.grad((x**4).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    value = x.detach()
    errors = {
        "3x^2": cube - 3 * value**2,
        "1-tanh^2": tanh - (1 - torch.tanh(value) ** 2),
        "12x^2": second - 12 * value**2,
    }
    worst = {name: float(error.abs().max()) for name, error in errors.items()}
    return {"wrong": {name: error for name, error in worst.items() if not error <= 1e-12}, "tried": list(worst)}


def mse(torch: Any) -> dict:
    """Fit of y = 3x by gradient descent: the loss is (w-3)^2 mean(x^2); a step multiplies (w-3) by 1 - 2 lr mean(x^2).

    The step is written out: torch.optim imports all of torch.compile, which takes seconds.
    """
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    square = float((x * x).sum() / 21)
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)
    worst, steps = 0.0, 10
    for step in range(steps):
        loss = torch.nn.functional.mse_loss(w * x, 3 * x)
        expected = 9 * (1 - square) ** (2 * step) * square
        worst = max(worst, abs(loss.item() - expected) / expected)
        (gradient,) = torch.autograd.grad(loss, w)
        with torch.no_grad():
            w -= 0.5 * gradient
    expected = 3 - 3 * (1 - square) ** steps
    worst = max(worst, abs(w.item() - expected) / expected)
    return {"relative_error": worst, "steps": steps, "limit": 1e-12}


def nan(torch: Any) -> dict:
    """A NaN must come out of whatever it goes into, or a diverged training looks sound."""
    bad = torch.tensor([1.0, math.nan, 2.0])
    eye = torch.eye(3)
    lost = [
        name
        for name, value in {
            "sum": bad.sum(),
            "max": bad.max(),
            "relu": torch.relu(bad).sum(),
            "matmul": (eye @ bad).sum(),
            "mse_loss": torch.nn.functional.mse_loss(bad, torch.zeros(3)),
            "clamp": bad.clamp(0, 1).sum(),
            "inf-inf": torch.tensor(math.inf) - torch.tensor(math.inf),
        }.items()
        if not bool(torch.isnan(value))
    ]
    if bool(torch.isfinite(bad).all()):
        lost.append("isfinite")
    return {"lost": lost}


def low_precision(torch: Any, dtype: Any, unit_roundoff: float, size: int) -> dict:
    """Matmuls against fp64. Bounds: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5 and 2.4.

    The inputs are rounded first, so that they are exact. With u the unit roundoff of the format, s = 2^-24 that of fp32
    and g(k, u) = k u / (1 - k u), an element is off by at most u |c| + (1 + u) g(k, s) (|A| |B|) if sums are kept in
    fp32 and rounded once. Sums kept in the format itself are worse, but off by no more than g(k + 1, u) (|A| |B|):
    that says little for long sums, so it is asked of short ones.
    """
    tiny = torch.finfo(dtype).tiny * unit_roundoff * 2  # below the smallest normal number the error is absolute
    error, exact, magnitude = product(torch, dtype, size, size)
    rounded_once = unit_roundoff * exact.abs() + (1 + unit_roundoff) * gamma(size, 2.0**-24) * magnitude + tiny
    short_error, _, short_magnitude = product(torch, dtype, size, SHORT)
    in_format = gamma(SHORT + 1, unit_roundoff) * short_magnitude + tiny
    return {
        "size": size,
        "unit_roundoff": unit_roundoff,
        "worst_of_bound": ratio(error / rounded_once),
        "worst_of_loose_bound": ratio(short_error / in_format),
    }


def product(torch: Any, dtype: Any, size: int, inner: int) -> tuple[Any, Any, Any]:
    """A random (size, inner) times (inner, size): its error, its exact value and |A| |B|, all in fp64."""
    a = torch.randn(size, inner, dtype=torch.float64).to(dtype)
    b = torch.randn(inner, size, dtype=torch.float64).to(dtype)
    exact = a.double() @ b.double()
    return ((a @ b).double() - exact).abs(), exact, a.double().abs() @ b.double().abs()


def gamma(count: int, unit_roundoff: float) -> float:
    product = count * unit_roundoff
    return product / (1 - product) if product < 1 else math.inf


def ratio(values: Any) -> float:
    """The largest; a NaN (which JSON does not have) counts as infinitely wrong, written as a number."""
    worst = float(values.max())
    return worst if math.isfinite(worst) else 1e308
