"""The journey of a case on the target side: build, mode, train, evaluate, prove."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from llmbench.worker.assemble import assemble
from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter
from llmbench.worker.loop import Sampling, Timing, train
from llmbench.worker.measure.communication import measure_communication
from llmbench.worker.measure.energy import EnergyMeter
from llmbench.worker.measure.load import LoadMeter
from llmbench.worker.measure.memory import ActivationMeter, MemoryMeter, split
from llmbench.worker.measure.parity import compare_gradients
from llmbench.worker.measure.peaks import data_sheet
from llmbench.worker.modes import compile, precision
from llmbench.worker.tensors import frozen_weights
from llmbench.worker.world import World, gather_weights, join


def run_case(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Trains one case and measures it; of a parallel case, what one rank does.

    Args:
        job: ``config`` (all settings, ``model``, ``family``), ``mode`` (ingredients), ``device``, ``data`` (token
            files and what is known of them), ``asked_at`` (monotonic seconds when the process was asked for),
            ``arithmetic`` (of the mode) and, where there is a reference, ``gradients`` (its file).

    Returns:
        What was measured, raw: the control side makes the record of it.
    """
    device = Device(job["device"])
    world = join(job["mode"], job["config"], device)
    found = _Case(job, events, device, world).run()
    world.leave()  # not after an error: the other ranks would miss this one before it could tell its own
    return found


