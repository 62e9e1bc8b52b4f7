"""Operators that training is made of: `pytest suites/ --benchmark-only`.

Letters in shapes are dimensions: B batch, H heads, T positions, E width of a head, N rows, D width, V vocabulary.
Bytes are those of operands and results, each moved once: what a perfect kernel would move.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES, DTYPES, clock, combinations, describe, random_tensor
from ranks import Ranks

from llmbench.suite.workloads import FAMILIES
from llmbench.worker.models.gpt import GPT, GPTConfig

B, H, E = 4, 4, 64
D = 1024


@pytest.mark.benchmark(group="matmul", timer=clock)
@pytest.mark.parametrize(
    ("device", "dtype", "size"), combinations({"cpu": (256, 512, 1024), "cuda": (1024, 4096, 8192)})
)
def test_matmul(benchmark: Any, device: str, dtype: str, size: int) -> None:
    """(size, size) @ (size, size): 2 size³ FLOPs."""
    left = random_tensor(size, size, device=device, dtype=dtype)
    right = random_tensor(size, size, device=device, dtype=dtype)
    describe(benchmark, device, dtype, [size, size, size], flops=2 * size**3)
    benchmark(torch.matmul, left, right)


def attention_operands(device: str, dtype: str, length: int, gradient: bool) -> list[torch.Tensor]:
    return [random_tensor(B, H, length, E, device=device, dtype=dtype, gradient=gradient) for _ in range(3)]


ATTENTION = combinations({"cpu": (128, 512), "cuda": (1024, 4096)})


@pytest.mark.benchmark(group="attention, forward", timer=clock)
@pytest.mark.parametrize(("device", "dtype", "length"), ATTENTION)
def test_attention_forward(benchmark: Any, device: str, dtype: str, length: int) -> None:
    """Causal, by the kernel that torch chooses. Two products of 2 BHT²E FLOPs; the causal half is not taken off."""
    query, key, value = attention_operands(device, dtype, length, gradient=False)
    describe(benchmark, device, dtype, [B, H, length, E], flops=4 * B * H * length**2 * E, causal=True)
    benchmark(F.scaled_dot_product_attention, query, key, value, is_causal=True)


@pytest.mark.benchmark(group="attention, forward and backward", timer=clock)
@pytest.mark.parametrize(("device", "dtype", "length"), ATTENTION)
def test_attention_backward(benchmark: Any, device: str, dtype: str, length: int) -> None:
    """The backward pass has four such products; what a fused kernel computes again does not count."""
    operands = attention_operands(device, dtype, length, gradient=True)
    upstream = random_tensor(B, H, length, E, device=device, dtype=dtype)
    describe(benchmark, device, dtype, [B, H, length, E], flops=12 * B * H * length**2 * E, causal=True)

    def forward_and_backward() -> None:
        result = F.scaled_dot_product_attention(*operands, is_causal=True)
        torch.autograd.grad(result, operands, upstream)

    benchmark(forward_and_backward)


@pytest.mark.benchmark(group="layer norm, forward and backward", timer=clock)
@pytest.mark.parametrize(("device", "dtype", "rows"), combinations({"cpu": (1024, 4096), "cuda": (8192, 65536)}))
def test_layer_norm(benchmark: Any, device: str, dtype: str, rows: int) -> None:
    """Four tensors of (N, D): input, output, and the gradient of each."""
    x = random_tensor(rows, D, device=device, dtype=dtype, gradient=True)
    gain, bias = (random_tensor(D, device=device, dtype=dtype, gradient=True) for _ in range(2))
    upstream = random_tensor(rows, D, device=device, dtype=dtype)
    describe(benchmark, device, dtype, [rows, D], bytes=4 * x.nbytes)

    def forward_and_backward() -> None:
        torch.autograd.grad(F.layer_norm(x, (D,), gain, bias), (x, gain, bias), upstream)

    benchmark(forward_and_backward)


@pytest.mark.benchmark(group="cross-entropy, forward and backward", timer=clock)
@pytest.mark.parametrize(("device", "dtype", "vocabulary"), combinations({"cpu": (1024, 8192), "cuda": (8192, 50304)}))
def test_cross_entropy(benchmark: Any, device: str, dtype: str, vocabulary: int) -> None:
    """Of logits (N, V), summed in fp32 as the models do. Two tensors of (N, V): logits and their gradient."""
    rows = 512 if device == "cpu" else 8192
    logits = random_tensor(rows, vocabulary, device=device, dtype=dtype, gradient=True)
    targets = torch.randint(vocabulary, (rows,), device=device)
    describe(benchmark, device, dtype, [rows, vocabulary], bytes=2 * logits.nbytes)

    def forward_and_backward() -> None:
        torch.autograd.grad(F.cross_entropy(logits.float(), targets), logits)

    benchmark(forward_and_backward)


@pytest.mark.benchmark(group="AdamW step", timer=clock)
@pytest.mark.parametrize("implementation", ["for-loop", "foreach", "fused"])
@pytest.mark.parametrize("device", DEVICES)
def test_adamw_step(benchmark: Any, device: str, implementation: str) -> None:
    """Of gpt-tiny on the CPU, gpt-124m on CUDA. Reads weight, gradient and two moments, writes all but the gradient."""
    size = FAMILIES["gpt"].sizes["tiny" if device == "cpu" else "124m"]
    parameters = list(GPT(GPTConfig(**size.model)).to(device).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-5, foreach=implementation == "foreach", fused=implementation == "fused"
    )
    elements = sum(parameter.numel() for parameter in parameters)
    describe(benchmark, device, "fp32", [elements], bytes=7 * 4 * elements, tensors=len(parameters))
    benchmark(optimizer.step)


RANKS = Ranks(world_size=2)


@pytest.fixture(params=["gloo", "nccl"], scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Ranks that wait for requests, with this backend."""
    found = torch.cuda.device_count()
    if request.param == "nccl" and found < RANKS.world_size:
        pytest.skip(f"NCCL needs a CUDA device for each of {RANKS.world_size} ranks, and there are {found}")
    with RANKS.start(request.param):
        yield request.param


MESSAGES = {"4KiB": 2**12, "256KiB": 2**18, "16MiB": 2**24}


# A round asks the ranks once, which costs about 0.1 ms: it shall be lost in a round of 50.
@pytest.mark.benchmark(group="all-reduce", timer=RANKS.clock, min_time=0.05, max_time=1)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("message", MESSAGES)
def test_all_reduce(benchmark: Any, backend: str, message: str, dtype: str) -> None:
    """The sum of a tensor over two ranks. Bus bytes are 2 (n - 1) / n of the tensor's (NCCL's performance notes)."""
    size = MESSAGES[message]
    elements = size // DTYPES[dtype].itemsize
    RANKS.prepare(elements, str(DTYPES[dtype]).removeprefix("torch."))
    n = RANKS.world_size
    describe(
        benchmark,
        "cuda" if backend == "nccl" else "cpu",
        dtype,
        [elements],
        bus_bytes=2 * (n - 1) / n * size,
        bytes=size,
        world_size=n,
        threads=RANKS.threads,
    )
    benchmark(RANKS.all_reduce)
