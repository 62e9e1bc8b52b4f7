"""Whole training steps of llmbench's own models, on random batches that are on the device already."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from llmbench.suite.cases import MASKED_FRACTION
from llmbench.suite.costs import flops_per_step
from llmbench.suite.workloads import workload
from llmbench.worker.methods.lora import apply_lora
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.optimizer import adamw

BATCHES = 8
LORA_RANK = 8
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.1

MODELS: dict[str, Callable[[dict[str, int]], nn.Module]] = {
    "gpt": lambda model: GPT(GPTConfig(**model)),
    "lora": lambda model: apply_lora(GPT(GPTConfig(**model)), LORA_RANK),
    "bert": lambda model: BERT(BERTConfig(**model)),
    "regression": lambda model: MLP(MLPConfig(**model)),
}


class TrainingStep:
    """A model with its optimizer and batches; calling it trains one step.

    Args:
        name: of the workload, e.g. ``gpt-tiny``.
        mode: ``eager``, ``bf16`` (autocast) or ``compile`` (the whole model).
        device: ``cpu`` or ``cuda``.

    Attributes:
        shape: of one batch: sequences and positions, or samples and inputs.
        work: tokens or samples, and FLOPs, of one step.
    """

    def __init__(self, name: str, mode: str, device: str) -> None:
        chosen = workload(name)
        family, model, settings = chosen.family.name, chosen.size.model, chosen.size.settings
        batch, length = settings["micro_batch_size"], settings.get("sequence_length")
        masked = round(MASKED_FRACTION * length) if family == "bert" else None
        self.shape = [batch, length or model["d_in"]]
        rank = LORA_RANK if family == "lora" else None
        flops = flops_per_step(family, model, batch, length, masked=masked, lora_rank=rank)
        self.work = {"tokens" if length else "samples": batch * (length or 1), "flops": flops}

        self.model = MODELS[family](model).to(device)
        if mode == "compile":
            self.model.compile()
        self.context = torch.autocast(device, torch.bfloat16) if mode == "bf16" else nullcontext()
        self.optimizer = adamw(self.model, settings["learning_rate"], WEIGHT_DECAY)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        batches = [_batch(family, self.shape, model, masked) for _ in range(BATCHES)]
        self.batches = cycle([tuple(tensor.to(device) for tensor in tensors) for tensors in batches])

    def __call__(self) -> Tensor:
        """The loss, still on the device."""
        with self.context:
            loss = self.model(*next(self.batches))
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def _batch(family: str, shape: list[int], model: dict[str, Any], masked: int | None) -> tuple[Tensor, ...]:
    """The arguments of the model, from torch's global seed."""
    if family == "regression":
        return torch.randn(shape), torch.randn(shape[0], model["d_out"])
    tokens_BT = torch.randint(model["vocab_size"], shape)
    if family != "bert":
        return tokens_BT, torch.randint(model["vocab_size"], shape)
    positions_BK = torch.rand(shape).topk(masked).indices.sort(dim=1).values
    segments_BT = torch.zeros_like(tokens_BT)  # one text, as the workload has it
    return tokens_BT, segments_BT, positions_BK, torch.randint(model["vocab_size"], (shape[0], masked))
