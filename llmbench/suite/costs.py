"""What training costs on paper: parameters, FLOPs of a step, and memory, without importing torch.

The models are those of ``llmbench/worker/models`` and, of transformers and peft, those of
``llmbench/worker/workloads/hf.py``; the keys of a ``model`` dictionary are the fields of our configurations. What they
are made of is in ``architecture.py``, how their memory is estimated in ``memory.py``.

Families: ``regression`` (a perceptron), ``bert``, ``gpt``, ``lora`` (a GPT of which only rank-r updates of the
attention projections are trained), and the peers of the last three: ``hf-bert``, ``hf-gpt2``, ``peft-lora``.
"""

from __future__ import annotations

from itertools import chain

from llmbench.suite.architecture import (
    FAMILIES,
    Architecture,
    Model,
    Pass,
    block_products,
    head_products,
    padded_vocabulary,
    parts,
)
from llmbench.suite.memory import memory_bytes

__all__ = ["FAMILIES", "flops_per_step", "known", "memory_bytes", "padded_vocabulary", "parameters"]


def known(family: str) -> bool:
    """Whether there are formulas for this family; of any other, only counting a real step can tell the costs."""
    return family in FAMILIES


def parameters(family: str, model: Model, lora_rank: int | None = None) -> tuple[int, int]:
    """How many parameters there are, and how many of them are trained. A tied tensor counts once.

    GPT: V·d + n_positions·d + n_layer·(12 d² + 13 d) + 2 d; LoRA adds n_layer·6 r d, and trains only these.
    BERT: (V + n_positions + n_segments)·d + 2 d + n_layer·(4 d² + 2 d f + f + 9 d) for the encoder,
    d² + 3 d + vocab_size for the MLM head, and with NSP d² + 3 d + 2 more.
    The peers have V = vocab_size, ours the next multiple of 64.

    Raises:
        ValueError: an unknown family, or LoRA without a rank.
    """
    whole = parts(Architecture(family, model, lora_rank)).whole
    return whole.total, whole.trained


def flops_per_step(
    family: str,
    model: Model,
    batch: int,
    sequence: int | None,
    *,
    masked: int | None = None,
    lora_rank: int | None = None,
) -> float:
    """FLOPs of the matrix products of one training step, forward and backward; of m × k by k × n there are 2 m k n.

    This is "6 N + 12 L d T for a token" (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B) made exact for
    these models. Attention is the full T × T, not halved for the causal mask; the tied head is counted, lookups are
    not. Nor are pointwise operations, the optimizer, and what is computed again in the backward pass (by activation
    checkpointing, or inside a fused attention kernel). What is not computed does not count: weight gradients of frozen
    weights, gradients of inputs under which nothing is trained, and our MLM head at positions that are not masked
    (that of transformers computes all). So the same work is the same number in every mode.
    ``FlopCounterMode`` of torch counts the same on eager fp32 with attention as plain products: see
    ``tests/suite/test_costs.py``.

    Args:
        family: one of the families of this module.
        model: the configuration.
        batch: sequences (text) or samples (regression) of one step, over all ranks and micro-batches.
        sequence: positions of a sequence; ignored for regression.
        masked: BERT: masked positions of each sequence; None for all of them.
        lora_rank: of the families ``lora`` and ``peft-lora``.

    Raises:
        ValueError: an unknown family, LoRA without a rank, or text without a sequence length.
    """
    step = Pass(Architecture(family, model, lora_rank), batch, sequence, masked)
    blocks = (block_products(step, layer) for layer in range(step.architecture.layers))
    return float(sum(product.flops for product in chain(*blocks, head_products(step))))
