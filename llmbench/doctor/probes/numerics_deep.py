"""What training computes, in each dtype and on each device, against fp64 or closed forms on the CPU.

Each part yields, per device, what each case is off by as a share of what its format allows: more than 1 is wrong. A
case that a device or this torch does not have tells why instead. What every device must have raises if it fails.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

SINGLE = 2.0**-24
# Sums in tensor cores are kept with fewer digits than fp32's, or cut off instead of rounded.
SUMS = 2.0**-22
FP8_SUMS = 2.0**-13
ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": SINGLE}


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    warnings.simplefilter("ignore")
    part = PARTS[arguments["part"]]
    for device in devices(torch):
        with FullPrecision(torch):
            found: dict = {}
            for name, needed, case in part(torch, device):
                torch.manual_seed(0)
                found[name] = result(case, needed)
                yield {device: found}


def devices(torch: Any) -> list:
    """The CPU, and each GPU that torch can use."""
    return ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


class FullPrecision:
    """No TF32, and no sums in half precision: the bounds of fp32 hold."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def __enter__(self) -> None:
        set_tf32(self.torch, False)
        matmul = self.torch.backends.cuda.matmul
        matmul.allow_bf16_reduced_precision_reduction = False
        matmul.allow_fp16_reduced_precision_reduction = False

    def __exit__(self, *details: object) -> None:
        set_tf32(self.torch, False)


def set_tf32(torch: Any, on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def result(case: Callable[[], Any], needed: bool) -> Any:
    """What the case gives; if it is not needed and cannot run here, why not."""
    try:
        value = case()
    except Exception as error:
        if needed:
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"skip": lines[0][:200]}
    return value if math.isfinite(value) else 1e308


def matmul(torch: Any, device: str) -> Iterator[tuple]:
    yield "whole numbers in fp64", True, lambda: exact_matmul(torch, device, torch.float64, 1000)
    yield "whole numbers in fp32", True, lambda: exact_matmul(torch, device, torch.float32, 100)
    yield "fp32", True, lambda: rounded_matmul(torch, device, torch.float32)
    yield "bf16", device == "cpu", lambda: rounded_matmul(torch, device, torch.bfloat16)
    yield "fp16", device == "cpu", lambda: rounded_matmul(torch, device, torch.float16)
    yield "complex64", True, lambda: complex_matmul(torch, device)
    if device != "cpu":
        yield "tf32", False, lambda: tf32_matmul(torch, device)
    yield "int8", False, lambda: int8_matmul(torch, device)
    yield "fp8 e4m3", False, lambda: fp8_matmul(torch, device, "float8_e4m3fn", "float8_e4m3fn")
    yield "fp8 e4m3 by e5m2", False, lambda: fp8_matmul(torch, device, "float8_e4m3fn", "float8_e5m2")


def draw(torch: Any, device: str, dtype: Any, *shape: int) -> tuple:
    """Normal numbers in the dtype on the device, and the same in fp64 on the CPU."""
    value = torch.randn(*shape, dtype=torch.float64).to(dtype)
    return value.to(device), value.double()


def exact_matmul(torch: Any, device: str, dtype: Any, largest: int) -> float:
    """Whole numbers whose sums the format holds: nothing may be rounded."""
    a, b = (torch.randint(-largest, largest + 1, (96, 96)) for _ in range(2))
    return off(torch, a.to(dtype).to(device) @ b.to(dtype).to(device), (a @ b).double(), 0.5)


def rounded_matmul(torch: Any, device: str, dtype: Any) -> float:
    (a, exact_a), (b, exact_b) = draw(torch, device, dtype, 160, 128), draw(torch, device, dtype, 128, 96)
    exact, magnitude = exact_a @ exact_b, exact_a.abs() @ exact_b.abs()
    roundoff = ROUNDOFF[str(dtype).partition(".")[2]]
    if roundoff == SINGLE:
        return off(torch, a @ b, exact, gamma(128, SUMS if device != "cpu" else SINGLE) * magnitude)
    return off(torch, a @ b, exact, roundoff * exact.abs() + (1 + roundoff) * gamma(128, SUMS) * magnitude + 1e-6)


