"""How GPUs are joined to the CPU and to each other: PCIe, NVLink, NVSwitch, peer-to-peer."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmbench.doctor import nvml
from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Finding
from llmbench.doctor.nvml import Gpu, Reading, gib, gpu_check, is_container, is_running, names, of_pci, ranges, told
from llmbench.doctor.runner import Context
from llmbench.doctor.system import read

_NVSWITCH = "https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/index.html"
_REPLAYS = 1000
_REPLAYS_A_MINUTE = 8
"""DCGM's limit for the health of PCIe."""
_AER = 1000

WIDTH = fault(
    "gpu.pcie.width",
    "warn",
    "The PCIe link of a GPU has lost lanes",
    cause="the link runs with fewer lanes than card and slot allow (degraded): loading data, offloading and "
    "collectives over PCIe are slower by as much",
    fix="reseat the card or its riser, clean the contacts, look at the slot's bifurcation in the BIOS; "
    "sudo lspci -vvs <address> | grep Lnk",
)
GENERATION = fault(
    "gpu.pcie.generation",
    "warn",
    "The PCIe link of a GPU runs at a lower generation under load",
    cause="although the GPU is busy, the link stays slower than GPU and slot allow (an idle one is slow to save "
    "power): signal quality, a riser, or a BIOS setting",
    fix="set the slot's PCIe speed to its maximum in the BIOS, not Auto; reseat the card, replace the riser; "
    "sudo lspci -vvs <address> | grep Lnk",
)
REPLAYS = fault(
    "gpu.pcie.replays",
    "warn",
    "The PCIe link of a GPU repeats many packets",
    cause="packets arrive damaged and are sent again (PCIe replay counter): bandwidth drops, and the GPU may fall "
    "off the bus",
    fix="reseat the card, replace riser or cable; watch it: nvidia-smi --query-gpu=index,pcie.link.gen.current,"
    "pcie.link.width.current --format=csv; nvidia-smi -q | grep -i replay",
)
AER = fault(
    "gpu.pcie.aer",
    "warn",
    "The PCIe link of a GPU has errors (AER)",
    cause="the kernel counts errors on the link of this GPU: a bad seat, riser or slot, or a failing card",
    fix="reseat the card, replace the riser; sudo dmesg | grep -i aer",
)
BAR1 = fault(
    "gpu.pcie.bar1",
    "warn",
    "The BAR1 window of a GPU is smaller than its memory",
    cause="peers and network cards reach only a part of its memory at a time: GPUDirect RDMA and peer-to-peer are "
    "slow or refused",
    fix="enable 'Above 4G decoding' and 'Resizable BAR' in the BIOS; in a virtual machine, enlarge its 64-bit MMIO "
    "window",
)


