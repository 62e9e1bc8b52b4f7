"""One small function through torch.compile, against eager. ``deep``: its backward too, and vector instructions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) * 2 + 1

    started = time.perf_counter()
    x = torch.linspace(-3, 3, 1001, requires_grad=arguments["deep"])
    compiled = torch.compile(function)
    value = compiled(x)
    errors = [(value - function(x)).detach().abs().max().item()]
    if arguments["deep"]:
        (gradient,) = torch.autograd.grad(value.sum(), x)
        errors.append((gradient - 2 * torch.cos(x)).detach().abs().max().item())
    seconds = time.perf_counter() - started

    from torch._dynamo.utils import counters

    yield {
        "seconds": seconds,
        # A NaN would pass any comparison that asks whether it is too large.
        "error": max(errors) if all(error == error for error in errors) else 1e308,
        "graphs": counters["stats"].get("unique_graphs", 0),
        "libraries": libraries(os.environ["TORCHINDUCTOR_CACHE_DIR"]),
    }
    if arguments["deep"]:
        from torch._inductor import cpu_vec_isa

        yield {"vector": str(cpu_vec_isa.pick_vec_isa())}


def libraries(folder: str) -> int:
    """How many shared libraries the compiler made: none means that nothing was compiled."""
    return sum(name.endswith(".so") for _, _, names in os.walk(folder) for name in names)
