from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from llmbench.worker.device import Device
from llmbench.worker.measure import memory
from llmbench.worker.measure.memory import ActivationMeter, MemoryMeter, cgroup_folders, host_memory, split

CPU = Device("cpu")
MACHINE = psutil.virtual_memory().total
PAGE = os.sysconf("SC_PAGE_SIZE")
MEBIBYTE = 2**20


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which proc and cgroup stand in for the system's."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc").mkdir()
    (tmp_path / "cgroup").mkdir()
    return tmp_path


# Peaks


def touch(size: int) -> None:
    """Makes ``size`` bytes resident, and frees them."""
    block = bytearray(size)
    block[::PAGE] = b"\1" * len(block[::PAGE])


def test_on_the_cpu_it_is_the_resident_memory() -> None:
    now = psutil.Process().memory_info().rss
    found = MemoryMeter(CPU).read()
    assert {name for name, value in found.items() if value is None} == {
        "peak_allocated_bytes",
        "peak_reserved_bytes",
        "device_used_bytes",
    }
    assert found["start_rss_bytes"] == pytest.approx(now, rel=0.1)
    assert found["peak_rss_bytes"] >= 0.9 * found["start_rss_bytes"]
    assert found["capacity_bytes"] <= MACHINE


def test_the_peak_holds_what_was_freed_again() -> None:
    meter = MemoryMeter(CPU)
    meter.reset()
    before = psutil.Process().memory_info().rss
    touch(64 * MEBIBYTE)
    assert before + 48 * MEBIBYTE <= meter.read()["peak_rss_bytes"] <= before + 80 * MEBIBYTE


def test_the_peak_does_not_hold_what_was_before_the_training() -> None:
    meter = MemoryMeter(CPU)
    touch(96 * MEBIBYTE)
    before = meter.read()["peak_rss_bytes"]
    meter.reset()
    found = meter.read()["peak_rss_bytes"]
    assert found <= before - 64 * MEBIBYTE
    assert found == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert meter.facts == {"peak_rss_since": "the first step"}


def test_a_peak_that_cannot_be_reset_is_that_of_the_process_and_says_so(linux: Path) -> None:
    (linux / "proc" / "clear_refs").mkdir()  # cannot be written
    meter = MemoryMeter(CPU)
    before = psutil.Process().memory_info().rss
    touch(64 * MEBIBYTE)
    meter.reset()
    assert meter.read()["peak_rss_bytes"] >= before + 48 * MEBIBYTE
    assert meter.facts == {"peak_rss_since": "the start of the process (it cannot be reset: Is a directory)"}


def test_without_a_reset_the_peak_is_that_of_the_process() -> None:
    assert MemoryMeter(CPU).facts == {"peak_rss_since": "the start of the process"}


def test_without_proc_there_is_no_start(linux: Path) -> None:
    found = MemoryMeter(CPU).read()
    assert found["start_rss_bytes"] is None
    assert found["peak_rss_bytes"] > MEBIBYTE
    assert found["capacity_bytes"] == MACHINE


class Cuda(Device):
    def __init__(self) -> None:
        self.kind = "cuda"


def test_a_gpu_tells_what_is_allocated_reserved_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(peak=100, reserved=200)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: state.peak)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: state.reserved)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300, 1000))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: vars(state).update(peak=10, reserved=20))
    meter = MemoryMeter(Cuda())
    found = meter.read()
    assert (found["peak_allocated_bytes"], found["peak_reserved_bytes"]) == (100, 200)
    assert (found["device_used_bytes"], found["capacity_bytes"]) == (700, 1000)
    meter.reset()
    found = meter.read()
    assert (found["peak_allocated_bytes"], found["peak_reserved_bytes"]) == (10, 20)


# Cgroups

V1, V2 = "4:memory:/kube/pod/box\n9:name=systemd:/other\n", "0::/kube/pod/box\n"