class _Case:
    """One rank of a case."""

    def __init__(self, job: dict[str, Any], events: Events, device: Device, world: World) -> None:
        self.job, self.events, self.device, self.world = job, events, device, world
        self.config: dict[str, Any] = job["config"]
        self.mode: list[str] = job["mode"]
        self.phases = {"import": time.monotonic() - job["asked_at"]}
        self.memory = MemoryMeter(device)
        self.energy = EnergyMeter(device, counts=world.local_rank == 0)
        self.load = LoadMeter()
        self.found: dict[str, Any] = {"compiled": None}

    def run(self) -> dict[str, Any]:
        begin = enter(self.events, "build")
        assembled = assemble(self.job, self.device, self.world)
        self.workload, self.execution, self.trainer = assembled.workload, assembled.execution, assembled.trainer
        self.frozen, facts = assembled.frozen, assembled.facts
        wrong = self._disagreements(facts)
        compiled = bool(set(self.mode) & compile.SCOPES.keys())
        self.activations = ActivationMeter(self.execution.model, self.device, hooks=not compiled)
        self.device.synchronize()
        self.phases["build"] = time.perf_counter() - begin

        timing = train(self.trainer, self.device, self.events, self._sampling(), self._instruments(), self._inspect)
        self.phases |= timing.phases
        if compiled:
            self.found["compiled"] = compile.facts()
            wrong += [] if self.found["compiled"]["graphs"] else ["torch.compile compiled nothing"]
        communication = self._communication(timing)

        begin = enter(self.events, "evaluate")
        losses = assembled.losses()
        evaluated = self._evaluate()
        self.phases["evaluate"] = time.perf_counter() - begin
        return (
            evaluated
            | self.found
            | {
                "phases": self.phases,
                "input_wait_seconds": self.trainer.input_wait,
                "step_seconds": timing.step_seconds,
                "first_timed_step": timing.first_timed_step,
                "window_seconds": timing.window_seconds,
                "half_width": timing.half_width,
                "losses": losses,
                "facts": evaluated["facts"] | facts | self.memory.facts | {"threads": torch.get_num_threads()},
                "wrong": wrong + evaluated["wrong"],
                "parameters": assembled.parameters,
                "energy_reason": self.energy.reason,
                "peak": data_sheet(self.device.name, self.job["arithmetic"]),
                "rank": self._of_rank(timing, communication),
            }
        )

    def _disagreements(self, facts: dict[str, str]) -> list[str]:
        """What the ranks do not begin with alike: then they do not train one model on one stream of batches."""
        words = {"batches_sha256": "the order of the data", "weights_sha256": "the weights"}
        everyone = self.world.all(facts)
        return [
            f"rank {rank} differs from rank 0 in {words[name]}"
            for rank, theirs in enumerate(everyone)
            for name in words
            if theirs[name] != everyone[0][name]
        ]

    def _sampling(self) -> Sampling:
        # Timing on must not cost the case what it has: the deadline is for all of its phases.
        target, deadline = self.config["interval_target"], self.config["deadline_seconds"]
        budget = min(self.config["budget_seconds"], deadline / 4)
        return Sampling(target, budget, self._as_rank_0) if self.world.mesh else Sampling(target, budget)

    def _as_rank_0(self, steps: int) -> int:
        told = torch.tensor([steps], device=self.device.torch)
        dist.broadcast(told, src=0)
        return int(told.item())

    @contextmanager
    def _instruments(self) -> Iterator[None]:
        self.trainer.input_wait = 0.0
        self.load.start()
        self.energy.start()
        yield
        self.found.update(energy=self.energy.stop(), load=self.load.stop(), memory=self.memory.read())
        self.found["memory"]["split"] = self.split

    def _inspect(self, step: int) -> None:
        """After the backward passes of the first two steps: are the gradients right, and what does memory hold?"""
        if step == 0:
            if self.job.get("gradients"):
                self.found["gradients"] = compare_gradients(
                    self.execution.model, self.world, self.job["gradients"], self.job["precision"]
                )
            self.execution.gradients.watch = self.activations.forward
            return
        self.execution.gradients.watch = nullcontext
        self.split = split(self.execution.model, self.trainer.optimizer, self.device, self.activations.bytes)
        self.memory.reset()

    def _communication(self, timing: Timing) -> dict[str, Any] | None:
        if self.world.size == 1:
            return None
        enter(self.events, "communication")
        return measure_communication(self.trainer, self.device)

    def _evaluate(self) -> dict[str, Any]:
        """Loss and metrics on held-out data, and the proofs: of the model as written, in the arithmetic of the mode.

        One that is split over the ranks is put together again; one in float8 gets back the layers it was written with.
        """
        model = self.execution.model
        if self.world.mesh is not None or "fp8" in self.mode:
            weights = gather_weights(model, self.world)
            if self.world.rank > 0:
                return {"facts": {}, "wrong": []}
            model = precision.cast(self.workload.build().to(self.device.torch), self.mode)
            model.load_state_dict(weights)
        # Compiling it again for evaluation would only cost time.
        with torch.compiler.set_stance("force_eager"):
            with self._arithmetic():
                loss, metrics = self.workload.evaluate(model)
            moved = self._moved(model)
            facts, wrong = self.workload.proofs(model)
        return {
            "eval_loss": loss,
            "metrics": metrics,
            "references": self.workload.references(),
            "facts": facts | ({"frozen_unchanged": not moved} if self.frozen else {}),
            "wrong": wrong + moved,
        }

    def _moved(self, model: nn.Module) -> list[str]:
        """Training leaves bitwise as it was what it is not to train."""
        after = frozen_weights(model)
        changed = [name for name, value in self.frozen.items() if after.get(name) != value]
        return [f"frozen weights changed: {', '.join(changed[:3])}"] if changed else []

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return precision.autocast([part for part in self.mode if part not in ("fsdp", "hsdp")], self.device)()

    def _of_rank(self, timing: Timing, communication: dict[str, Any] | None) -> dict[str, Any]:
        memory = self.found["memory"]
        return {
            "rank": self.world.rank,
            "host": self.world.host,
            "device": self.device.name,
            "window_seconds": timing.window_seconds,
            "step_seconds": timing.step_seconds[timing.first_timed_step - 1 :],  # they begin with step 1
            "communication": communication,
            "peak_allocated_bytes": memory["peak_allocated_bytes"],
            "peak_rss_bytes": memory["peak_rss_bytes"],
            "memory": memory,
            "load": self.found["load"],
            "energy": self.found["energy"],
        }


def compile_again(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """The first step of a compiled case whose code is in the cache: ``seconds``.

    Args:
        job: as for ``run_case``.
    """
    device = Device(job["device"])
    world = join(job["mode"], job["config"], device)
    trainer = assemble(job, device, world).trainer
    device.synchronize()
    begin = enter(events, "compile")
    trainer.step()
    device.synchronize()
    seconds = time.perf_counter() - begin
    world.leave()
    return {"seconds": seconds, "rank": {}}


def train_base(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Trains the base of LoRA, eager and in fp32, and saves its weights.

    Args:
        job: as for ``run_case``, with ``weights``: the file to write.
    """
    device = Device(job["device"])
    enter(events, "base")
    assembled = assemble(job | {"mode": []}, device, World())
    for _ in range(assembled.trainer.steps):
        assembled.trainer.step()
    model = assembled.execution.model
    loss, _ = assembled.workload.evaluate(model)
    temporary = f"{job['weights']}.{os.getpid()}.tmp"
    torch.save(model.cpu().state_dict(), temporary)
    os.replace(temporary, job["weights"])
    return {"eval_loss": loss}
