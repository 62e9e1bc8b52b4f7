"""Activation checkpointing: what the forward pass does not keep, the backward computes again (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from llmbench.worker.modes.blocks import blocks

_aten = torch.ops.aten
# What is dear to compute and small to keep: products and attention. The rest is pointwise.
KEPT = {
    getattr(_aten, name).default
    for name in (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(_aten, name)
}


def apply_recompute(model: nn.Module, mode: list[str]) -> nn.Module:
    """Wraps the forward pass of each block, in place: ``ac`` keeps its inputs, ``sac`` what ``KEPT`` names besides."""
    if not {"ac", "sac"} & set(mode):
        return model
    # There is no dropout: no state of random generators to keep.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if "sac" in mode:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks(model):
        block.forward = _checkpointed(block.forward, options)
    return model


def _checkpointed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    # Not a functools.partial: torch.compile of a block begins at a frame outside of torch, and there would be none.
    def again(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, **options, **kwargs)

    return again


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
