"""What is trained: a model, its data and its objective; a file per workload."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from llmbench.worker.workloads import bert, gpt, lora, regression


class Workload(Protocol):
    """What the loop needs of a workload. It is made with ``config`` and ``data`` of the job."""

    def build(self) -> nn.Module:
        """The model on the CPU, from the global seed. Called with a batch it returns the mean loss."""
        ...

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        """The batches of all steps, made before the clock runs: the tensors of a batch, each with a leading step."""
        ...

    def before(self, model: nn.Module) -> None:
        """Looks at the model on its device, before it is trained."""
        ...

    def references(self) -> list[dict[str, Any]]:
        """Losses to hold the curve against: ``name``, ``value``, ``kind`` (baseline or floor)."""
        ...

    def evaluate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Loss on held-out data, and the metrics of the field."""
        ...

    def proofs(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        """Facts about the trained model, and what of it is wrong (nothing, if all is well)."""
        ...


WORKLOADS: dict[str, type[Any]] = {
    "regression": regression.Regression,
    "bert": bert.BertMLM,
    "gpt": gpt.GPTLanguageModel,
    "lora": lora.GPTLoRA,
}
