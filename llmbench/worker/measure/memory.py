"""Memory: what torch's allocator, the device and the operating system each say, and what it holds by kind.

The peaks are of the training: ``MemoryMeter.reset`` starts them anew once the model is built. The split by kind is
measured in one training step outside the timed window::

    activations = ActivationMeter(model, device, hooks=not compiled)
    with activations.forward():
        loss = model(*batch)
    loss.backward()
    found = split(model, optimizer, device, activations.bytes)  # before zero_grad
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from llmbench.worker.device import Device

PROC = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")


class MemoryMeter:
    """Starts before the model is built; ``read`` tells the peaks since ``reset``.

    Attributes:
        facts: since when the resident memory's peak counts, as a fact for the record.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._start = resident()
        self._peak_since_reset = False
        self.facts = {"peak_rss_since": "the start of the process"}

    def reset(self) -> None:
        """Forgets the peaks so far: those of building the model, and of checks before the training."""
        if self._device.cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            # The peak of the resident memory becomes what is resident now (proc(5), since Linux 4.0).
            (PROC / "clear_refs").write_text("5\n")
        except OSError as error:
            self.facts["peak_rss_since"] = f"the start of the process (it cannot be reset: {error.strerror})"
            return
        self._peak_since_reset = True
        self.facts["peak_rss_since"] = "the first step"

    def read(self) -> dict[str, int | None]:
        """Bytes by kind; None for what the device does not know."""
        values: dict[str, int | None] = {
            "peak_allocated_bytes": None,
            "peak_reserved_bytes": None,
            "peak_rss_bytes": self._peak_resident(),
            "device_used_bytes": None,
            "start_rss_bytes": self._start,
            "capacity_bytes": host_memory(),
        }
        if self._device.cuda:
            free, total = torch.cuda.mem_get_info()
            values["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
            values["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
            values["device_used_bytes"] = total - free
            values["capacity_bytes"] = total
        return values

    def _peak_resident(self) -> int:
        if self._peak_since_reset:
            lines = (PROC / "status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int | None:
    try:
        pages = int((PROC / "statm").read_text().split()[1])
    except OSError:
        return None  # no /proc: the peak comes from getrusage
    return pages * os.sysconf("SC_PAGE_SIZE")


def host_memory() -> int:
    """Bytes that this process may use: the machine's, or the least of its cgroup and those above it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue  # the other version, or the root, which has no limit
            if text.isdigit():  # "max" is no limit
                limits.append(int(text))
    return min(limits)


def cgroup_folders(controller: str) -> list[Path]:
    """This process's cgroup and those above it, innermost first, of version 2 and of version 1 (cgroups(7))."""
    try:
        lines = (PROC / "cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        folder = root / path.strip("/")
        if ".." in folder.parts:  # above what this namespace shows
            folder = root
        folders += [folder, *(above for above in folder.parents if above == root or root in above.parents)]
    return folders


def split(
    model: nn.Module, optimizer: Optimizer, device: Device, activations: int | None = None
) -> dict[str, int | None]:
    """Bytes on the device by what they hold, of this rank; call it after the backward pass, before ``zero_grad``.

    A sharded tensor counts with its local shard, tied tensors count once. What lies elsewhere, such as the optimizer
    state offloaded to the host, is not counted: it takes nothing of the device's memory.

    Args:
        model: the rank's part of the model.
        activations: as ``ActivationMeter`` has measured them.
    """
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    return {
        "parameters": _bytes_on(device, parameters),
        "gradients": _bytes_on(device, gradients),
        "optimizer": _bytes_on(device, state),
        "activations": activations,
    }


class ActivationMeter:
    """Bytes that a forward pass leaves behind for the backward pass: the largest of those wrapped in ``forward``.

    On CUDA they are the change of what torch's allocator has handed out; replayed CUDA graphs allocate nothing, so
    they cannot be measured. On the CPU every tensor that an operator makes is followed until the end of the pass;
    what is still alive counts. Both see what autograd saves, what activation checkpointing keeps instead, copies of
    weights in autocast's arithmetic, and the loss. Parameters do not count, nor those that FSDP leaves gathered.

    Args:
        model: as it is called.
        hooks: whether operators may be watched. Of a compiled model they may not: it would be compiled otherwise, so
            ``bytes`` stays None on the CPU.

    Attributes:
        bytes: None before the first forward pass, or if it cannot be told.
    """

    def __init__(self, model: nn.Module, device: Device, hooks: bool = True) -> None:
        self.bytes: int | None = None
        self._model = model
        self._device = device
        self._hooks = hooks

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around one forward pass."""
        if not self._device.cuda and not self._hooks:
            yield
            return
        before = _storages(self._model.parameters())
        allocated = torch.cuda.memory_allocated() if self._device.cuda else 0
        watch = None if self._device.cuda else _Allocations()
        with watch or nullcontext():
            yield
        kept = watch.alive() if watch else torch.cuda.memory_allocated() - allocated
        gathered = _storages(self._model.parameters()).items() - before.items()
        self.bytes = max(self.bytes or 0, kept - sum(size for _, size in gathered))


class _Allocations(TorchDispatchMode):
    """Follows the memory of what operators make, without keeping it alive."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {storage._cdata for tensor in _tensors((args, kwargs)) for storage in _storages_of(tensor)}
        for tensor in _tensors(made):
            for storage in _storages_of(tensor):
                # A view, or a tensor changed in place, is not new.
                if storage._cdata not in given:
                    self._made[storage._cdata] = StorageWeakRef(storage)
        return made

    def alive(self) -> int:
        """Bytes of what was made and still is."""
        storages = (torch.UntypedStorage._new_with_weak_ptr(made.cdata) for made in self._made.values())
        return sum(storage.nbytes() for storage in storages if storage is not None)


def _bytes_on(device: Device, tensors: Iterable[Tensor]) -> int:
    here = (tensor for tensor in tensors if tensor.device.type == device.kind)
    return sum(_storages(here).values())


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each storage; several tensors may share one."""
    return {storage._cdata: storage.nbytes() for tensor in tensors for storage in _storages_of(tensor)}


def _storages_of(tensor: Tensor) -> Iterator[torch.UntypedStorage]:
    """The storages of a tensor on this rank: of a DTensor, that of its shard."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for inner in _tensors([getattr(tensor, name) for name in names]):  # a DTensor names its mesh, too
            yield from _storages_of(inner)
    elif tensor.layout == torch.strided and not tensor.is_mkldnn:
        yield tensor.untyped_storage()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
