"""The journey of a case on the target side: build, mode, train, evaluate, prove."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter
from llmbench.worker.loop import Trainer, train
from llmbench.worker.measure.energy import EnergyMeter
from llmbench.worker.measure.load import LoadMeter
from llmbench.worker.measure.memory import MemoryMeter
from llmbench.worker.measure.peaks import data_sheet
from llmbench.worker.modes import apply
from llmbench.worker.optimizer import adamw, warmup_cosine
from llmbench.worker.tensors import fingerprint
from llmbench.worker.workloads import WORKLOADS


def run_case(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Trains one case and measures it.

    Args:
        job: ``config`` (all settings, ``model``, ``family``), ``mode`` (ingredients), ``device``, ``data`` (token
            files and what is known of them), ``asked_at`` (monotonic seconds when the process was asked for).

    Returns:
        What was measured, raw: the control side makes the record of it.
    """
    config, mode = job["config"], job["mode"]
    phases = {"import": time.monotonic() - job["asked_at"]}
    device = Device(job["device"])
    begin = enter(events, "build")
    memory, energy, load = MemoryMeter(device), EnergyMeter(device), LoadMeter()
    torch.manual_seed(config["seed"])
    workload = WORKLOADS[config["family"]](config, job["data"])
    model = workload.build()
    batches = workload.stage(config["steps"])
    model = model.to(device.torch)
    workload.before(model)
    model, context = apply(model, mode, device, config)
    trainer = _trainer(model, device.move(batches), config, context)
    device.synchronize()
    phases["build"] = time.perf_counter() - begin

    @contextmanager
    def instruments() -> Any:
        trainer.input_wait = 0.0
        load.start()
        energy.start()
        yield
        found.update(energy=energy.stop(), load=load.stop(), memory=memory.read())

    found: dict[str, Any] = {}
    timing = train(trainer, device, events, instruments())
    phases |= timing.phases
    found["energy_reason"] = energy.reason

    begin = enter(events, "evaluate")
    losses = trainer.losses.tolist()
    # The model as written, in the arithmetic of the mode: compiling it again for evaluation would only cost time.
    with torch.compiler.set_stance("force_eager"):
        with context():
            eval_loss, metrics = workload.evaluate(model)
        facts, wrong = workload.proofs(model)
    references = workload.references()
    phases["evaluate"] = time.perf_counter() - begin
    return found | {
        "phases": phases,
        "input_wait_seconds": trainer.input_wait,
        "step_seconds": timing.step_seconds,
        "first_timed_step": timing.first_timed_step,
        "window_seconds": timing.window_seconds,
        "losses": losses,
        "eval_loss": eval_loss,
        "metrics": metrics,
        "references": references,
        "facts": facts | {"batches_sha256": fingerprint(*batches), "threads": torch.get_num_threads()},
        "wrong": wrong,
        "parameters": _parameters(model),
        "peak": data_sheet(device.name, "bf16" if "bf16" in mode else "fp32"),
    }


def train_base(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Trains the base of LoRA, eager and in fp32, and saves its weights.

    Args:
        job: as for ``run_case``, with ``weights``: the file to write.
    """
    config = job["config"]
    device = Device(job["device"])
    enter(events, "base")
    torch.manual_seed(config["seed"])
    workload = WORKLOADS["gpt"](config, job["data"])
    model = workload.build()
    batches = workload.stage(config["steps"])
    model, context = apply(model.to(device.torch), [], device, config)
    trainer = _trainer(model, device.move(batches), config, context)
    for _ in range(trainer.steps):
        trainer.step()
    loss, _ = workload.evaluate(model)
    temporary = f"{job['weights']}.{os.getpid()}.tmp"
    torch.save(model.cpu().state_dict(), temporary)
    os.replace(temporary, job["weights"])
    return {"eval_loss": loss}


def _trainer(model: nn.Module, batches: tuple[Tensor, ...], config: dict[str, Any], context: Any) -> Trainer:
    optimizer = adamw(model, config["learning_rate"], config["weight_decay"])
    schedule = warmup_cosine(config["learning_rate"], config["steps"], config["warmup_fraction"])
    return Trainer(model, batches, optimizer, schedule, context, config["clip_norm"])


def _parameters(model: nn.Module) -> dict[str, int]:
    return {
        "total": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
