"""The one training loop, and the clock around it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmbench.stats.blocks import enough, half_width, next_look
from llmbench.worker.device import Device
from llmbench.worker.events import Events, Heartbeat, enter
from llmbench.worker.modes import Execution
from llmbench.worker.optimizer import by_placement, clip

# Warm-up ends when the last steps are no longer clearly faster than those before them, or after a quarter of all.
STEADY_STEPS = 3
STEADY_RATIO = 0.95


class Trainer:
    """Model, data and optimizer as one training step.

    Args:
        execution: the model in its mode.
        batches: the tensors of a batch of this rank with a leading dimension of steps, on the device.
        schedule: learning rate by step; zero beyond the last.
        clip_norm: largest global norm of the gradient; 0 is off.
    """

    def __init__(
        self,
        execution: Execution,
        batches: tuple[Tensor, ...],
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        clip_norm: float,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.execution = execution
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.heartbeat = heartbeat
        self.parameters = by_placement(execution.model.parameters())
        # One tensor for all: small ones kept from every step would pin the freed memory around them. The last is for
        # the steps beyond the training.
        self.losses = torch.full((self.steps + 1,), torch.nan, device=batches[0].device)
        self.done = 0
        self.input_wait = 0.0

    @property
    def steps(self) -> int:
        return len(self.batches[0])

    def step(self) -> None:
        """One training step. The loss stays on the device."""
        self.compute_gradients()
        self.update()

    def compute_gradients(self) -> None:
        """Forward and backward pass; the gradients are those of the loss, not yet clipped."""
        loss = self.execution.gradients(self._next_batch())
        self.losses[min(self.done, self.steps)] = loss
        self.execution.scaler.unscale_(self.optimizer)
        if self.execution.tied:
            self.execution.tied.reduce()

    def update(self) -> None:
        if self.clip_norm:
            self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.done)
        self.execution.scaler.step(self.optimizer)
        self.execution.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        if self.heartbeat:
            self.heartbeat.beat(self.done)

    def _clip(self) -> None:
        tied = self.execution.tied
        if tied is None:
            clip(self.parameters, self.clip_norm)
        else:  # every stage of a pipeline has tensors of its own
            clip(self.parameters, self.clip_norm, tied.counted_elsewhere, _sum_over_ranks)

    def _next_batch(self) -> tuple[Tensor, ...]:
        begin = time.perf_counter()
        batch = tuple(tensor[self.done % self.steps] for tensor in self.batches)
        self.input_wait += time.perf_counter() - begin
        return batch


def _sum_over_ranks(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


@dataclass
class Timing:
    """Seconds of each step and phase.

    Attributes:
        step_seconds: of every step but the first, which is phase ``compile``.
        first_timed_step: where the timed window begins.
        window_seconds: the whole timed window, by one clock at its ends.
        half_width: of the 95 % interval of the throughput at the end, as a share of it.
    """

    step_seconds: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    first_timed_step: int = 0
    window_seconds: float = 0.0
    half_width: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How long to time.

    Attributes:
        target: half-width of the 95 % interval of the throughput, as a share of it, that is narrow enough.
        budget_seconds: the window is not extended beyond this.
        agree: makes all ranks go on, or stop, together: the first rank's number of steps to come.
    """

    target: float
    budget_seconds: float
    agree: Callable[[int], int] = lambda steps: steps


def train(
    trainer: Trainer,
    device: Device,
    events: Events,
    sampling: Sampling,
    around_window: AbstractContextManager[Any],
    inspect: Callable[[int], None] = lambda step: None,
) -> Timing:
    """Runs all steps of the trainer: the first, the warm-up, and the timed window.

    The number of training steps does not depend on their speed, so that losses can be compared between runs. If they
    do not suffice to tell the throughput, the window goes on at learning rate zero: the same work on the same batches,
    which leaves the weights as they are.

    Args:
        around_window: instruments that are read at both edges of the timed window.
        inspect: looks at the gradients of step 0, then of step 1; it takes no time of any step.
    """
    timing = Timing()
    enter(events, "compile")
    timing.phases["compile"] = _inspected_step(trainer, device, inspect)

    enter(events, "warmup")
    timing.step_seconds.append(_inspected_step(trainer, device, inspect))
    _warm_up(trainer, device, timing, sampling.agree)
    timing.phases["warmup"] = sum(timing.step_seconds)

    enter(events, "timed")
    timing.first_timed_step = trainer.done
    gc.collect()
    gc.disable()  # a collection in the window would be somebody's step
    try:
        with around_window:
            _time(trainer, device, sampling, timing)
    finally:
        gc.enable()
    timing.phases["timed"] = timing.window_seconds
    return timing


def _time(trainer: Trainer, device: Device, sampling: Sampling, timing: Timing) -> None:
    marks = [device.mark()]
    seconds: list[float] = []
    more = trainer.steps - trainer.done
    while more:
        for _ in range(more):
            trainer.step()
            marks.append(device.mark())
        device.synchronize()  # once a segment, so that the marks can be read
        seconds += [device.between(one, next_) for one, next_ in pairwise(marks[len(seconds) :])]
        timing.half_width = half_width(seconds)
        timing.window_seconds = device.between(marks[0], marks[-1])
        more = sampling.agree(_steps_to_come(seconds, timing, sampling))
    timing.step_seconds += seconds


def _steps_to_come(seconds: list[float], timing: Timing, sampling: Sampling) -> int:
    """How many steps until the next look at the interval; none if it is narrow enough, or the budget is spent."""
    if enough(seconds, sampling.target):
        return 0
    left = sampling.budget_seconds - timing.window_seconds
    step = timing.window_seconds / len(seconds)
    return max(0, min(next_look(len(seconds)), int(left / step)))


def _inspected_step(trainer: Trainer, device: Device, inspect: Callable[[int], None]) -> float:
    """A step whose gradients are looked at; its seconds without the look."""
    begin = device.mark()
    trainer.compute_gradients()
    end = device.mark()
    device.synchronize()
    seconds = device.between(begin, end)
    inspect(trainer.done)
    begin = device.mark()
    trainer.update()
    end = device.mark()
    device.synchronize()
    return seconds + device.between(begin, end)


def _warm_up(trainer: Trainer, device: Device, timing: Timing, agree: Callable[[int], int]) -> None:
    """Steps until they no longer get faster."""
    most = max(STEADY_STEPS, trainer.steps // 4)
    while agree(len(timing.step_seconds) < most and not _steady(timing.step_seconds)):
        begin = device.mark()
        trainer.step()
        end = device.mark()
        device.synchronize()
        timing.step_seconds.append(device.between(begin, end))


def _steady(seconds: list[float]) -> bool:
    if len(seconds) < 2 * STEADY_STEPS:
        return False
    before, last = seconds[-2 * STEADY_STEPS : -STEADY_STEPS], seconds[-STEADY_STEPS:]
    return median(last) >= STEADY_RATIO * median(before)
