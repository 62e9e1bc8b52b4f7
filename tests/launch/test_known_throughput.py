"""Known step times give exactly the known throughput, through the loop, the session and the record."""

from __future__ import annotations

import gc
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmbench.data.sources import load
from llmbench.launch.prepare import Data
from llmbench.launch.session import Session
from llmbench.launch.target import Outcome
from llmbench.results.schema import Run
from llmbench.results.store import RunFolder
from llmbench.suite.cases import Case, resolve
from llmbench.suite.load import find
from llmbench.suite.modes import ingredients
from llmbench.worker.loop import Sampling, Trainer, train
from tests.worker.conftest import Events, execution
from tests.worker.test_loop import Clock

TICK = 2.0**-10  # sums of ticks are exact


class Slow(nn.Module):
    """Each forward pass takes the next of known times."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.clock, self.seconds = clock, iter(seconds)

    def forward(self, x_B: Tensor) -> Tensor:
        self.clock.now += next(self.seconds)
        return (self.w * x_B).mean()


def trained(case: Case, passes: list[float]) -> dict[str, Any]:
    """What every rank of a case would tell whose forward passes take known times: by the real loop, on a fake clock."""
    steps, micro_batches = case.config["steps"], case.config["grad_accum"]
    clock = Clock()
    model = Slow(clock, passes)
    trainer = Trainer(
        execution(model, micro_batches=micro_batches),
        (torch.ones(steps, micro_batches * case.config["micro_batch_size"]),),
        torch.optim.SGD(model.parameters(), lr=0.0),
        lambda step: 0.0,
        clip_norm=0.0,
    )
    timing = train(trainer, clock, Events(), Sampling(1.0, 0.0), nullcontext())
    memory = {"peak_rss_bytes": 2**29, "peak_allocated_bytes": None}
    load_ = {"wall_seconds": timing.window_seconds}
    rank = {
        "rank": 0,
        "host": "node",
        "device": "cpu",
        "window_seconds": timing.window_seconds,
        "communication": None,
        "memory": memory,
        "load": load_,
        "energy": None,
    }
    return {
        "phases": {"import": 0.0, "build": 0.0, "evaluate": 0.0} | timing.phases,
        "input_wait_seconds": 0.0,
        "step_seconds": timing.step_seconds,
        "first_timed_step": timing.first_timed_step,
        "window_seconds": timing.window_seconds,
        "half_width": timing.half_width,
        "losses": [6.0 - step / 100 for step in range(steps)],
        "eval_loss": 3.0,
        "metrics": {},
        "references": [],
        "facts": {},
        "compiled": None,
        "wrong": [],
        "parameters": {"total": 1, "trainable": 1},
        "peak": None,
        "energy_reason": "none",
        "rank": rank,
        "ranks": [rank | {"rank": number} for number in range(case.world_size)],
    }


def _key(config: dict[str, Any], mode: list[str]) -> str:
    return json.dumps([config, mode], sort_keys=True)


class Targets:
    """In the place of an interpreter: its cases take known times, and one of them is interrupted the first time."""

    def __init__(self, cases: list[Case], passes: list[float], interrupted: str | None) -> None:
        self.hello = {"torch": "0"}
        self._cases = {_key(case.config, ingredients(case.mode)): case for case in cases}
        self._passes, self._interrupted = passes, interrupted

    def run(self, job: dict[str, Any], log: Path, deadline: float, on_event: Any = None) -> Outcome:
        if job["kind"] != "case":
            return Outcome(result={"unavailable": "no such thing here", "peaks": {}, "bandwidth": 2e10}, code=0)
        case = self._cases[_key(job["config"], job["mode"])]
        if case.id == self._interrupted:
            raise KeyboardInterrupt
        return Outcome(result=trained(case, self._passes), code=0, wall_seconds=1.0)

    def kill_job(self) -> None:
        return


class Silent:
    def preparing(self, message: str) -> None: ...
    def started(self, number: int, total: int, case: Case) -> None: ...
    def phase(self, name: str) -> None: ...
    def finished(self, number: int, total: int, record: Any) -> None: ...


ENVIRONMENT: dict[str, Any] = {"devices": [], "host": {"cpu": "x"}, "torch": {}, "variables": {}}


@pytest.mark.slow
@settings(max_examples=20)
@given(
    ticks=st.lists(st.integers(1, 1000), min_size=80, max_size=80),
    mode=st.sampled_from(["eager", "accum4", "ddp", "accum4+ddp", "fsdp"]),
    size=st.sampled_from([1, 2, 4]),
    scaling=st.sampled_from(["strong", "weak"]),
    resumed=st.booleans(),
)
def test_known_times_give_exactly_the_known_throughput(
    ticks: list[int], mode: str, size: int, scaling: str, resumed: bool
) -> None:
    passes = [TICK * tick for tick in ticks]
    cases = resolve(
        find("smoke"),
        workloads=["regression-linear"],
        modes=["bf16", mode],
        world_sizes=[size],
        changes=["steps=20", "micro_batch_size=32", f"scaling={scaling}", f"seed={size}"],
    )
    case = next(case for case in cases if case.mode == mode)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBENCH_CACHE", f"{folder}/cache")
        patch.setattr(gc, "collect", lambda: 0)  # all of torch need not be looked through before each window
        run = Run(
            id="r",
            suite="s",
            suite_file="f",
            cases=[case.planned() for case in cases],
            command=[],
            working_folder="/",
            llmbench="0",
            python="p",
            device="cpu",
            environment=ENVIRONMENT,
            started_at="2026-01-01T00:00:00+00:00",
        )
        store = RunFolder.create(Path(folder) / "run", run)
        data = Data(load(None))
        if resumed:  # the case is in flight when the run is interrupted, and trains anew when it goes on
            broken = Session(store, run, Targets(cases, passes, case.id), data, Silent())
            with broken, pytest.raises(KeyboardInterrupt):
                broken.execute()
        with Session(store, run, Targets(cases, passes, None), data, Silent()) as session:
            record = next(record for record in session.execute() if record.case == case.id)

    count = case.config["grad_accum"]
    steps = [sum(passes[step * count : (step + 1) * count]) for step in range(20)]
    assert record.measured_bandwidth is not None  # of a resumed run from the cache
    assert record.measured_bandwidth.bytes_per_second == 2e10
    assert record.sampling is not None
    window = steps[-record.sampling.steps :]
    ranks_with_a_batch_of_their_own = size if scaling == "weak" and mode.endswith(("ddp", "fsdp")) else 1
    assert record.throughput is not None
    assert record.throughput.value == 32 * ranks_with_a_batch_of_their_own * len(window) / sum(window)
    assert record.throughput.n == len(window) >= 14  # a quarter of 20 steps is warm-up at most