def complex_matmul(torch: Any, device: str) -> float:
    """A complex product is four real ones: each part is a sum of twice as many."""
    a, b = (torch.randn(96, 128, dtype=torch.complex64), torch.randn(128, 96, dtype=torch.complex64))
    exact = a.to(torch.complex128) @ b.to(torch.complex128)
    magnitude = a.abs().double() @ b.abs().double()
    found = (a.to(device) @ b.to(device)).cpu().to(torch.complex128)
    return ratio((found - exact).abs() / (2 * math.sqrt(2) * gamma(256, SUMS) * magnitude))


def tf32_matmul(torch: Any, device: str) -> float:
    """Both factors keep 10 digits after the point; some hardware cuts the others off."""
    (a, exact_a), (b, exact_b) = (draw(torch, device, torch.float32, 128, 128) for _ in range(2))
    set_tf32(torch, True)
    try:
        found = a @ b
    finally:
        set_tf32(torch, False)
    magnitude = exact_a.abs() @ exact_b.abs()
    return off(torch, found, exact_a @ exact_b, (2 * 2.0**-10 + 2.0**-20 + gamma(128, SUMS)) * magnitude)


def int8_matmul(torch: Any, device: str) -> float:
    a, b = (torch.randint(-128, 128, (64, 64)) for _ in range(2))
    found = torch._int_mm(a.to(torch.int8).to(device), b.to(torch.int8).to(device))
    return off(torch, found, (a @ b).double(), 0.5)


def fp8_matmul(torch: Any, device: str, left: str, right: str) -> float:
    a = torch.randn(64, 128).to(getattr(torch, left))
    b = torch.randn(96, 128).to(getattr(torch, right))
    exact_a, exact_b = a.double(), b.double().t()
    scale = torch.ones((), device=device)
    found = torch._scaled_mm(
        a.to(device), b.to(device).t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16, use_fast_accum=False
    )
    exact, magnitude = exact_a @ exact_b, exact_a.abs() @ exact_b.abs()
    return off(torch, found, exact, 2.0**-8 * exact.abs() + gamma(128, FP8_SUMS) * magnitude)


def convolution(torch: Any, device: str) -> Iterator[tuple]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).partition(".")[2]
        for groups in (1, 8):
            label = f"{name}, {groups} groups" if groups > 1 else name
            yield label, name == "float32", lambda d=dtype, g=groups: conv2d(torch, device, d, g)


