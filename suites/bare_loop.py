"""What the loop and its instruments cost: timed throughput against a bare loop written by hand, interleaved.

    python suites/bare_loop.py [--size tiny] [--rounds 12] [--steps 60]

Both sides live in one process and take turns in random order, with the same model, weights, batches and optimizer.
Prints the ratio of throughputs (llmbench / bare; 1.00 is no cost) with a 95 % interval over the rounds, and the
resident memory that the instruments added.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from llmbench.suite.workloads import FAMILIES
from llmbench.worker.device import Device
from llmbench.worker.loop import Trainer, train
from llmbench.worker.measure.energy import EnergyMeter
from llmbench.worker.measure.load import LoadMeter
from llmbench.worker.measure.memory import MemoryMeter, resident
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.optimizer import adamw, warmup_cosine


def bare(model: GPT, batches: tuple[torch.Tensor, ...], optimizer: torch.optim.Optimizer, rates: list[float]) -> float:
    """Steps per second of the loop that anybody would write; the first quarter warms up, as ours may."""
    inputs, targets = batches
    parameters = list(model.parameters())
    first = len(inputs) // 4
    for step in range(len(inputs)):
        if step == first:
            begin = time.perf_counter()
        loss = model(inputs[step], targets[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    loss.item()
    return (len(inputs) - first) / (time.perf_counter() - begin)


def ours(model: GPT, batches: tuple[torch.Tensor, ...], optimizer: torch.optim.Optimizer, rates: list[float]) -> float:
    """Steps per second of llmbench's loop, all instruments on."""
    device = Device("cpu")
    memory, energy, load = MemoryMeter(device), EnergyMeter(device), LoadMeter()
    trainer = Trainer(model, batches, optimizer, rates.__getitem__, nullcontext, clip_norm=1.0)
    load.start()
    energy.start()
    timing = train(trainer, device, SimpleNamespace(send=lambda event, **values: None), nullcontext())
    energy.stop()
    load.stop()
    memory.read()
    return (trainer.steps - timing.first_timed_step) / timing.window_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=FAMILIES["gpt"].sizes)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    size = FAMILIES["gpt"].sizes[options.size]
    batch, length = size.settings["micro_batch_size"], size.settings["sequence_length"]
    schedule = warmup_cosine(size.settings["learning_rate"], options.steps, 0.1)
    rates = [schedule(step) for step in range(options.steps)]
    generator = torch.Generator().manual_seed(0)
    shape = (options.steps, batch, length + 1)
    tokens = torch.randint(size.model["vocab_size"], shape, generator=generator)
    batches = (tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous())

    def once(loop) -> float:
        torch.manual_seed(0)
        model = GPT(GPTConfig(**size.model))
        return loop(model, batches, adamw(model, rates[0], 0.1), rates)

    sides = {"bare": bare, "llmbench": ours}
    for loop in sides.values():
        once(loop)  # the allocator and the threads warm up
    before = resident()
    ratios = []
    order = random.Random(0)
    for _ in range(options.rounds):
        speed = {name: once(sides[name]) for name in order.sample(list(sides), 2)}
        ratios.append(speed["llmbench"] / speed["bare"])
        print(f"  {speed['bare']:8.2f} steps/s bare  {speed['llmbench']:8.2f} llmbench  ratio {ratios[-1]:.4f}")
    logs = [math.log(ratio) for ratio in ratios]
    half = 2.2 * stdev(logs) / math.sqrt(len(logs))  # t of 11 degrees of freedom
    low, middle, high = (math.exp(fmean(logs) + sign * half) for sign in (-1, 0, 1))
    print(f"gpt-{options.size}: llmbench / bare = {middle:.4f} [{low:.4f}, {high:.4f}] over {options.rounds} rounds")
    print(f"resident memory: {(resident() - before) / 2**20:+.1f} MiB over all rounds")


if __name__ == "__main__":
    main()
