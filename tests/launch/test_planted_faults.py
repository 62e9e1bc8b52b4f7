"""A training that goes wrong without a word is ``invalid``, and the record says where. Every fault here is a real one.

Each has a healthy twin, which differs from it in the fault only and is ``ok``: so it is the fault that is seen.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.results.schema import Record
from tests.conftest import Command, records_of

from .conftest import Train

pytestmark = pytest.mark.slow

PRELOAD = ("torch._inductor.compile_fx", "functorch.compile")
HEALTHY = "own_line:Healthy"
SETTINGS = "{ steps = 20, threads = 1, budget_seconds = 0, deadline_seconds = 100 }"
EAGER64 = "eager fp64"


def planted(train: Train, fault: str, twin: str, mode: str = "eager", world_size: int = 1) -> Record:
    """The record of the fault, in a run with its twin."""
    fault = f"broken_training:{fault}"
    cases = [(fault, "eager", 1), (twin, "eager", 1), (fault, mode, world_size), (twin, mode, world_size)]
    includes = (f'[[include]]\nworkload = "{w}"\nmode = "{m}"\nworld_size = {size}' for w, m, size in cases)
    records = train("\n".join([f"settings = {SETTINGS}", *includes]))
    for case in (f"{twin}/eager/ws1", f"{twin}/{mode}/ws{world_size}"):
        assert records[case].status == "ok", records[case].error
    record = records[f"{fault}/{mode}/ws{world_size}"]
    if record.status == "invalid":
        assert record.error is not None
        assert record.error.hint
        assert record.throughput is not None  # shown, never dropped
    return record


def strays(record: Record, reference: str, tensor: str | None = None) -> int | None:
    """The step from which the record is known to stray; its message says so too."""
    assert record.status == "invalid"
    assert record.parity is not None
    assert (record.parity.verdict, record.parity.reference, record.parity.tensor) == ("fail", reference, tensor)
    assert record.error is not None
    assert f"it strays from {reference} at step {record.parity.step}" in record.error.message
    assert tensor is None or f"tensor {tensor}" in record.error.message
    return record.parity.step


def test_fp16_without_a_scaler(train: Train) -> None:
    record = planted(train, "UnderflowsUnscaled", "broken_training:Underflows", "fp16")
    assert strays(record, EAGER64, record.parity.tensor) == 0
    assert record.parity.value == pytest.approx(1)  # nothing is left of the gradient


def test_ddp_whose_gradients_are_not_reduced(train: Train) -> None:
    record = planted(train, "NeverReduced", HEALTHY, "ddp", 2)
    assert strays(record, EAGER64, record.parity.tensor) == 0


def test_ddp_that_leaves_one_small_tensor_out(train: Train) -> None:
    record = planted(train, "OneBiasNotReduced", HEALTHY, "ddp", 2)
    assert strays(record, EAGER64, "out.bias") == 0


def test_ddp_that_reduces_the_gradients_of_the_first_step_only(train: Train) -> None:
    record = planted(train, "ReducedAtFirst", HEALTHY, "ddp", 2)
    step = strays(record, "broken_training:ReducedAtFirst/eager/ws1")
    assert step is not None
    assert step > 0


@pytest.mark.compiler
@pytest.mark.parametrize(("fault", "size"), [("CompiledUphill", 2), ("Miscompiled", 0.001)])
def test_a_compile_backend_that_returns_a_wrong_gradient(fault: str, size: float, train: Train) -> None:
    """Be it of one tensor, and by a thousandth of it."""
    record = planted(train, fault, "broken_training:Compiled", "compile")
    assert strays(record, EAGER64, "hidden.weight") == 0
    assert record.parity.value == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize(("mode", "world_size"), [("eager", 1), ("ddp", 2)])
def test_lora_whose_base_moves(mode: str, world_size: int, train: Train) -> None:
    record = planted(train, "MovesItsBase", "broken_training:Adapts", mode, world_size)
    assert record.status == "invalid"
    assert record.error.message == "frozen weights changed: hidden.weight"
    assert record.facts["frozen_unchanged"] is False


@pytest.mark.parametrize("mode", ["eager", "bf16"])
def test_a_loss_that_is_nan_from_step_2(mode: str, train: Train) -> None:
    record = planted(train, "NanFromStep2", HEALTHY, mode)
    assert record.status == "invalid"
    assert record.error.message == "the loss is not finite from step 2"
    assert record.loss.finite is False


def test_a_data_order_that_differs_between_ranks(train: Train) -> None:
    record = planted(train, "OwnOrderOnEachRank", HEALTHY, "ddp", 2)
    assert record.status == "invalid"
    assert record.error.message.startswith("rank 1 differs from rank 0 in the order of the data")


def test_ranks_that_begin_with_other_weights(train: Train) -> None:
    """DDP would make them alike; other modes would not."""
    record = planted(train, "OwnWeightsOnEachRank", HEALTHY, "ddp", 2)
    assert record.status == "invalid"
    assert record.error.message == "rank 1 differs from rank 0 in the weights"


def test_eager_that_is_not_deterministic_is_told(train: Train) -> None:
    record = planted(train, "NotDeterministic", HEALTHY)
    assert record.status == "ok"
    assert record.parity.deterministic is False
    assert planted(train, "Underflows", HEALTHY).parity.deterministic is True


def test_gradients_that_nobody_could_compare_are_told(train: Train) -> None:
    record = planted(train, "NoDouble", HEALTHY, "bf16")
    assert record.status == "ok"
    assert record.facts["no_gradient_parity"].startswith("no kernel for double")
    assert [check.reference for check in record.parity.checks] == ["broken_training:NoDouble/eager/ws1"]


def test_the_command_says_it_too(llmbench: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'workloads = ["tests.launch.broken_training:NeverReduced", "regression-linear"]\n'
        f'modes = ["ddp"]\nworld_sizes = [2]\nsettings = {SETTINGS}'
    )
    done = llmbench("run", "mine.toml", "--out", "r")
    assert done.returncode == 3, done.stderr
    wrong, right = records_of(tmp_path / "r").values()
    assert strays(wrong, EAGER64, wrong.parity.tensor) == 0
    assert right.status == "ok"
    assert wrong.error.message in done.stderr + done.stdout
