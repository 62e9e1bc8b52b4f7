"""What is trained: a model, its data and its objective; a file per workload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from llmbench.worker.workloads import bert, gpt, hf, hf_config, lora, own, regression


class Workload(Protocol):
    """What the loop needs of a workload. It is made with ``config`` and ``data`` of the job."""

    def build(self) -> nn.Module:
        """The model on the CPU, from the global seed. Called with a batch it returns the mean loss."""
        ...

    def stage(self, steps: int) -> tuple[Tensor, ...]:
        """The batches of all steps, made before the clock runs: the tensors of a batch, each with a leading step.

        A batch is that of one optimizer step over all ranks, ``global_batch_size`` sequences or samples.
        """
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


WORKLOADS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Workload]] = {
    "regression": regression.Regression,
    "bert": bert.BertMLM,
    "gpt": gpt.GPTLanguageModel,
    "lora": lora.GPTLoRA,
    "hf-bert": hf.HFBert,
    "hf-gpt2": hf.HFGPT2,
    "peft-lora": hf.PeftLoRA,
    "hf": hf_config.workload,
    "own": own.workload,
}
