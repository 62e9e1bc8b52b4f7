"""GPT: next-token prediction on text, judged by perplexity on held-out text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker import tokens
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.workloads.batches import global_batch


class GPTLanguageModel:
    """Random windows of the training text; the held-out text in consecutive windows."""

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.vocab_size: int = config["model"]["vocab_size"]
        self.train_N = tokens.read(data["train"])
        self.floor = data.get("floor")
        self._generator = torch.Generator().manual_seed(config["seed"] + 1)
        length = config["sequence_length"]
        count = config["eval_batches"] * global_batch(config)
        self.eval_CL = tokens.consecutive_windows(tokens.read(data["valid"]), count, length + 1, stride=length)

    def build(self) -> nn.Module:
        return GPT(GPTConfig(**self.config["model"]))

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        batch, length = global_batch(self.config), self.config["sequence_length"]
        windows_CL = tokens.random_windows(self.train_N, steps * batch, length + 1, self._generator)
        windows_SBL = windows_CL.view(steps, batch, length + 1)
        return windows_SBL[..., :-1].contiguous(), windows_SBL[..., 1:].contiguous()

    def before(self, model: nn.Module) -> None:
        return

    def references(self) -> list[dict[str, Any]]:
        unigram = tokens.unigram_loss(self.train_N, self.eval_CL[:, 1:], self.vocab_size)
        references = [{"name": "unigram", "value": unigram, "kind": "baseline"}]
        if self.floor is not None:
            references.append({"name": "source entropy", "value": self.floor, "kind": "floor"})
        return references

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        device = next(model.parameters()).device
        total = 0.0
        for windows_BL in self.eval_CL.split(self.config["micro_batch_size"]):
            windows_BL = windows_BL.to(device)
            total += model(windows_BL[:, :-1], windows_BL[:, 1:]).item() * len(windows_BL)
        loss = total / len(self.eval_CL)
        return loss, {"perplexity": _exp(loss)}

    def proofs(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        return {}, []


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
