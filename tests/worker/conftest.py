from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmbench.worker.case import train_base
from llmbench.worker.modes import Execution, MicroBatches
from llmbench.worker.modes.parallel import no_sync_needed

OURS = ("regression", "bert", "gpt", "lora")

VOCABULARY = 90  # not a multiple of 64, as that of most tokenizers
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
MODELS: dict[str, dict[str, int]] = {
    "regression": {"d_in": 3, "d_hidden": 0, "n_hidden": 0, "d_out": 1},
    "gpt": {"vocab_size": VOCABULARY, "n_positions": 16, "n_layer": 2, "n_head": 2, "d_model": 16},
    "bert": {"vocab_size": VOCABULARY, "n_positions": 16, "n_layer": 2, "n_head": 2, "d_model": 16, "d_ff": 32},
}

Job = dict[str, Any]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models of tests are too small to share: on a busy machine threads spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Events:
    """Remembers what a job tells of itself."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, event: str, **values: Any) -> None:
        self.sent.append((event, values))

    @property
    def phases(self) -> list[str]:
        return [values["name"] for event, values in self.sent if event == "phase"]


def execution(
    model: nn.Module, context: Callable[[], AbstractContextManager[Any]] = nullcontext, micro_batches: int = 1
) -> Execution:
    """A model as it is, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    gradients = MicroBatches(model, micro_batches, context, no_sync_needed, scaler, lambda: None)
    return Execution(model, scaler, gradients)


@pytest.fixture
def events() -> Events:
    return Events()


def write_tokens(path: Path, ids: list[int]) -> str:
    """A token file as the control side makes it: little-endian int32."""
    numbers = array("i", ids)
    assert numbers.itemsize == 4
    if sys.byteorder == "big":
        numbers.byteswap()
    path.write_bytes(numbers.tobytes())
    return str(path)


def text(count: int, seed: int, step: int = 7) -> list[int]:
    """Few words are frequent, and each often decides the next: there is something to learn soon, and more later."""
    rng = random.Random(seed)
    words = range(len(SPECIAL), VOCABULARY)
    ids = [words[0]]
    while len(ids) < count:
        follows = (ids[-1] * step) % 9
        ids.append(words[follows if rng.random() < 0.5 else int(rng.expovariate(0.2)) % len(words)])
    return ids


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ``data`` of a job: token files of a small text."""
    folder = tmp_path_factory.mktemp("tokens")
    return {
        "train": write_tokens(folder / "train.bin", text(5000, seed=1)),
        "valid": write_tokens(folder / "valid.bin", text(600, seed=2)),
        "vocab_size": VOCABULARY,
        "special": SPECIAL,
        "floor": None,
        "sha256": "0" * 64,
    }


def configuration(family: str, **changes: Any) -> dict[str, Any]:
    """The ``config`` of a job: tiny. A ``model`` among the changes adds to that of the family."""
    model = MODELS["gpt" if family == "lora" else family] | changes.pop("model", {})
    settings = {
        "steps": 12,
        "micro_batch_size": 4,
        "sequence_length": 16,
        "learning_rate": 1e-2,
        "warmup_fraction": 0.1,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "seed": 1234,
        "eval_batches": 2,
        "deadline_seconds": 100,
        "interval_target": 0.02,
        "budget_seconds": 0,
        "masked": 3,
        "lora_rank": 2,
    }
    config = {"family": family, "model": model} | settings | changes
    layout = {"data_parallel": 1, "tensor_parallel": 1, "pipeline_stages": 1, "grad_accum": 1}
    return layout | {"global_batch_size": config["micro_batch_size"]} | config


@pytest.fixture(scope="package")
def base(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a base for LoRA, trained on a text in which other words follow."""
    folder = tmp_path_factory.mktemp("base")
    other = data | {"train": write_tokens(folder / "train.bin", text(5000, seed=3, step=11))}
    weights = str(folder / "base.pt")
    job = {"config": configuration("gpt", steps=30), "device": "cpu", "data": other, "weights": weights}
    train_base(job, Events())
    return weights


@pytest.fixture
def job(data: dict[str, Any], base: str) -> Callable[..., Job]:
    """Makes the job of a case: ``job(family, mode, **settings)``."""

    def make(family: str, mode: list[str] | None = None, **changes: Any) -> Job:
        return {
            "config": configuration(family, **changes),
            "mode": mode or [],
            "arithmetic": "bf16" if "bf16" in (mode or []) else "fp32",
            "device": "cpu",
            "data": data | {"base": base},
            "asked_at": 0.0,
        }

    return make
