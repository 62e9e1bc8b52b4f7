from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.suite.modes import canonical, ingredients, precision
from llmbench.worker.measure.parity import measure_reference
from llmbench.worker.modes.attention import KERNELS
from tests.worker.conftest import Events, Job

from .ranks import Ranks
from .training import Found, laid_out, train

BATCH = 8  # sequences: two ranks with four micro-batches each have one to a micro-batch
STEPS = 3

Case = Callable[..., Job]
Train = Callable[..., Found]


@pytest.fixture(autouse=True)
def every_kernel() -> Iterator[None]:
    """What a mode switches off in torch is on again in the next test."""
    enabled = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in KERNELS}
    yield
    for name, on in enabled.items():
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(on)


@pytest.fixture(scope="package")
def one() -> Iterator[Ranks]:
    yield from _closed(Ranks(1))


@pytest.fixture(scope="package")
def two() -> Iterator[Ranks]:
    yield from _closed(Ranks(2))


@pytest.fixture(scope="module")
def compiling() -> Iterator[Ranks]:
    """Two ranks that may compile."""
    yield from _closed(Ranks(2, "spawn"))


@pytest.fixture(scope="module")
def four() -> Iterator[Ranks]:
    yield from _closed(Ranks(4))


def _closed(ranks: Ranks) -> Iterator[Ranks]:
    yield ranks
    ranks.close()


@pytest.fixture(scope="package")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"folder": tmp_path_factory.mktemp("references")}


@pytest.fixture
def case(job: Callable[..., Job], references: dict[str, Any]) -> Case:
    """Makes the job of a case with its reference: ``case(family, mode, world_size, **settings)``."""

    def make(family: str, mode: str = "eager", world_size: int = 1, **changes: Any) -> Job:
        mode = canonical(mode)
        made = job(family, ingredients(mode), **{"micro_batch_size": BATCH} | changes)
        key = f"{family} {changes}"
        if key not in references:
            references[key] = str(Path(references["folder"], f"{len(references)}.pt"))
            precisions = ["fp32", "bf16", "fp16", "bf16-params"]
            measure_reference(made | {"precisions": precisions, "gradients": references[key]}, Events())
        return laid_out(made | {"gradients": references[key], "precision": precision(mode)}, world_size)

    return make


@pytest.fixture
def eager(case: Case, references: dict[str, Any]) -> Train:
    """The training of one process in fp32, done once: ``eager(family, **settings)``."""

    def trained(family: str, steps: int = STEPS, **changes: Any) -> Found:
        key = f"eager {family} {steps} {changes}"
        if key not in references:
            references[key] = train(case(family, **changes), steps)
        return references[key]

    return trained
