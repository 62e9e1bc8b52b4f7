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
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter

# Warm-up ends when the last steps are no longer clearly faster than those before them, or after a quarter of all.
STEADY_STEPS = 3
STEADY_RATIO = 0.95


class Trainer:
    """Model, data and optimizer as one training step.

    Args:
        model: called with the tensors of a batch it returns the mean loss.
        batches: the tensors of a batch with a leading dimension of steps, on the device.
        schedule: learning rate by step.
        context: maker of the context of the forward pass (autocast).
        clip_norm: largest global norm of the gradient; 0 is off.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: tuple[Tensor, ...],
        optimizer: Optimizer,
        schedule: Callable[[int], float],
        context: Callable[[], AbstractContextManager[Any]],
        clip_norm: float,
    ) -> None:
        self.model = model
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.context = context
        self.clip_norm = clip_norm
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # One tensor for all: small ones kept from every step would pin the freed memory around them.
        self.losses = torch.full((self.steps,), torch.nan, device=batches[0].device)
        self.done = 0
        self.input_wait = 0.0

    @property
    def steps(self) -> int:
        return len(self.batches[0])

    def step(self) -> None:
        """One training step. The loss stays on the device."""
        batch = self._next_batch()
        with self.context():
            loss = self.model(*batch)
        loss.backward()
        if self.clip_norm:
            clip_grad_norm_(self.parameters, self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.done)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses[self.done] = loss.detach()
        self.done += 1

    def _next_batch(self) -> tuple[Tensor, ...]:
        begin = time.perf_counter()
        batch = tuple(tensor[self.done] for tensor in self.batches)
        self.input_wait += time.perf_counter() - begin
        return batch


@dataclass
class Timing:
    """Seconds of each step and phase.

    Attributes:
        step_seconds: of every step but the first, which is phase ``compile``.
        first_timed_step: where the timed window begins.
        window_seconds: the whole timed window, by one clock at its two ends.
    """

    step_seconds: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    first_timed_step: int = 0
    window_seconds: float = 0.0


def train(trainer: Trainer, device: Device, events: Events, around_window: AbstractContextManager[Any]) -> Timing:
    """Runs all steps of the trainer: the first, the warm-up, and the timed window.

    The number of steps does not depend on their speed, so that losses can be compared between runs; only where the
    window begins does.

    Args:
        around_window: instruments that are read at both edges of the timed window.
    """
    timing = Timing()
    begin = enter(events, "compile")
    trainer.step()
    device.synchronize()
    timing.phases["compile"] = time.perf_counter() - begin

    begin = enter(events, "warmup")
    _warm_up(trainer, device, timing)
    timing.phases["warmup"] = time.perf_counter() - begin

    enter(events, "timed")
    timing.first_timed_step = trainer.done
    gc.collect()
    gc.disable()  # a collection in the window would be somebody's step
    try:
        with around_window:
            marks = [device.mark()]
            for _ in range(timing.first_timed_step, trainer.steps):
                trainer.step()
                marks.append(device.mark())
            device.synchronize()
    finally:
        gc.enable()
    timing.window_seconds = timing.phases["timed"] = device.between(marks[0], marks[-1])
    timing.step_seconds += [device.between(one, next_) for one, next_ in pairwise(marks)]
    return timing


def _warm_up(trainer: Trainer, device: Device, timing: Timing) -> None:
    """Steps until they no longer get faster."""
    most = max(STEADY_STEPS, trainer.steps // 4)
    while len(timing.step_seconds) < most and not _steady(timing.step_seconds):
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
