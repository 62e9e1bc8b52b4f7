"""How a case is laid out over its ranks and micro-batches, and why some cannot be."""

from __future__ import annotations

from typing import Any

from llmbench.suite.modes import ingredients, parallel
from llmbench.suite.workloads import Family

ACCUMULATED = 4  # micro-batches of ``accum4``
_OURS = {
    "chunked-ce": "llmbench's own head over a vocabulary",
    "flex": "llmbench's own attention",
    "tp": "the transformer blocks of llmbench's own models",
    "pp": "llmbench's own models",
}
_BLOCKS = ("ac", "sac", "compile-blocks", "sdpa-math", "sdpa-flash", "sdpa-cudnn")


def degrees(mode: str, world_size: int, settings: dict[str, Any]) -> dict[str, int]:
    """``data_parallel``, ``tensor_parallel`` and ``pipeline_stages``; their product is the world size."""
    parts = ingredients(mode)
    tensor = stages = 1
    if "pp" in parts:
        stages = world_size
    elif "fsdp" in parts and "tp" in parts:
        tensor = settings["tensor_parallel_size"] or (2 if world_size % 2 == 0 else 1)
    elif "tp" in parts:
        tensor = world_size
    return {"data_parallel": world_size // (tensor * stages), "tensor_parallel": tensor, "pipeline_stages": stages}


def batches(mode: str, settings: dict[str, Any], layout: dict[str, int]) -> dict[str, int]:
    """``global_batch_size`` of an optimizer step, ``micro_batch_size`` of a forward pass, and ``grad_accum``.

    With strong scaling the ranks and micro-batches share the batch of one process, so that losses can be held
    against those of eager; with weak scaling every data-parallel rank has a batch of that size.
    """
    parts = ingredients(mode)
    count = ACCUMULATED if "accum4" in parts else settings["pipeline_micro_batches"] if "pp" in parts else 1
    whole = settings["micro_batch_size"] * (layout["data_parallel"] if settings["scaling"] == "weak" else 1)
    return {
        "global_batch_size": whole,
        "micro_batch_size": max(1, whole // (layout["data_parallel"] * count)),
        "grad_accum": count,
    }


def refusal(family: Family, mode: str, world_size: int, config: dict[str, Any]) -> str | None:
    """Why the case cannot be run by anybody, with what would help; None if it can."""
    parts = ingredients(mode)
    for part, needed in _OURS.items():
        if part in parts and not _has(family, part):
            return f"{part} needs {needed}; {family.name} has none: leave it out"
    for part in _BLOCKS:
        if part in parts and family.objective == "regression":
            return f"{part} is of transformer blocks; {family.name} has none: leave it out"
    if parallel(mode):
        return _unsplittable(parts, world_size, config) or _uneven(config)
    return _uneven(config)


def _has(family: Family, part: str) -> bool:
    if family.models != "own":
        return False
    if part == "chunked-ce":
        return family.vocabulary_head
    return part == "pp" or family.objective != "regression"


def _unsplittable(parts: list[str], world_size: int, config: dict[str, Any]) -> str | None:
    """Whether the model cannot be split so often."""
    model, tensor, stages = config["model"], config["tensor_parallel"], config["pipeline_stages"]
    if world_size % (tensor * stages):
        return f"{world_size} ranks are no multiple of tensor_parallel_size = {tensor}: another --world-size"
    if tensor > 1 and model["n_head"] % tensor:
        return f"{model['n_head']} heads cannot be split over {tensor} ranks: a divisor of the heads"
    layers = model.get("n_layer", model.get("n_hidden", 0))
    if "pp" in parts and layers < stages:
        return f"{layers} blocks cannot be split over {stages} stages: a smaller --world-size"
    return None


def _uneven(config: dict[str, Any]) -> str | None:
    """Whether the batch cannot be split evenly; uneven parts would be another mean."""
    parts = config["data_parallel"] * config["grad_accum"]
    if config["global_batch_size"] % parts == 0:
        return None
    return (
        f"a batch of {config['global_batch_size']} cannot be split into {parts} equal parts: "
        f"--set micro_batch_size={parts * max(1, config['global_batch_size'] // parts)}"
    )
