"""The layers of a model that are alike: what is compiled, checkpointed, sharded or put on a stage one by one."""

from __future__ import annotations

from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """``model.blocks`` where the model says so, else its longest list of modules; empty if it has none."""
    own = getattr(model, "blocks", None)
    if own is not None:
        return list(own.values() if isinstance(own, nn.ModuleDict) else own)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
