"""InfiniBand and RoCE adapters, as /sys shows them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.network import nccl_matches, several_machines
from llmbench.doctor.runner import Context
from llmbench.doctor.system import read

SYS, DEV, PROC = Path("/sys"), Path("/dev"), Path("/proc")

PORT_DOWN = fault(
    "network.infiniband.down",
    "warn",
    "An InfiniBand port is down",
    cause="it has no link (no cable, a broken one, or a switch port that is off) or no subnet manager answers: NCCL "
    "uses the "
    "other ports, which is slower, or hangs where the other machines use this one",
    fix="check the cable and the switch port (ibdiagnet, ibstat <device>); if it is unused: export "
    "NCCL_IB_HCA=<others>",
    link="https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",
)
SLOW_PORT = fault(
    "network.infiniband.rate",
    "warn",
    "An InfiniBand port runs at a reduced rate",
    cause="the link came up with fewer lanes or at a lower speed than its neighbours, as with a bad cable or a wrong "
    "switch "
    "setting: every collective waits for the slowest port",
    fix="reseat or replace the cable, then check the switch port: ibdiagnet; mlxlink -d <device>",
)
NO_GID = fault(
    "network.infiniband.gid",
    "warn",
    "A RoCE port has no address",
    cause="its network interface has no IP address, so it has no GID to be reached by: NCCL fails or leaves it out",
    fix="ip addr add <address>/<prefix> dev <the interface of the adapter>; or export NCCL_IB_HCA to the other "
    "adapters",
)
NO_DEVICES = fault(
    "network.infiniband.devices",
    "warn",
    "InfiniBand adapters are here, but programs may not use them",
    cause="there is no /dev/infiniband/uverbs*, as in a container that was not given them: NCCL uses sockets, which "
    "are many "
    "times slower",
    fix="docker run --device=/dev/infiniband --ulimit memlock=-1; Kubernetes: request the RDMA device plugin's "
    "resource; "
    "on the host: modprobe ib_uverbs",
)
NO_PEER_MEMORY = fault(
    "network.infiniband.peermem",
    "warn",
    "InfiniBand cannot reach the memory of the GPUs",
    cause="the module nvidia_peermem is not loaded, and this driver has no DMA-BUF instead: NCCL copies everything "
    "through "
    "the CPU's memory (GPU Direct RDMA Disabled)",
    fix="modprobe nvidia_peermem; echo nvidia_peermem > /etc/modules-load.d/nvidia-peermem.conf",
    link="https://github.com/NVIDIA/nccl/issues/1537",
)


@dataclass(frozen=True)
class Port:
    """A port of an adapter, in the words of /sys/class/infiniband."""

    device: str
    number: str
    kind: str
    state: str
    physical: str
    rate: str
    layer: str
    gids: int

    @property
    def name(self) -> str:
        return f"{self.device} port {self.number}"

    @property
    def active(self) -> bool:
        return "ACTIVE" in self.state

    @property
    def gigabits(self) -> float:
        found = re.match(r"[\d.]+", self.rate)
        return float(found.group()) if found else 0.0

    @property
    def lanes(self) -> int:
        found = re.search(r"\((\d+)X", self.rate)
        return int(found.group(1)) if found else 0


def ports() -> list[Port]:
    found = []
    for folder in _entries(SYS / "class" / "infiniband", "*/ports/*"):
        device = folder.parent.parent

        def word(name: str, folder: Path = folder) -> str:
            return (read(folder / name) or "").strip().partition(": ")[2] or (read(folder / name) or "").strip()

        gids = [(read(gid) or "").strip() for gid in _entries(folder / "gids", "*")]
        kind = (read(device / "hca_type") or "").strip()
        used = sum(bool(gid.strip("0:")) for gid in gids)
        state, physical, rate, layer = (word(name) for name in ("state", "phys_state", "rate", "link_layer"))
        found.append(Port(device.name, folder.name, kind, state, physical, rate, layer, used if gids else -1))
    return found


def _entries(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


@check("network.infiniband", "InfiniBand and RoCE ports are up", needs=("python.starts",))
def infiniband(context: Context) -> Iterator[Finding]:
    """Only of ports that should be up: one of Ethernet may be without a cable, and one may be switched off."""
    there = ports()
    if not there:
        yield skipped("no adapter in /sys/class/infiniband")
        return
    found = [*_down(context, there), *_slow(there), *_unused(context, there)]
    yield from found
    if not found:
        shown = ", ".join(f"{port.name} {port.state} {port.rate}" for port in there)
        yield passed(f"{shown}; {_peer_memory()}")


def _down(context: Context, there: list[Port]) -> Iterator[Finding]:
    named = context.environ.get("NCCL_IB_HCA", "")
    asked = set(nccl_matches(named, [port.device for port in there])) if named else set()
    active = ",".join(port.device for port in there if port.active)
    for port in there:
        expected = port.device in asked or (
            not named and port.layer == "InfiniBand" and "Disabled" not in port.physical
        )
        if not port.active and expected:
            yield PORT_DOWN.found(
                f"InfiniBand {port.name} is {port.state} ({port.physical}), in /sys/class/infiniband",
                device=port.device,
                others=active or "(none is up)",
            )
        elif port.active and port.layer == "Ethernet" and port.gids == 0:
            yield NO_GID.found(f"RoCE {port.name} is {port.state}, but all its GIDs are zero")


def _slow(there: list[Port]) -> Iterator[Finding]:
    for port in there:
        alike = [other for other in there if other.active and other.kind == port.kind and other.layer == port.layer]
        best = max(alike, key=lambda other: other.gigabits, default=port)
        if port.active and (port.gigabits < best.gigabits or (port.layer == "InfiniBand" and 0 < port.lanes < 4)):
            other = f"; {best.name} of the same type runs at {best.rate}" if best.gigabits > port.gigabits else ""
            yield SLOW_PORT.found(f"InfiniBand {port.name} runs at a rate of {port.rate}{other}", device=port.device)


def _unused(context: Context, there: list[Port]) -> Iterator[Finding]:
    active = [port for port in there if port.active]
    wanted = several_machines(context) or any(name.startswith("NCCL_IB_") for name in context.environ)
    if active and wanted and not _entries(DEV / "infiniband", "uverbs*"):
        yield NO_DEVICES.found(f"{active[0].name} is {active[0].state}, but {DEV / 'infiniband'} has no uverbs device")
    if active and nvidia_devices() and _peer_memory().startswith("neither"):
        yield NO_PEER_MEMORY.found(f"{active[0].name} is {active[0].state} beside GPUs, but {_peer_memory()}")


def _peer_memory() -> str:
    """How adapters reach the memory of GPUs."""
    if any((SYS / "module" / name).is_dir() for name in ("nvidia_peermem", "nv_peer_mem")):
        return "nvidia_peermem is loaded"
    version = read(PROC / "driver" / "nvidia" / "version") or ""
    kernel = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if "Open Kernel Module" in version and kernel >= (5, 12):
        return "nvidia_peermem is not loaded, but the open kernel module has DMA-BUF instead"
    return "neither nvidia_peermem is loaded, nor has this driver DMA-BUF"
