"""Whether a mode computes the right gradients: those of its first step against eager fp64, same weights, same batch.

The rule is that of torch's own benchmarks (``torch._dynamo.utils.same``): the error against fp64 may be a small
multiple of the error that eager has in the same precision. It needs no tolerance for each model, as tensors whose
gradient is rounding alone have an error as large in eager. Float8 has no eager equal: there the direction must be
right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter
from llmbench.worker.measure.flops import count_flops
from llmbench.worker.modes.precision import HALF
from llmbench.worker.prepare import build
from llmbench.worker.tensors import fingerprint
from llmbench.worker.world import World, unwrapped, whole

Gradients = dict[str, Tensor]

# Of the error of eager in the same precision.
MULTIPLE = {"fp32": 2.0, "tf32": 3.0, "bf16": 3.0, "fp16": 3.0, "bf16-params": 3.0, "fp16-params": 3.0}
# Of the tensor's own root mean square, and of that of all: what another order of the same sums explains.
OWN = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 2e-3, "bf16-params": 2e-2, "fp16-params": 4e-3}
ALL = {"fp32": 1e-6, "tf32": 1e-3, "bf16": 4e-3, "fp16": 1e-3, "bf16-params": 4e-3, "fp16-params": 1e-3}
COSINE = 0.99  # of float8
FP16_SCALE = 2.0**16  # where torch's scaler begins, too


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
    exact, loss = _exact(model, batch)
    first, second = (_eager(model, batch, "fp32", device) for _ in range(2))
    errors = {"fp32": _errors(first, exact)}
    for precision in _compared(job["precisions"]):
        try:
            errors[precision] = _errors(_eager(model, batch, precision, device), exact)
        except RuntimeError:
            if not precision.endswith("-params"):
                raise
            # The model takes its inputs as they are, and FSDP casts them for it: there is no such eager to measure.
            errors[precision] = errors.get(precision.removesuffix("-params"), {})
    torch.save({"exact": {name: tensor.cpu() for name, tensor in exact.items()}, "errors": errors}, job["gradients"])
    same = all(torch.equal(first[name], second[name]) for name in first)
    if job.get("count_flops"):
        hashes |= count_flops(model, batch)
    return hashes | {"deterministic": same, "loss": loss}


def _exact(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Gradients, float]:
    double = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in batch)
    return _backward(copy.deepcopy(model).double(), double)


def _eager(model: nn.Module, batch: tuple[Tensor, ...], precision: str, device: Device) -> Gradients:
    """Those of an untouched copy of the model; in float16 at the largest scale of the loss at which none overflows."""
    dtype = HALF[precision.removesuffix("-params")] if precision not in ("fp32", "tf32") else None
    half_weights = precision.endswith("-params")
    context = torch.autocast(device.kind, dtype) if dtype and not half_weights else nullcontext()
    scale = FP16_SCALE if dtype == torch.float16 else 1.0
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        while True:
            copied = copy.deepcopy(model)
            found, _ = _backward(copied.to(dtype) if half_weights else copied, batch, context, scale)
            if scale == 1.0 or all(bool(gradient.isfinite().all()) for gradient in found.values()):
                return found
            scale /= 2
    finally:
        torch.set_float32_matmul_precision(before)


def _backward(
    model: nn.Module,
    batch: tuple[Tensor, ...],
    context: AbstractContextManager[Any] | None = None,
    scale: float = 1.0,
) -> tuple[Gradients, float]:
    with context or nullcontext():
        loss = model(*batch)
    (loss * scale).backward()
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {name: tensor if scale == 1.0 else tensor.double() / scale for name, tensor in found.items()}, loss.item()


def _compared(precisions: Iterable[str]) -> list[str]:
    """What eager must be measured in, besides fp32, for modes of these precisions; FSDP halves the weights as well."""
    wanted = set(precisions) - {"fp32", "fp8"}
    return sorted(wanted | {f"{precision}-params" for precision in wanted & {"bf16", "fp16"}})


def arithmetic_of(model: nn.Module, precision: str) -> str:
    """The arithmetic that a mode is held against: autocast computes products in half precision, FSDP2 everything."""
    fully = precision in ("bf16", "fp16") and hasattr(model, "set_requires_gradient_sync")
    return f"{precision}-params" if fully else precision


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
    own = _compare_own(unwrapped(model).named_parameters(), file, arithmetic_of(model, precision))
    found = [each for of_rank in world.all(own) for each in of_rank]
    seen = {each["tensor"] for each in found}
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


def _compare_own(parameters: Iterable[tuple[str, nn.Parameter]], file: str, precision: str) -> list[dict[str, Any]]:
    """What ``_judge`` says of each tensor of this rank, with its name."""
    reference = torch.load(file, mmap=True, weights_only=True)
    exact: Gradients = reference["exact"]
    sizes = sum(tensor.numel() for tensor in exact.values())
    all_rms = math.sqrt(sum(tensor.square().sum().item() for tensor in exact.values()) / max(1, sizes))
    found = []
    for name, parameter in parameters:
        if parameter.grad is None or name not in exact:
            continue
        gradient = whole(parameter.grad)
        mine, right = gradient.detach().cpu().double(), exact[name]
        found.append({"tensor": name} | _judge(mine, right, all_rms, reference["errors"], name, precision))
    return found


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
        eager = errors[precision].get(name, math.nan)
        allowed = MULTIPLE[precision] * (eager if math.isfinite(eager) else 0.0) + OWN[precision] * size
        value, limit = _rms(mine - right) / scale, (allowed + ALL[precision] * all_rms) / scale
    excess = value / limit if limit else (0.0 if value == 0 else math.inf)
    return {"value": value, "limit": limit, "excess": excess if math.isfinite(value) else math.inf}
