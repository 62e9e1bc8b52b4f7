"""Whether a mode computes the right gradients: those of its first step against eager fp64 on the same weights and batch.

The rule is that of torch's own benchmarks (``torch._dynamo.utils.same``): the error against fp64 may be a small multiple
of the error that eager has in the same precision. It needs no tolerance for each model, as tensors whose gradient
is rounding alone have an error as large in eager. Float8 has no eager equal: there the direction must be right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter
from llmbench.worker.measure.flops import count_flops
from llmbench.worker.modes.precision import cast
from llmbench.worker.prepare import build
from llmbench.worker.tensors import fingerprint
from llmbench.worker.world import World, unwrapped, whole

Gradients = dict[str, Tensor]

# Of the error of eager in the same precision.
MULTIPLE = {"fp32": 2.0, "tf32": 3.0, "bf16": 3.0, "fp16": 3.0, "bf16-params": 3.0}
# Of the tensor's own root mean square, and of that of all: what another order of the same sums explains.
OWN = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 2e-3, "bf16-params": 2e-2}
ALL = {"fp32": 1e-6, "tf32": 1e-3, "bf16": 4e-3, "fp16": 1e-3, "bf16-params": 4e-3}
COSINE = 0.99  # of float8
FP16_SCALE = 2.0**14  # far from under- and overflow for a reference; the mode's own scaler finds its own


def measure_reference(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """The gradients of the first step in fp64, and the errors of eager against them.

    Args:
        job: as for a case, with ``precisions`` (whose error is needed) and ``gradients``: the file to write.

    Returns:
        ``weights_sha256`` and ``batches_sha256`` of what the case is to begin with, ``deterministic`` (eager fp32
        twice was bitwise the same) and ``loss`` (of the first step, in fp64).
    """
    device = Device(job["device"])
    enter(events, "reference")
    _, model, batches = build(job)
    hashes = {"weights_sha256": weights_fingerprint(model), "batches_sha256": fingerprint(*batches)}
    model = model.to(device.torch)
    batch = tuple(tensor[0].to(device.torch) for tensor in batches)
    exact, loss = _gradients(model, batch, double=True)
    first, _ = _gradients(model, batch)
    second, _ = _gradients(model, batch)
    errors = {"fp32": _errors(first, exact)}
    for precision in set(job["precisions"]) - {"fp32", "fp8"}:
        found, _ = _gradients(model, batch, precision, device)
        errors[precision] = _errors(found, exact)
    torch.save({"exact": {name: tensor.cpu() for name, tensor in exact.items()}, "errors": errors}, job["gradients"])
    same = all(torch.equal(first[name], second[name]) for name in first)
    if job.get("count_flops"):
        hashes |= count_flops(model, batch)
    return hashes | {"deterministic": same, "loss": loss}


def _gradients(
    model: nn.Module,
    batch: tuple[Tensor, ...],
    precision: str = "fp32",
    device: Device | None = None,
    double: bool = False,
) -> tuple[Gradients, float]:
    """Of an untouched copy of the model."""
    model = copy.deepcopy(model)
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    scale = 1.0
    if double:
        model = model.double()
        batch = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in batch)
    elif precision == "bf16-params":
        model = cast(model, [precision])
    elif precision in ("bf16", "fp16"):
        assert device is not None
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        context = lambda: torch.autocast(device.kind, dtype=dtype)  # noqa: E731
        scale = FP16_SCALE if precision == "fp16" else 1.0
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with context():
            loss = model(*batch)
        (loss * scale).backward()
    finally:
        torch.set_float32_matmul_precision(before)
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {name: tensor if scale == 1.0 else tensor.double() / scale for name, tensor in found.items()}, loss.item()


def _errors(found: Gradients, exact: Gradients) -> dict[str, float]:
    return {name: _rms(tensor.double() - exact[name]) for name, tensor in found.items()}


def _rms(tensor: Tensor) -> float:
    return tensor.square().mean().sqrt().item()


def weights_fingerprint(model: nn.Module) -> str:
    """sha256 of all weights, in the order of the model."""
    return fingerprint(*(parameter for _, parameter in model.named_parameters()))


def compare_gradients(model: nn.Module, world: World, file: str, precision: str) -> dict[str, Any]:
    """Holds the gradients that a model has now against the reference. All ranks must ask.

    Args:
        model: in its mode, after the backward pass of the first step, unscaled and not yet clipped.
        file: what ``measure_reference`` wrote.
        precision: of the mode: fp32, tf32, bf16, fp16, bf16-params or fp8.

    Returns:
        ``value`` and ``limit`` of the tensor that left its limit furthest, or came closest to it, its name
        ``tensor``, ``metric`` and ``passed``.
    """
    own = _compare_own(unwrapped(model).named_parameters(), world, file, precision)
    found = [each for part in world.all(own) for each in part["found"]]
    seen = {name for part in world.all(own) for name in part["seen"]}
    missing = [name for name in torch.load(file, mmap=True, weights_only=True)["exact"] if name not in seen]
    if missing:
        return {"value": None, "limit": 0.0, "tensor": missing[0], "metric": "has a gradient", "passed": False}
    metric = "1 - cosine" if precision == "fp8" else "RMS error / RMS"
    worst = max(found, key=lambda each: each["excess"])
    return {
        "value": worst["value"] if math.isfinite(worst["value"]) else None,
        "limit": worst["limit"],
        "tensor": worst["tensor"],
        "metric": f"{metric} of the gradient of the first step",
        "passed": worst["excess"] <= 1.0,
    }


def _compare_own(
    parameters: Iterable[tuple[str, nn.Parameter]], world: World, file: str, precision: str
) -> dict[str, Any]:
    reference = torch.load(file, mmap=True, weights_only=True)
    exact: Gradients = reference["exact"]
    sizes = sum(tensor.numel() for tensor in exact.values())
    all_rms = math.sqrt(sum(tensor.square().sum().item() for tensor in exact.values()) / max(1, sizes))
    found, seen = [], []
    for name, parameter in parameters:
        if parameter.grad is None or name not in exact:
            continue
        gradient = whole(parameter.grad)  # all ranks take part, also those that then need not look
        seen.append(name)
        mine, right = gradient.detach().cpu().double(), exact[name]
        found.append({"tensor": name} | _judge(mine, right, all_rms, reference["errors"], name, precision))
    return {"found": found, "seen": seen}


def _judge(
    mine: Tensor, right: Tensor, all_rms: float, errors: dict[str, dict[str, float]], name: str, precision: str
) -> dict[str, float]:
    """``value`` and ``limit`` of one tensor, relative to its size, and ``excess``: their ratio."""
    size = _rms(right)
    if precision == "fp8":
        norm = (mine.norm() * right.norm()).item()
        cosine = (mine * right).sum().item() / norm if norm else 1.0
        value, limit = 1 - cosine, 1 - COSINE
    else:
        scale = size or all_rms or 1.0
        allowed = MULTIPLE[precision] * errors[precision].get(name, 0.0) + OWN[precision] * size
        value, limit = _rms(mine - right) / scale, (allowed + ALL[precision] * all_rms) / scale
    excess = value / limit if limit else (0.0 if value == 0 else math.inf)
    return {"value": value, "limit": limit, "excess": excess if math.isfinite(value) else math.inf}