@gpu_check("gpu.pcie", "PCIe links of GPUs are as wide and fast as they can be", fields=("pcie_width",))
def pcie(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Width at any time, generation under load only, error counters."""
    address = next((gpu.bus for gpu in reading.gpus if gpu.bus), "0000:01:00.0")
    yield from told(WIDTH, [(gpu, text) for gpu in reading.gpus if (text := _narrow(gpu))], address=address)
    yield from told(GENERATION, [(gpu, text) for gpu in reading.gpus if (text := _slow(gpu))], address=address)
    yield from told(REPLAYS, [(gpu, text) for gpu in reading.gpus if (text := _replays(gpu))])
    yield from told(AER, [(gpu, text) for gpu in reading.gpus if (text := _aer(gpu))])
    yield from told(BAR1, [(gpu, text) for gpu in reading.gpus if (text := _small_bar(gpu))])
    widths = Counter(_link(gpu) for gpu in reading.gpus if gpu.number("pcie_width"))
    if widths:
        nodes = {node for gpu in reading.gpus if (node := of_pci(gpu, "numa_node")) and node != "-1"}
        numa = f"; NUMA nodes {', '.join(sorted(nodes))}" if len(nodes) > 1 else ""
        yield "PCIe " + ", ".join(f"{link} ({count} GPUs)" for link, count in widths.items()) + numa


def _link(gpu: Gpu) -> str:
    most = gpu.number("pcie_generation_maximum")
    return f"x{gpu.number('pcie_width')} gen {gpu.number('pcie_generation')}" + (f" (up to {most})" if most else "")


def _narrow(gpu: Gpu) -> str | None:
    width, most = gpu.number("pcie_width"), gpu.number("pcie_width_maximum")
    if not width or not most or width >= most or gpu.is_virtual:
        return None
    # Half the lanes is how consumer boards share them between two slots, and laptops save power.
    if not gpu.is_data_centre and (width * 2 >= most or "Laptop" in gpu.name):
        return None
    slot = _slot_width(gpu)
    if slot is not None and slot <= width:
        return None
    return f"PCIe link width x{width}, card and slot allow x{most} (degraded)"


def _slot_width(gpu: Gpu) -> int | None:
    """Lanes of the port that the card is in."""
    if gpu.bus is None:
        return None
    parent = os.path.dirname(os.path.realpath(nvml.PCI / gpu.bus))
    text = (read(f"{parent}/max_link_width") or "").strip()
    return int(text) if text.isdigit() and int(text) else None


def _slow(gpu: Gpu) -> str | None:
    most = gpu.number("pcie_generation_maximum")
    samples = [value for name in ("pcie_generation", "again/pcie_generation") if (value := gpu.number(name))]
    if gpu.load < 20 or not most or not samples or max(samples) >= most or gpu.is_virtual:
        return None
    return f"PCIe link at generation {max(samples)} of {most} at {gpu.load} % load (degraded)"


def _replays(gpu: Gpu) -> str | None:
    count = gpu.number("pcie_replays") or 0
    uptime = (read("/proc/uptime") or "").split()
    minutes = max(float(uptime[0]) / 60, 1) if uptime else None
    often = minutes is not None and count >= 100 and count / minutes > _REPLAYS_A_MINUTE
    return f"{count} PCIe replays since the driver loaded" if count >= _REPLAYS or often else None


def _aer(gpu: Gpu) -> str | None:
    fatal = _errors(gpu, "aer_dev_fatal")
    nonfatal = _errors(gpu, "aer_dev_nonfatal")
    corrected = _errors(gpu, "aer_dev_correctable")
    if not fatal and not nonfatal and corrected < _AER:
        return None
    return f"AER errors of its PCIe link: {fatal} fatal, {nonfatal} non-fatal, {corrected} corrected"


def _errors(gpu: Gpu, name: str) -> int:
    """Sum of the kinds of error; requests that the device does not know are made by every boot."""
    counts = [line.split() for line in (of_pci(gpu, name) or "").splitlines()]
    ignored = ("UnsupReq", "TOTAL_ERR_FATAL", "TOTAL_ERR_NONFATAL", "TOTAL_ERR_COR", "NonFatalErr")
    return sum(int(pair[1]) for pair in counts if len(pair) == 2 and pair[1].isdigit() and pair[0] not in ignored)


def _small_bar(gpu: Gpu) -> str | None:
    bar, memory = (gpu.get("bar1") or {}).get("bar1Total"), (gpu.get("memory") or {}).get("total")
    if not bar or not memory or not gpu.has_fabric or gpu.is_virtual or bar >= memory / 2:
        return None
    return f"BAR1 of {gib(bar)} for {gib(memory)} of memory"


LINKS_DOWN = fault(
    "gpu.nvlink.down",
    "fail",
    "NVLinks of a GPU are down",
    cause="links between GPUs that ought to be up are inactive: collectives run at the speed of the slowest pair, or "
    "fail (Xid 74)",
    fix="nvidia-smi nvlink -s -i <gpus>; reset all GPUs and restart the fabric manager "
    "(sudo systemctl restart nvidia-fabricmanager), or reboot; then check bridge, baseboard or module",
    link=_NVSWITCH,
)
LINK_ERRORS = fault(
    "gpu.nvlink.errors",
    "warn",
    "NVLinks of a GPU have errors",
    cause="packets between GPUs are damaged and sent again, or links had to be trained anew: collectives are slower, "
    "and jobs may die (Xid 74)",
    fix="nvidia-smi nvlink -e -i <gpus>, and again after an hour; reseat bridge or module, return it if they grow",
)
_LIMITS = {"replay": 100, "recovery": 5, "CRC flit": 1000, "CRC data": 1000}
"""Counts of one link since the driver was loaded, up to which training links up may cause them."""


@gpu_check(
    "gpu.nvlink", "NVLinks are up and without errors", fields=("nvlinks",), follows=("gpu.present", "gpu.fabric")
)
def nvlink(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """States of links against GPUs of the same model, and their error counters."""
    gpus = [gpu for gpu in reading.gpus if gpu.get("nvlinks")]
    up = {gpu.index: sum(bool(state) for state in gpu.get("nvlinks")) for gpu in gpus}
    down = [gpu for gpu in gpus if up[gpu.index] < _ought(gpu, gpus, up)]
    yield from told(LINKS_DOWN, [(gpu, _down(gpu)) for gpu in down])
    yield from told(LINK_ERRORS, [(gpu, text) for gpu in gpus if (text := _link_errors(gpu))])
    if gpus:
        yield f"NVLinks up: {', '.join(str(count) for count in sorted(set(up.values())))} on each of {len(gpus)} GPUs"
    elif reading.gpus and all(gpu.get("nvlinks") == [] for gpu in reading.gpus):
        yield "these GPUs have no NVLink"


def _ought(gpu: Gpu, gpus: Sequence[Gpu], up: dict[int, int]) -> int:
    """As many as the best of its model; all on a board that joins its GPUs. A card without a bridge has none up."""
    same = [other for other in gpus if other.name == gpu.name]
    best = max(up[other.index] for other in same)
    return max(best, 1) if gpu.has_fabric and len(same) > 1 else best


def _down(gpu: Gpu) -> str:
    states = gpu.get("nvlinks")
    down = [link for link, state in enumerate(states) if not state]
    return f"NVLinks {ranges(down)} are down (inactive), {len(down)} of {len(states)}"


def _link_errors(gpu: Gpu) -> str | None:
    counts = gpu.get("nvlink_errors") or {}
    if not any(max(counts.get(kind, []), default=0) >= limit for kind, limit in _LIMITS.items()):
        return None
    up = [link for link, state in enumerate(gpu.get("nvlinks")) if state]
    texts = []
    for kind, values in counts.items():
        if any(values):
            worst = max(range(len(values)), key=values.__getitem__)
            texts.append(f"{sum(values)} {kind} errors (link {up[worst]}: {values[worst]})")
    return "NVLink: " + ", ".join(texts)


FABRIC = fault(
    "gpu.fabric.not-ready",
    "fail",
    "A GPU is not registered with the NVSwitch fabric",
    cause="the fabric manager has not (yet) set up NVLink between the GPUs: CUDA fails with error 802, 'system not yet "
    "initialized', or with cudaErrorSystemNotReady",
    fix="sudo systemctl enable --now nvidia-fabricmanager (of the driver's exact version <driver>), then "
    "sudo systemctl status nvidia-fabricmanager; nvidia-smi -q | grep -A3 Fabric",
    link=_NVSWITCH,
)
FABRIC_HEALTH = fault(
    "gpu.fabric.unhealthy",
    "warn",
    "The NVSwitch fabric of a GPU is unhealthy",
    cause="the fabric manager reports trouble with the routes of this GPU: collectives are slower or fail",
    fix="nvidia-smi -q -i <gpus> | grep -A12 Fabric; sudo journalctl -u nvidia-fabricmanager; restart it, or reboot",
    link=_NVSWITCH,
)
FABRIC_MANAGER = fault(
    "gpu.fabric.manager",
    "fail",
    "The fabric manager does not run",
    cause="this machine has NVSwitches, which the fabric manager must set up: without it CUDA fails with error 802, "
    "'system not yet initialized'",
    fix="sudo systemctl enable --now nvidia-fabricmanager (of the driver's exact version <driver>)",
    link=_NVSWITCH,
)
_STATES = {1: "not started", 2: "in progress"}
_HEALTH = {0: (3, "degraded bandwidth"), 2: (3, "route recovery"), 4: (3, "unhealthy route"), 6: (3, "access timeout")}


@gpu_check("gpu.fabric", "The NVSwitch fabric is ready", fields=("fabric",), follows=("gpu.present",))
def fabric(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """State of each GPU's registration, and the fabric manager where there are switches."""
    infos = [(gpu, info) for gpu in reading.gpus if (info := gpu.get("fabric")) and info["state"]]
    waiting = [
        (gpu, f"NVSwitch fabric: state {_STATES[info['state']]}") for gpu, info in infos if info["state"] in _STATES
    ]
    broken = [
        (gpu, f"NVSwitch fabric: registration ended with NVML error {info['status']}")
        for gpu, info in infos
        if info["state"] == 3 and info["status"]
    ]
    yield from told(FABRIC, waiting + broken, driver=reading.driver)
    ill = [(gpu, text) for gpu, info in infos if info["state"] == 3 and (text := _ill(info["health"], info["summary"]))]
    yield from told(FABRIC_HEALTH, ill)
    switches = _switches()
    if switches and not infos and not is_container(context.environ) and not is_running("nv-fabricmanager"):
        yield FABRIC_MANAGER.found(
            f"{switches} NVSwitches on the PCI bus, no process nv-fabricmanager", driver=reading.driver
        )
    if infos:
        yield f"{len(infos)} GPUs are registered with the NVSwitch fabric"
    elif any(gpu.get("fabric") for gpu in reading.gpus):
        yield f"no NVSwitch fabric to register with; {switches} NVSwitches on the PCI bus"


def _ill(health: int | None, summary: int | None) -> str | None:
    found = [text for shift, (mask, text) in _HEALTH.items() if health is not None and (health >> shift) & mask == 1]
    if health is not None and (health >> 8) & 0xF >= 2:
        found.append(f"incorrect configuration ({(health >> 8) & 0xF})")
    if summary in (2, 3):
        found.append({2: "summary: unhealthy", 3: "summary: limited capacity"}[summary])
    return f"NVSwitch fabric health: {', '.join(found)}" if found else None


def _switches() -> int:
    """NVSwitches on the PCI bus: bridges of NVIDIA, class 0x0680."""
    return sum(
        (read(nvml.PCI / name / "vendor") or "").strip() == "0x10de"
        and (read(nvml.PCI / name / "class") or "").startswith("0x0680")
        for name in _listed(nvml.PCI)
    )


PEERS = fault(
    "gpu.peers.none",
    "warn",
    "GPUs cannot reach each other's memory (P2P)",
    cause="peer-to-peer is not available between data-centre GPUs: NCCL copies through the CPU's memory, and may "
    "hang where the driver claims otherwise; PCIe access control (ACS), the IOMMU or a driver option forbids it",
    fix="switch ACS off (BIOS, or setpci on the bridges) and the IOMMU to pass-through (iommu=pt); until then: "
    "NCCL_P2P_DISABLE=1 if collectives hang; nvidia-smi topo -p2p r",
    link="https://github.com/NVIDIA/nccl-tests/issues/117",
)
_PEER_STATUS = {
    1: "chipset not supported",
    2: "GPU not supported",
    3: "topology not supported",
    4: "disabled by registry key",
    5: "not supported",
    6: "unknown",
}


@gpu_check(
    "gpu.peers",
    "GPUs reach each other's memory (P2P)",
    fields=("name",),
    follows=("gpu.present", "gpu.nvlink", "gpu.fabric"),
)
def peers(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """NVML's P2P status of each pair. GeForce has none between most models: there it is a fact."""
    statuses = {
        tuple(int(index) for index in pair.split("-")): answer["value"]
        for pair, answer in (reading.answer.get("peers") or {}).items()
        if "value" in answer
    }
    if not statuses:
        yield "one GPU has no peer" if len(reading.gpus) < 2 else "the driver does not tell of P2P"
        return
    without = {pair: status for pair, status in statuses.items() if status}
    why = ", ".join(_PEER_STATUS.get(status, str(status)) for status in sorted(set(without.values())))
    by_index = {gpu.index: gpu for gpu in reading.gpus}
    text = f"no P2P between {len(without)} of {len(statuses)} pairs of GPUs (NVML: {why})"
    # Two GPUs of a virtual machine or of different models do not see each other anyway.
    ought = [pair for pair in without if all(_is_peer(by_index[index]) for index in pair)]
    if ought:
        yield PEERS.found(
            f"{text}: {names([by_index[index] for index in sorted({i for pair in ought for i in pair})])}"
        )
    elif without:
        yield f"{text}: normal for {reading.gpus[0].name}; NCCL goes through the CPU's memory"
    else:
        yield f"P2P between all {len(statuses)} pairs of GPUs"


def _is_peer(gpu: Gpu) -> bool:
    return gpu.is_data_centre and not gpu.is_virtual and (gpu.has_fabric or gpu.number("virtualization") in (0, None))


PEERMEM = fault(
    "gpu.rdma.peermem",
    "warn",
    "The network adapter cannot reach the memory of GPUs (GPUDirect RDMA)",
    cause="the kernel module nvidia_peermem is not loaded, and the driver is not one that does without (open kernel "
    "modules with DMA-BUF, Linux 5.12 or newer): NCCL copies through the CPU's memory, at a fraction of the bandwidth",
    fix="sudo modprobe nvidia_peermem; to keep it: echo nvidia_peermem | sudo tee "
    "/etc/modules-load.d/nvidia_peermem.conf",
    link="https://docs.nvidia.com/cuda/gpudirect-rdma/",
)


@gpu_check("gpu.rdma", "Network adapters reach the memory of GPUs (RDMA)", fields=("name",))
def rdma(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """InfiniBand and RoCE adapters against nvidia_peermem, or DMA-BUF in its place."""
    adapters = sorted(_listed("/sys/class/infiniband"))
    if not adapters or not any(gpu.is_data_centre for gpu in reading.gpus):
        yield "no RDMA network adapter" if not adapters else f"{reading.gpus[0].name} has no GPUDirect RDMA"
        return
    if "nvidia_peermem" in _listed("/sys/module") or "nv_peer_mem" in _listed("/sys/module"):
        yield f"nvidia_peermem is loaded, for {', '.join(adapters)}"
    elif "Open Kernel Module" in (read("/proc/driver/nvidia/version") or "") and _kernel() >= (5, 12):
        yield f"nvidia_peermem is not loaded; the open kernel modules serve {', '.join(adapters)} by DMA-BUF"
    else:
        yield PEERMEM.found(f"nvidia_peermem is not loaded; RDMA network adapters: {', '.join(adapters)}")


def _listed(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _kernel() -> tuple[int, ...]:
    """First two numbers of the kernel's version."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
