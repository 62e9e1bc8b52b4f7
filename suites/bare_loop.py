"""What the loop and its instruments cost: throughput against a bare loop written by hand, in lock-step.

    python suites/bare_loop.py [--size tiny] [--turns 200]

Both sides take turns of three steps, with the same model, weights, batches and optimizer. Prints the ratio of
throughputs (llmbench / bare; 1.00 is no cost) with a 95 % interval, and what the instruments at the edges of the timed
window cost once a case.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from paired import TURN, WARM_UP, gpt, ratio
from torch import Tensor

from llmbench.worker.device import Device
from llmbench.worker.loop import Trainer
from llmbench.worker.measure.energy import EnergyMeter
from llmbench.worker.measure.load import LoadMeter
from llmbench.worker.measure.memory import MemoryMeter, resident
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.modes import apply
from llmbench.worker.optimizer import adamw, warmup_cosine


class Bare:
    """The loop that anybody would write."""

    def __init__(self, model: GPT, batches: tuple[Tensor, ...], rates: list[float]) -> None:
        self.model = model
        self.inputs, self.targets = batches
        self.rates = rates
        self.parameters = list(model.parameters())
        self.optimizer = adamw(model, rates[0], 0.1)
        self.step = 0

    def turn(self) -> None:
        for _ in range(TURN):
            loss = self.model(self.inputs[self.step], self.targets[self.step])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates[self.step]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1


class Ours:
    """llmbench's training step, and its clock."""

    def __init__(self, model: GPT, batches: tuple[Tensor, ...], rates: list[float]) -> None:
        self.device = Device("cpu")
        execution = apply(model, [], self.device, {"grad_accum": 1})
        optimizer = adamw(model, rates[0], 0.1)
        self.trainer = Trainer(execution, batches, optimizer, rates.__getitem__, clip_norm=1.0)
        self.marks = [self.device.mark()]

    def turn(self) -> None:
        for _ in range(TURN):
            self.trainer.step()
            self.marks.append(self.device.mark())


def main() -> None:
    options, size, batches = gpt(__doc__.splitlines()[0])
    steps = len(batches[0])
    schedule = warmup_cosine(size.settings["learning_rate"], steps, 0.1)
    rates = [schedule(step) for step in range(steps)]

    sides = []
    for side in (Ours, Bare):
        torch.manual_seed(0)
        sides.append(side(GPT(GPTConfig(**size.model)), batches, rates))
    ours, bare = sides
    _, found = ratio(ours.turn, bare.turn, options.turns, WARM_UP)
    print(f"gpt-{options.size}: llmbench / bare = {found}, {options.turns} turns of {TURN} steps")
    _edges()


def _edges() -> None:
    """What is read once before and after the timed window."""
    device = Device("cpu")
    before, begin = resident(), time.perf_counter()
    memory, energy, load = MemoryMeter(device), EnergyMeter(device), LoadMeter()
    load.start()
    energy.start()
    energy.stop()
    load.stop()
    memory.read()
    seconds = time.perf_counter() - begin
    print(f"instruments, once a case: {seconds * 1e3:.1f} ms, {(resident() - before) / 2**20:+.1f} MiB")


if __name__ == "__main__":
    main()
