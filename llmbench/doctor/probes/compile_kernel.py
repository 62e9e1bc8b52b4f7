"""A small block through torch.compile, against eager code in fp64, on the CPU and on the first GPU.

For each device, its results so far are reported after each step: forward, backward, dynamic shapes, and once more from
a warm cache. The cache folder must be a fresh one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

WIDTH = 32


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    torch.set_float32_matmul_precision("highest")
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        found: dict = {}
        for name, step in (("forward", forward), ("backward", backward), ("dynamic", dynamic), ("warm", warm)):
            yield {"at": [device, name]}
            started = time.perf_counter()
            found[name] = {**step(torch, device), "seconds": time.perf_counter() - started}
            yield {device: found}
    from torch._inductor import cpu_vec_isa

    yield {"vector": str(cpu_vec_isa.pick_vec_isa())}


def block(torch: Any) -> Callable[..., Any]:
    """A new function each time: what one step compiled must not serve the next."""

    def function(x: Any, weight: Any) -> Any:
        hidden = torch.nn.functional.layer_norm(x @ weight, (WIDTH,))
        return torch.softmax(torch.nn.functional.gelu(hidden), -1) * 2 + torch.sin(x)

    return function


def inputs(torch: Any, device: str, rows: int = 16, dtype: Any = None) -> tuple:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
    return tuple(t.to(device, dtype or torch.float32).requires_grad_() for t in (x, weight))


def reference(torch: Any, rows: int = 16) -> tuple:
    """Values and gradients in fp64, of the inputs as fp32 holds them."""
    x, weight = (t.detach().double().requires_grad_() for t in inputs(torch, "cpu", rows))
    with torch.enable_grad():
        value = block(torch)(x, weight)
        return value, torch.autograd.grad((value**2).sum(), (x, weight))


def off_by(torch: Any, found: Any, expected: Any) -> float:
    """Largest error, as a share of the largest value. A NaN counts as infinitely wrong."""
    error = float((found.detach().cpu().double() - expected.detach()).abs().max() / expected.detach().abs().max())
    return error if error == error else 1e308


def forward(torch: Any, device: str) -> dict:
    with torch.no_grad():
        value = torch.compile(block(torch))(*inputs(torch, device))
    return {"error": off_by(torch, value, reference(torch)[0]), **made(device)}


def backward(torch: Any, device: str) -> dict:
    x, weight = inputs(torch, device)
    value = torch.compile(block(torch))(x, weight)
    found = torch.autograd.grad((value**2).sum(), (x, weight))
    expected = reference(torch)[1]
    return {"error": max(off_by(torch, found[i], expected[i]) for i in range(2))}


def dynamic(torch: Any, device: str) -> dict:
    """Three sizes through one compilation."""
    before = made(device)["graphs"]
    compiled = torch.compile(block(torch), dynamic=True)
    with torch.no_grad():
        errors = [
            off_by(torch, compiled(*inputs(torch, device, rows)), reference(torch, rows)[0]) for rows in (16, 24, 40)
        ]
    return {"error": max(errors), "graphs": made(device)["graphs"] - before}


def warm(torch: Any, device: str) -> dict:
    """The forward again, as a new process would find it: from the cache on disk."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    before = counters["inductor"].get("fxgraph_cache_hit", 0)
    found = forward(torch, device)
    return {"error": found["error"], "hits": counters["inductor"].get("fxgraph_cache_hit", 0) - before}


def made(device: str) -> dict:
    """How many graphs were compiled, and how many libraries the compilers made: none means that nothing was."""
    from torch._dynamo.utils import counters

    ending = ".so" if device == "cpu" else ".cubin"
    names = [name for _, _, files in os.walk(os.environ["TORCHINDUCTOR_CACHE_DIR"]) for name in files]
    return {
        "graphs": counters["stats"].get("unique_graphs", 0),
        "libraries": sum(name.endswith(ending) for name in names),
    }
