"""LoRA: a GPT trained on one text is frozen and adapted to another by low-rank updates (Hu et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.methods.lora import apply_lora, merge_lora, trainable_fraction
from llmbench.worker.workloads.gpt import GPTLanguageModel

# fp32 sums in another order: merging may move a logit by a few units of its last place, not by more.
MERGE_LIMIT = 1e-4


class GPTLoRA(GPTLanguageModel):
    """``data["base"]`` is the file of the base's weights, which another job has trained on another text."""

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        super().__init__(config, data)
        self.base = data["base"]
        self._base_loss: float | None = None

    def build(self) -> nn.Module:
        model = super().build()
        model.load_state_dict(torch.load(self.base, weights_only=True))
        return apply_lora(model, rank=self.config["lora_rank"])

    def before(self, model: nn.Module) -> None:
        """The updates begin at zero, so what is judged here is the base."""
        self._base_loss, _ = self.evaluate(model)

    def references(self) -> list[dict[str, Any]]:
        base = {"name": "base before adaptation", "value": self._base_loss, "kind": "baseline"}
        return [*super().references(), base]

    def proofs(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        """Merging the updates into the frozen weights gives the same logits."""
        difference = self._merge_difference(model)
        facts = {"trainable_fraction": trainable_fraction(model), "merge_relative_difference": difference}
        if not difference <= MERGE_LIMIT:
            return facts, [f"merged weights give other logits: relative difference {difference:.1e}"]
        return facts, []

    @torch.no_grad()
    def _merge_difference(self, model: nn.Module) -> float:
        """Of a model as it is written and in fp32: what the arithmetic of a mode rounds is not the question here."""
        device = next(model.parameters()).device
        plain = self.build().to(device)
        plain.load_state_dict(model.state_dict())
        tokens_BT = self.eval_CL[:1, :-1].to(device)
        words = self.vocab_size  # the constant logits of the padding are so large that they hide the rest
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # without TF32
        try:
            adapted_BTV = plain(tokens_BT)[..., :words]
            return _relative(self.merged(plain)(tokens_BT)[..., :words], adapted_BTV)
        finally:
            torch.set_float32_matmul_precision(before)

    def merged(self, model: nn.Module) -> nn.Module:
        """The model with the updates folded into its weights, in place."""
        return merge_lora(model)


def _relative(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()