def limit(linux: Path, path: str, content: object) -> None:
    file = linux / "cgroup" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        (V2, {}, MACHINE),
        (V2, {"kube/pod/box/memory.max": "max"}, MACHINE),
        (V2, {"kube/pod/box/memory.max": 2**28, "kube/memory.max": 2**29}, 2**28),
        (V2, {"kube/pod/box/memory.max": "max", "kube/pod/memory.max": 2**27, "kube/memory.max": 2**29}, 2**27),
        (V2, {"kube/pod/other/memory.max": 2**26, "kube/pod/box/memory.max": 2**28}, 2**28),
        (V2, {"memory.max": 2**28}, 2**28),  # the container's own, seen as the root
        (V2, {"kube/pod/box/memory.max": 2**60}, MACHINE),
        (V1, {"memory/kube/pod/box/memory.limit_in_bytes": 9223372036854771712}, MACHINE),  # no limit
        (V1, {"memory/kube/memory.limit_in_bytes": 2**27, "memory/memory.limit_in_bytes": 2**29}, 2**27),
        (V1, {"memory/other/memory.limit_in_bytes": 2**27}, MACHINE),
        (V1 + "0::/\n", {"memory/kube/pod/memory.limit_in_bytes": 2**27, "unified/memory.max": 5}, 2**27),
        ("0::/../up\n", {"memory.max": 2**27, "../up/memory.max": 2**20}, 2**27),  # outside of its namespace
        ("", {"memory.max": 2**27}, MACHINE),
    ],
)
def test_the_host_s_memory_is_the_least_of_its_cgroup_and_those_above(
    own: str, limits: dict[str, object], expected: int, linux: Path
) -> None:
    (linux / "proc" / "cgroup").write_text(own)
    for path, content in limits.items():
        limit(linux, path, content)
    assert host_memory() == expected


def test_the_folders_of_a_controller_from_the_inside_out(linux: Path) -> None:
    (linux / "proc" / "cgroup").write_text("2:cpu,cpuacct:/box\n4:memory:/a/b\n0::/c\n")
    root = linux / "cgroup"
    assert cgroup_folders("cpu") == [root / "cpu" / "box", root / "cpu", root / "c", root]
    assert cgroup_folders("memory")[:3] == [root / "memory/a/b", root / "memory/a", root / "memory"]


# What memory holds, by kind

TOKENS, WIDTH, VOCABULARY = 32, 16, 50
KIBIBYTE_OF_TOKENS = TOKENS * WIDTH * 4  # one activation in fp32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))


class Model(nn.Module):
    """Two blocks between an embedding and the head that is tied to it."""

    def __init__(self, run: Any = lambda block, x: block(x)) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.run = run

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = self.run(block, x)
        return F.cross_entropy(self.head(x), targets)


BLOCK_PARAMETERS = 2 * 4 * WIDTH * WIDTH + 5 * WIDTH
PARAMETERS = 4 * (VOCABULARY * WIDTH + 2 * BLOCK_PARAMETERS)
ENDS = TOKENS * WIDTH * 4 + TOKENS * VOCABULARY * 4 + 4 + 4  # embedded, log-probabilities, loss and its weight


@pytest.fixture
def staged() -> Tensor:
    """The batches of many steps in one tensor, of which a step sees a view."""
    return torch.arange(100 * TOKENS).reshape(100, TOKENS) % VOCABULARY


def step(model: nn.Module, staged: Tensor, meter: ActivationMeter) -> None:
    with meter.forward():
        loss = model(staged[0], staged[1])
    loss.backward()


def test_parameters_gradients_and_optimizer_state(staged: Tensor) -> None:
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    before = split(model, optimizer, CPU)
    assert before == {"parameters": PARAMETERS, "gradients": 0, "optimizer": 0, "activations": None}
    for _ in range(2):
        optimizer.zero_grad()
        step(model, staged, ActivationMeter(model, CPU))
        optimizer.step()
    found = split(model, optimizer, CPU, activations=7)
    tensors = len(list(model.parameters()))
    assert found == {
        "parameters": PARAMETERS,  # the tied head once
        "gradients": PARAMETERS,
        "optimizer": 2 * PARAMETERS + 4 * tensors,  # two moments, and the number of steps
        "activations": 7,
    }


def test_frozen_weights_have_neither_gradient_nor_state(staged: Tensor) -> None:
    model = Model()
    model.embedding.requires_grad_(False)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad])
    step(model, staged, ActivationMeter(model, CPU))
    found = split(model, optimizer, CPU)
    assert found["parameters"] == PARAMETERS
    assert found["gradients"] == PARAMETERS - 4 * VOCABULARY * WIDTH


def test_what_lies_elsewhere_takes_nothing_of_the_device(staged: Tensor) -> None:
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, staged, ActivationMeter(model, CPU))
    optimizer.step()  # state and weights are on the host
    assert split(model, optimizer, Cuda()) == {"parameters": 0, "gradients": 0, "optimizer": 0, "activations": None}


def test_a_gradient_that_views_a_bucket_counts_with_the_bucket() -> None:
    model = nn.Linear(3, 2)
    bucket = torch.zeros(10)  # with room for a neighbour
    model.weight.grad, model.bias.grad = bucket[:6].view(2, 3), bucket[6:8]
    assert split(model, torch.optim.SGD(model.parameters()), CPU)["gradients"] == 40