def conv2d(torch: Any, device: str, dtype: Any, groups: int) -> float:
    """Forward and both gradients. Fast algorithms (Winograd) lose a few digits more than a plain sum."""
    inputs = [draw(torch, device, dtype, 2, 16, 14, 14), draw(torch, device, dtype, 16, 16 // groups, 3, 3)]
    roundoff = ROUNDOFF[str(dtype).partition(".")[2]]
    return compare(
        torch,
        lambda x, w: torch.nn.functional.conv2d(x, w, padding=1, groups=groups),
        inputs,
        64 * roundoff if roundoff == SINGLE else 4 * roundoff,
    )


def attention(torch: Any, device: str) -> Iterator[tuple]:
    from torch.nn.attention import SDPBackend

    for name in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        backend = getattr(SDPBackend, name, None)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            label = f"{name.lower().replace('_attention', '')} {str(dtype).partition('.')[2]}"
            needed = name == "MATH" and dtype == torch.float32
            yield label, needed, lambda b=backend, d=dtype: attend(torch, device, d, b)


def attend(torch: Any, device: str, dtype: Any, backend: Any) -> float:
    """Causal attention and the gradients of queries, keys and values. In half precision the weights are rounded too."""
    from torch.nn.attention import sdpa_kernel

    if backend is None:
        raise NotImplementedError("this torch does not have it")
    inputs = [draw(torch, device, dtype, 2, 4, 96, 64) for _ in range(3)]
    roundoff = ROUNDOFF[str(dtype).partition(".")[2]]

    def attended(q: Any, k: Any, v: Any) -> Any:
        if q.dtype == torch.float64:
            return plain_attention(torch, q, k, v)
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return compare(torch, attended, inputs, 256 * roundoff if roundoff == SINGLE else 8 * roundoff)


def plain_attention(torch: Any, q: Any, k: Any, v: Any) -> Any:
    """softmax(Q K^T / sqrt(d)) V, where no query sees later keys."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), -1) @ v


def layers(torch: Any, device: str) -> Iterator[tuple]:
    functional = torch.nn.functional
    functions = {
        "layer norm": lambda x: functional.layer_norm(x, (x.shape[-1],)),
        "softmax": lambda x: torch.softmax(x * 8, -1),
        "log softmax": lambda x: torch.log_softmax(x * 8, -1),
        "gelu": functional.gelu,
        "silu": functional.silu,
        "exp": torch.exp,
        "tanh": torch.tanh,
    }
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).partition(".")[2]
        for label, function in functions.items():
            yield f"{label} {name}", name == "float32", lambda f=function, d=dtype: layer(torch, device, d, f)
    yield "cross entropy", True, lambda: cross_entropy(torch, device)
    yield "softmax of large numbers", True, lambda: large_softmax(torch, device)


def layer(torch: Any, device: str, dtype: Any, function: Callable[[Any], Any]) -> float:
    roundoff = ROUNDOFF[str(dtype).partition(".")[2]]
    limit = 64 * roundoff if roundoff == SINGLE else 8 * roundoff
    return compare(torch, function, [draw(torch, device, dtype, 32, 192)], limit)


def cross_entropy(torch: Any, device: str) -> float:
    """Of equal scores for n classes the loss is log n, and its gradient 1/n, less 1 for the right class."""
    n = 1000
    scores = torch.zeros(8, n, device=device, requires_grad=True)
    right = torch.arange(8, device=device)
    loss = torch.nn.functional.cross_entropy(scores, right, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, scores)
    expected = torch.full((8, n), 1 / n, dtype=torch.float64)
    expected[torch.arange(8), torch.arange(8)] -= 1
    value = off(torch, loss.detach(), torch.tensor(8 * math.log(n)).double(), 64 * SINGLE * 8 * math.log(n))
    return max(value, off(torch, gradient, expected, 64 * SINGLE))


def large_softmax(torch: Any, device: str) -> float:
    """Their exponentials overflow: the largest must be taken off first. Two are equal, so each is a half."""
    found = torch.softmax(torch.tensor([1e4, 1e4, -1e4], device=device), -1)
    return off(torch, found, torch.tensor([0.5, 0.5, 0.0]).double(), 4 * SINGLE)


def optimizer(torch: Any, device: str) -> Iterator[tuple]:
    yield "SGD", True, lambda: sgd(torch, device)
    for name, options in (
        ("AdamW, one by one", {"foreach": False}),
        ("AdamW, foreach", {"foreach": True}),
        ("AdamW, fused", {"fused": True}),
    ):
        yield name, "fused" not in options, lambda o=options: adamw(torch, device, o)


def sgd(torch: Any, device: str) -> float:
    """Twenty steps with momentum m: the buffer is m times itself and the gradient, which decay adds the weight to."""
    rate, momentum, decay = 0.1, 0.9, 0.01
    start = torch.linspace(-2, 2, 257, dtype=torch.float64)
    weight = torch.nn.Parameter(start.float().to(device))
    trained = torch.optim.SGD([weight], lr=rate, momentum=momentum, weight_decay=decay)
    exact, buffer = start.float().double(), torch.zeros(257).double()
    for step in range(1, 21):
        gradient = torch.cos(start * step).float()
        weight.grad = gradient.to(device)
        trained.step()
        buffer = momentum * buffer + gradient.double() + decay * exact
        exact = exact - rate * buffer
    return off(torch, weight.detach(), exact, 256 * SINGLE * exact.abs() + 1e-5)


def adamw(torch: Any, device: str, options: dict) -> float:
    """Twenty steps against the recursion of Loshchilov and Hutter (Decoupled Weight Decay Regularization) in fp64."""
    rate, beta1, beta2, epsilon, decay = 0.01, 0.9, 0.99, 1e-8, 0.1
    start = torch.linspace(-2, 2, 257, dtype=torch.float64)
    weight = torch.nn.Parameter(start.float().to(device))
    trained = torch.optim.AdamW([weight], lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=decay, **options)
    exact, mean, square = start.float().double(), torch.zeros(257).double(), torch.zeros(257).double()
    for step in range(1, 21):
        gradient = torch.cos(start * step)
        weight.grad = gradient.float().to(device)
        trained.step()
        rounded = gradient.float().double()
        mean = beta1 * mean + (1 - beta1) * rounded
        square = beta2 * square + (1 - beta2) * rounded**2
        update = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + epsilon)
        exact = exact * (1 - rate * decay) - rate * update
    return off(torch, weight.detach(), exact, 64 * SINGLE * exact.abs() + 1e-6)


def determinism(torch: Any, device: str) -> Iterator[tuple]:
    """1 stands for other bits: a share of nothing is allowed."""
    yield "the same again", True, lambda: 2.0 * (len({work(torch, device) for _ in range(4)}) > 1)
    yield "one thread as many", False, lambda: float(work(torch, device) != on_one_thread(torch, device))
    yield "seed", True, lambda: 2.0 * (seeded(torch, device) != seeded(torch, device))
    yield "dropout", True, lambda: dropout(torch, device)


def work(torch: Any, device: str) -> tuple:
    """A forward and a backward pass, as the sum of the bits of what it gives."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, 256, generator=generator).to(device)
    weight = torch.randn(256, 256, generator=generator).to(device).requires_grad_()
    loss = torch.nn.functional.layer_norm(torch.relu(x @ weight), (256,)).square().mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    return float(loss), tuple(gradient.cpu().view(torch.int32).sum(0).tolist())


def on_one_thread(torch: Any, device: str) -> tuple:
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(torch, device)
    finally:
        torch.set_num_threads(count)


def seeded(torch: Any, device: str) -> list:
    torch.manual_seed(3)
    return torch.randn(64, device=device).tolist() + torch.rand(64, device=device).tolist()


def dropout(torch: Any, device: str) -> float:
    """Of n values a share p is dropped, give or take sqrt(n p (1 - p)); the others are scaled by 1 / (1 - p)."""
    n, p = 2**16, 0.25
    found = torch.nn.functional.dropout(torch.ones(n, device=device), p).cpu()
    kept = found[found != 0]
    wrong = off(torch, kept, torch.full(kept.shape, 1 / (1 - p)).double(), 4 * SINGLE)
    return max(wrong, abs(n - len(kept) - n * p) / (6 * math.sqrt(n * p * (1 - p))))


PARTS = {
    "matmul": matmul,
    "convolution": convolution,
    "attention": attention,
    "layers": layers,
    "optimizer": optimizer,
    "determinism": determinism,
}


def compare(torch: Any, function: Callable[..., Any], inputs: list, limit: float) -> float:
    """Value and gradients against fp64 of the same inputs; each as a share of ``limit`` of its norm."""
    given = [value.detach().requires_grad_() for value, _ in inputs]
    exact = [value.detach().requires_grad_() for _, value in inputs]
    found, expected = function(*given), function(*exact)
    weight = torch.randn(expected.shape, dtype=torch.float64).to(found.dtype)
    pairs = [(found, expected)]
    gradients = torch.autograd.grad(found, given, weight.to(found.device))
    pairs += list(zip(gradients, torch.autograd.grad(expected, exact, weight.double())))  # noqa: B905  (Python 3.8)
    return max(float((a.detach().cpu().double() - b).norm() / (limit * b.norm())) for a, b in pairs)


def off(torch: Any, found: Any, exact: Any, allowed: Any) -> float:
    return ratio((found.cpu().double() - exact).abs() / allowed)


def ratio(values: Any) -> float:
    """The largest; a NaN counts as infinitely wrong."""
    worst = float(values.max())
    return worst if worst == worst else math.inf


def gamma(count: int, unit_roundoff: float) -> float:
    """Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1."""
    return count * unit_roundoff / (1 - count * unit_roundoff)
