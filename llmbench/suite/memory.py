"""The memory that a step of training takes on paper, by mode: what is held, and when in the step the most is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from llmbench.suite import activations
from llmbench.suite.activations import FP32, Format, Kept, format_of
from llmbench.suite.architecture import Architecture, Model, Parts, Pass, Weights, parts


def memory_bytes(
    family: str,
    model: Model,
    batch: int,
    sequence: int | None,
    *,
    masked: int | None = None,
    lora_rank: int | None = None,
    mode: Sequence[str] = (),
    data_parallel: int = 1,
    tensor_parallel: int = 1,
    pipeline_stages: int = 1,
    grad_accum: int = 1,
) -> dict[str, int]:
    """Estimate of the memory that training allocates on the device of one rank, the one that needs most, by kind.

    - parameters, gradients, optimizer (AdamW's two moments of each trained parameter): fp32, or all bfloat16 in
      ``bf16-params``; of this rank's shard, split or stage; 0 where they wait in host memory;
    - activations: what the forward pass keeps for the backward pass, copies that autocast makes of weights included;
      of a pipeline, of all micro-batches that are in flight (1F1B: as many as there are stages from here to the end);
    - temporary: what exists at the peak for a moment only: gradients of activations, a block that is computed again,
      what FSDP gathers, or the denominators of an AdamW that is not fused;
    - total: the peak. It is not the sum, because activations are freed while gradients appear. Not in it: the runtime
      itself (Python, torch, a CUDA context), workspaces of kernels, buffers of communication, and fragmentation.

    Args:
        family: one of ``llmbench.suite.costs.FAMILIES``.
        model: the configuration.
        batch: sequences or samples of one forward pass of one rank; of a pipeline, of one micro-batch.
        sequence: as in ``flops_per_step``.
        masked: as there.
        lora_rank: as there.
        mode: the ingredients.
        data_parallel: ranks that have other parts of the batch.
        tensor_parallel: ranks that split each block.
        pipeline_stages: ranks that have other blocks.
        grad_accum: micro-batches of one optimizer step.

    Raises:
        ValueError: as ``flops_per_step``.
    """
    step = Pass(Architecture(family, model, lora_rank), batch, sequence, masked)
    how, shards = format_of(mode, tensor_parallel), _shards(mode, data_parallel)
    ranks = [_Rank(step, how, shards, grad_accum, stage, pipeline_stages) for stage in range(pipeline_stages)]
    return max((rank.estimate() for rank in ranks), key=lambda estimate: estimate["total"])


def _shards(mode: Sequence[str], data_parallel: int) -> int:
    """Ranks over which FSDP divides. HSDP has as few copies of the model as it can: the smallest factor."""
    if "fsdp" in mode:
        return data_parallel
    if "hsdp" in mode:
        return data_parallel // next((n for n in range(2, data_parallel + 1) if data_parallel % n == 0), 1)
    return 1


class _Moment(NamedTuple):
    """What comes and goes in a step, in bytes, at one moment of it."""

    activations: int
    gradients: int
    temporary: int


@dataclass(frozen=True)
class _Rank:
    """What one rank holds: its shard and split of the model, or its stage (``llmbench/worker/modes/pipeline.py``)."""

    step: Pass
    how: Format
    shards: int
    grad_accum: int
    stage: int
    stages: int

    def estimate(self) -> dict[str, int]:
        moments = list(self._moments())
        peak = max(moments, key=sum)
        parameters, optimizer = self._stored(self._weights.total), 2 * self._stored(self._weights.trained)
        return {
            "parameters": parameters,
            "gradients": self._gradients,
            "optimizer": optimizer,
            "activations": moments[0].activations,
            "temporary": peak.temporary,
            "total": parameters + optimizer + sum(peak),
        }

    def _moments(self) -> Iterator[_Moment]:
        """The backward passes of the loss and of each block, from the last to the first; then the optimizer's step."""
        step, how = self.step, self.how
        below = self._held(activations.embedding(step, how) if self._first else [])
        blocks = [list(activations.block(step, how, layer)) for layer in self._layers]
        held = [self._held(block, how.recompute) for block in blocks]
        # A stage keeps what it has sent until the gradient comes back.
        sent = [Kept(step.rows * how.wide * step.architecture.width)] if not self._last else []
        above = self._held(activations.head(step, how) if self._last else sent)
        # Buckets of DDP outlive the step, sums over micro-batches the backward pass: they are there all the time.
        stay = self._gradients if "ddp" in how.mode or self.stages > 1 or self.grad_accum > 1 else None
        come = 0

        loss = activations.loss_gradients(step, how) if self._last else 0
        yield _Moment(below + sum(held) + above, stay or 0, loss + self._gathered(1))
        if self._last:  # FSDP reduces what is outside of the blocks at the very end
            outside = self._parts.tied + self._parts.head
            come += how.wide * outside.trained if how.fsdp else self._stored(outside.trained)
        for index, layer in reversed(list(enumerate(self._layers))):
            again = sum(t.size for t in blocks[index] if t.eager and not t.held(how.recompute)) if how.recompute else 0
            passing = again + activations.block_gradients(step, how, layer)
            passing += self._gathered(2) + self._unreduced  # FSDP fetches the next block meanwhile
            yield _Moment(below + sum(held[: index + 1]), come if stay is None else stay, passing)
            come += self._stored(self._parts.blocks[layer].trained)
        yield _Moment(0, self._gradients, self._last_gradients)
        yield _Moment(0, self._gradients, 0 if "fused" in how.mode else self._stored(self._weights.trained))

    def _held(self, tensors: Iterable[Kept], recompute: str | None = None) -> int:
        in_flight = self.stages - self.stage  # micro-batches between this stage's forward and backward pass
        held = (tensor for tensor in tensors if tensor.held(recompute, self.how.offload))
        return sum(tensor.size * (1 if tensor.shared else in_flight) for tensor in held)

    @property
    def _first(self) -> bool:
        return self.stage == 0

    @property
    def _last(self) -> bool:
        return self.stage == self.stages - 1

    @property
    def _layers(self) -> range:
        layers = self.step.architecture.layers
        return range(self.stage * layers // self.stages, (self.stage + 1) * layers // self.stages)

    @cached_property
    def _parts(self) -> Parts:
        return parts(self.step.architecture, self.how.tensor_parallel)

    @property
    def _outside(self) -> Weights:
        """The parameters outside of the blocks. The first and the last stage both have the tied embedding."""
        weights = self._parts.tied if self._first or self._last else Weights()
        weights += self._parts.embedding if self._first else Weights()
        return weights + self._parts.head if self._last else weights

    @property
    def _weights(self) -> Weights:
        return sum((self._parts.blocks[layer] for layer in self._layers), self._outside)

    def _stored(self, count: int) -> int:
        """Bytes on the device of so many parameters, their gradients, or one moment of each."""
        on_device = not (self.how.fsdp and "cpu-offload" in self.how.mode)
        return self.how.parameter * -(-count // self.shards) * on_device

    @property
    def _gradients(self) -> int:
        if self.how.fsdp and self.grad_accum > 1:
            # Nothing is reduced between micro-batches: gradients wait unsharded, in the fp32 of their sum.
            return FP32 * self._weights.trained
        return self._stored(self._weights.trained)

    @cached_property
    def _block(self) -> Weights:
        return max(self._parts.blocks, key=lambda weights: weights.total, default=Weights())

    def _gathered(self, blocks: int) -> int:
        """What FSDP gathers: so many blocks, and all that is outside of the blocks."""
        return self.how.wide * (self._outside.total + blocks * self._block.total) if self.how.fsdp else 0

    @property
    def _unreduced(self) -> int:
        """The gradients of a block before FSDP reduces them, and the fp32 copy that it reduces."""
        return (self.how.wide + FP32) * self._block.trained if self.how.fsdp else 0

    @property
    def _last_gradients(self) -> int:
        """When the backward pass arrives at the embedding. A tied one gets two gradients, and their sum is a third."""
        tied = 2 * self._parts.tied.trained if self._first and self._last else 0
        if not self.how.fsdp:
            return self.how.parameter * tied
        outside = self._outside
        return self.how.wide * (outside.total + outside.trained + tied) + FP32 * outside.trained