def test_activations_are_what_the_forward_pass_leaves_behind(staged: Tensor) -> None:
    model = Model()
    meter = ActivationMeter(model, CPU)
    assert meter.bytes is None
    step(model, staged, meter)
    # Of a block: the hidden layer before and after GELU, and the sum at its end.
    assert meter.bytes == 2 * 9 * KIBIBYTE_OF_TOKENS + ENDS


def selective(block: nn.Module, x: Tensor) -> Tensor:
    """Keeps the outputs of matrix products, recomputes the rest."""

    def policy(_: object, operator: object, *args: object, **kwargs: object) -> CheckpointPolicy:
        kept = operator == torch.ops.aten.addmm.default
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy))


@pytest.mark.parametrize(
    ("run", "activations_of_a_block"),
    [
        (lambda block, x: checkpoint(block, x, use_reentrant=False), 1),  # its input
        (lambda block, x: checkpoint(block, x, use_reentrant=True), 1),
        (selective, 4 + 1 + 1),  # both products, and its input
    ],
)
def test_activation_checkpointing_leaves_less_behind(run: Any, activations_of_a_block: int, staged: Tensor) -> None:
    model = Model(run)
    meter = ActivationMeter(model, CPU)
    step(model, staged, meter)
    assert meter.bytes == 2 * activations_of_a_block * KIBIBYTE_OF_TOKENS + ENDS


def test_of_several_forward_passes_the_largest_counts(staged: Tensor) -> None:
    model = Model()
    meter = ActivationMeter(model, CPU)
    step(model, staged[:, :8], meter)
    small = meter.bytes
    step(model, staged, meter)
    large = meter.bytes
    step(model, staged[:, :8], meter)
    assert 0 < small < large == meter.bytes


def test_watching_changes_no_bit(staged: Tensor) -> None:
    torch.manual_seed(0)
    model = Model(selective)
    model(staged[0], staged[1]).backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    step(model, staged, ActivationMeter(model, CPU))
    assert all(torch.equal(one, two.grad) for one, two in zip(plain, model.parameters(), strict=True))


def test_memory_is_not_kept_alive(staged: Tensor) -> None:
    model = Model()
    meter = ActivationMeter(model, CPU)
    with meter.forward():
        model(staged[0], staged[1])  # nobody keeps the loss
    assert meter.bytes == 0


def test_a_compiled_model_is_not_watched(staged: Tensor) -> None:
    model = Model()
    meter = ActivationMeter(model, CPU, hooks=False)
    step(model, staged, meter)
    assert meter.bytes is None


def test_on_a_gpu_activations_are_what_the_allocator_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(allocated=1000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: state.allocated)
    model = nn.Linear(3, 2, bias=False)
    meter = ActivationMeter(model, Cuda(), hooks=False)
    with meter.forward():
        state.allocated = 1700
    assert meter.bytes == 700
    with meter.forward():
        state.allocated = 3000
        model.weight = nn.Parameter(torch.zeros(10, 10))  # as FSDP does with the parameters that it gathers
    assert meter.bytes == 1300 - 400


# Several ranks, of which this process is one: collectives of the fake backend do nothing.


@pytest.fixture
def two_ranks() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sharded_tensors_count_with_the_shard_of_this_rank(two_ranks: Any, staged: Tensor) -> None:
    from torch.distributed.fsdp import fully_shard

    model = Model()
    for block in model.blocks:
        fully_shard(block, mesh=two_ranks)
    fully_shard(model, mesh=two_ranks)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    meter = ActivationMeter(model, CPU)
    step(model, staged, meter)
    optimizer.step()
    found = split(model, optimizer, CPU, meter.bytes)
    tensors = len(list(model.parameters()))
    assert (found["parameters"], found["gradients"]) == (PARAMETERS / 2, PARAMETERS / 2)
    assert found["optimizer"] == PARAMETERS + 4 * tensors
    # The weights of the root stay gathered for the backward pass; they are no activations.
    assert found["activations"] == 2 * 9 * KIBIBYTE_OF_TOKENS + ENDS


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensor_parallel_activations_count_with_the_shard_of_this_rank(two_ranks: Any) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    block = Block()
    parallelize_module(block, two_ranks, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    meter = ActivationMeter(block, CPU)
    x = torch.randn(TOKENS, WIDTH, requires_grad=True)
    with meter.forward():
        out = block(x)
    biases = WIDTH  # that of down is on both ranks
    assert split(block, torch.optim.SGD(block.parameters()), CPU)["parameters"] == 4 * (
        (BLOCK_PARAMETERS - biases) // 2 + biases
    )
    # Half of the hidden layer, before and after GELU, and the output.
    assert meter.bytes == (2 + 2 + 1) * KIBIBYTE_OF_TOKENS
    assert out.shape == x.shape
