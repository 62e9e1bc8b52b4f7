"""Real work, with --deep: memory, arithmetic, clocks and links of each device under load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

_NEEDS = ("torch.import", "cuda.devices")
_DRAIN = "do not train on this device: drain the node, run its diagnosis (dcgmi diag -r 3), and have it replaced"
_MIB, _GIB = 2**20, 2**30

DIED = fault(
    "stress.memory.died",
    "fail",
    "A device fails while its memory is tested",
    cause="the device, its driver or its memory fails under load: a training would die at some step",
    fix="read the kernel log (dmesg | grep -i -e xid -e mce), run nvidia-smi -q; then " + _DRAIN,
)
BITS = fault(
    "stress.memory.bits",
    "fail",
    "Memory reads back other bits than were written",
    cause="a memory cell or an address line is broken: weights and activations are corrupted silently",
    fix=_DRAIN + "; memory of the host: run a memory test (memtest86+), and read its error counters (edac-util)",
)


@check("stress.memory", "Memory keeps what is written to it", deadline=240, needs=_NEEDS, deep=True, alone=True)
def memory(context: Context) -> Iterator[Finding]:
    """Patterns over 80 % of the free memory of each GPU, one GPU after the other; on the CPU over 256 MiB."""
    for device in _devices(context):
        extent = {"bytes": 256 * _MIB} if device == "cpu" else {"share": 0.8}
        outcome = _work(context, device, "memory", **extent)
        found = outcome.answer
        if found.get("bad"):
            first = found["bad"][0]
            yield BITS.found(
                f"{device}: {found['bad_count']} words of {found['bytes'] / _GIB:.2f} GiB read back wrong; "
                f"the first at offset {first['offset']:#x}, where the bits {first['bits']} differ"
            )
        elif not outcome.ok:
            yield DIED.found(f"{device}: the memory test {_ending(outcome)}")
        else:
            yield passed(f"{device}: {found['bytes'] / _GIB:.2f} GiB kept {found['patterns']} patterns")


WRONG = fault(
    "stress.repeat.wrong",
    "fail",
    "A device computes wrong values",
    cause="its matmul is off from fp64 by more than rounding can explain",
    fix=_DRAIN,
)
DIFFERS = fault(
    "stress.repeat.differs",
    "fail",
    "The same input gives different bits",
    cause="a multiprocessor or core computes wrong now and then (silent data corruption): losses drift, or jump to "
    "NaN, and no error is ever raised",
    fix=_DRAIN,
    link="https://arxiv.org/abs/2102.11245",
)
REPEAT_DIED = fault(
    "stress.repeat.died",
    "fail",
    "A device fails while it repeats a computation",
    cause="the device or its driver fails under load: a training would die at some step",
    fix="read the kernel log (dmesg | grep -i -e xid -e mce); then " + _DRAIN,
)


@check("stress.repeat", "The same input gives the same bits", deadline=120, needs=_NEEDS, deep=True, alone=True)
def repeat(context: Context) -> Iterator[Finding]:
    """Identical products, enough for every multiprocessor, again and again, compared bit by bit."""
    for device in _devices(context):
        n, rounds = (96, 64) if device == "cpu" else (256, 512)
        outcome = _work(context, device, "repeat", n=n, rounds=rounds, batch=None)
        found = outcome.answer
        if found.get("differing"):
            at = found["differing"][0]
            yield DIFFERS.found(
                f"{device}: {found['count']} of {found['rounds']} x {found['batch']} identical matmuls differ in their "
                f"bits; the first in round {at['round']}, slice {at['slice']}"
            )
        elif not outcome.ok:
            yield REPEAT_DIED.found(f"{device}: repeating a matmul {_ending(outcome)}")
        elif not found["relative_error"] <= found["limit"]:
            yield WRONG.found(
                f"{device}: matmul is off from fp64 by {found['relative_error']:.1e} of |A||B| "
                f"(limit {found['limit']:.1e})"
            )
        else:
            yield passed(f"{device}: {found['rounds']} x {found['batch']} identical matmuls gave the same bits")


LOAD_DIED = fault(
    "stress.load.died",
    "fail",
    "A device fails under sustained load",
    cause="power supply, cooling or the device itself does not bear full load: a training would die at some step",
    fix="read the kernel log (dmesg | grep -i -e xid -e mce) and check power cables; then " + _DRAIN,
)
NOT_FINITE = fault(
    "stress.load.not-finite",
    "fail",
    "Sustained matmuls end in NaN or infinity",
    cause="the device computes wrong values under load",
    fix=_DRAIN,
)
SLOWS = fault(
    "stress.load.slows-down",
    "warn",
    "A device slows down under sustained load",
    cause="heat or power limits its clock, or something else takes its time: long runs are slower than short tests",
    fix="check fans, air flow and coolant, and the power limit (nvidia-smi -q -d POWER); stop other processes",
)
THROTTLED = fault(
    "stress.load.throttled",
    "warn",
    "A GPU is throttled under load",
    cause="the GPU lowers its clock to protect itself: every step is slower",
    fix="check fans, air flow, coolant, power cables and supply of this GPU",
    link="https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html",
)
STRAGGLER = fault(
    "stress.load.straggler",
    "warn",
    "One GPU is slower than its siblings",
    cause="collectives wait for the slowest: the whole job runs at its speed",
    fix="compare its clocks, power limit, temperature and PCIe link with the others': nvidia-smi -q -i <index>",
)
_SLOWS_BELOW = {"cpu": 0.7, "cuda": 0.85}  # other processes share a CPU
_STRAGGLES_BELOW = 0.93
# Bits of nvmlClocksEventReasons that mean harm; a software power cap (0x4) is normal at full load.
_THROTTLE = {0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}


@check(
    "stress.load", "Devices hold their speed under sustained load", deadline=120, needs=_NEEDS, deep=True, alone=True
)
def load(context: Context) -> Iterator[Finding]:
    """Matmuls on all devices at once, as a training would: the whole machine's power and cooling is asked."""
    devices = _devices(context)
    size, seconds = (1024, 6) if devices == ["cpu"] else (8192, 20)

    def work() -> dict[str, Outcome]:
        with ThreadPoolExecutor(len(devices)) as pool:
            found = pool.map(lambda d: _work(context, d, "matmul", n=size, seconds=seconds), devices)
            return dict(zip(devices, found, strict=True))

    outcomes = work()
    if devices == ["cpu"] and outcomes["cpu"].ok and _slows("cpu", outcomes["cpu"].answer["flops"]):
        outcomes = work()  # somebody else may have begun to work meanwhile: heat is there the second time, too
    means = {d: sum(o.answer["flops"]) / 4 for d, o in outcomes.items() if o.ok}
    for number, (device, outcome) in enumerate(outcomes.items()):
        if not outcome.ok:
            yield LOAD_DIED.found(f"{device}: sustained matmuls {_ending(outcome)}")
        elif not outcome.answer["finite"]:
            yield NOT_FINITE.found(f"{device}: {seconds} s of matmuls of normal numbers gave NaN or infinity")
        else:
            yield from _judge_load(device, number, outcome.answer, means)


def _slows(device: str, flops: Sequence[float]) -> bool:
    return bool(flops[-1] < _SLOWS_BELOW[device.partition(":")[0]] * flops[0])


def _judge_load(device: str, index: int, found: Mapping[str, Any], means: Mapping[str, float]) -> Iterator[Finding]:
    flops, samples = found["flops"], found["samples"]
    seen = " ".join(
        f"{title} {max(values):.0f} {unit}"
        for name, title, unit in (("celsius", "up to", "°C"), ("watts", "up to", "W"), ("sm_mhz", "up to", "MHz"))
        if (values := [sample[name] for sample in samples if name in sample])
    )
    rate = f"{device}: {means[device] / 1e12:.2f} TFLOP/s" + (f" ({seen})" if seen else "")
    fine = True
    if _slows(device, flops):
        fine = False
        yield SLOWS.found(f"{rate}; the last quarter ran at {flops[-1] / flops[0]:.0%} of the first")
    reasons = {title for s in samples for bit, title in _THROTTLE.items() if s.get("throttle", 0) & bit}
    if reasons:
        fine = False
        yield THROTTLED.found(f"{rate}; throttled: {', '.join(sorted(reasons))}")
    typical = median(means.values())
    if means[device] < _STRAGGLES_BELOW * typical:
        fine = False
        yield STRAGGLER.found(f"{rate}, {means[device] / typical:.0%} of the median of {len(means)}", index=index)
    if fine:
        yield passed(f"{rate}; the last quarter ran at {flops[-1] / flops[0]:.0%} of the first")


LINK_DIED = fault(
    "stress.links.died",
    "fail",
    "Copies to or from a GPU fail",
    cause="the link, the driver or pinned memory fails: a training cannot feed this GPU",
    fix="read the kernel log (dmesg | grep -i -e xid -e aer), check ulimit -l, reseat the card; then " + _DRAIN,
)
CORRUPTS = fault(
    "stress.links.corrupts",
    "fail",
    "Data change on their way between devices",
    cause="a link or memory is broken, or an IOMMU does not translate copies between peers: gradients are corrupted "
    "silently",
    fix="export NCCL_P2P_DISABLE=1, or disable ACS and the IOMMU's translation in the firmware",
    link="https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html",
)
NARROW = fault(
    "stress.links.degraded",
    "warn",
    "The PCIe link of a GPU is degraded under load",
    cause="the card sits in a smaller slot, is not seated well, or the link trained down after errors",
    fix="reseat the card or riser, check the slot's bifurcation in the firmware, look for AER errors in the kernel log",
)
SLOW_LINK = fault(
    "stress.links.slow",
    "warn",
    "Copies between host and GPU are slower than their link",
    cause="the CPU that copies is on another NUMA node, memory is slow, or the link is shared: data come slower",
    fix="bind the process to the GPU's NUMA node (numactl --cpunodebind), and look at nvidia-smi topo -m",
)
SLOW_PAIR = fault(
    "stress.links.slow-pair",
    "warn",
    "One pair of GPUs copies slower than the others",
    cause="a NVLink is down, or this pair goes through the host: collectives run at the speed of the slowest pair",
    fix="nvidia-smi nvlink -s; nvidia-smi topo -m",
)
_LANE_BYTES = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""Bytes per second of one PCIe lane by generation, after line coding. PCI-SIG, PCI Express base specifications."""
_LEAST_OF_LINK = 0.5
_LEAST_OF_PAIRS = 0.6


@check("stress.links", "Data reach the GPUs whole, and fast", deadline=180, needs=_NEEDS, deep=True, alone=True)
def links(context: Context) -> Iterator[Finding]:
    """Copies from and to pinned memory, and between all pairs of GPUs; one GPU after the other."""
    devices = _devices(context)
    if devices == ["cpu"]:
        yield skipped("no GPU, so no link to one")
        return
    pairs: dict[tuple[str, str], float] = {}
    for device in devices:
        others = [other for other in devices if other != device]
        outcome = _work(context, device, "transfer", bytes=256 * _MIB, peers=others)
        if not outcome.ok:
            yield LINK_DIED.found(f"{device}: copying {_ending(outcome)}")
            continue
        found = outcome.answer
        yield from _judge_link(device, found)
        pairs |= {(device, other): peer["rate"] for other, peer in found.get("peers", {}).items()}
    typical = median(pairs.values()) if pairs else 0.0
    for (one, other), rate in pairs.items():
        if rate < _LEAST_OF_PAIRS * typical:
            yield SLOW_PAIR.found(
                f"{one} to {other}: {rate / 1e9:.1f} GB/s, the median pair has {typical / 1e9:.1f} GB/s"
            )


def _judge_link(device: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    rates = f"{device}: {found['to_device'] / 1e9:.1f} GB/s to it, {found['from_device'] / 1e9:.1f} GB/s from it"
    broken = [other for other, peer in found.get("peers", {}).items() if not peer["intact"]]
    if not found["intact"]:
        yield CORRUPTS.found(f"{device}: what came back is not what was sent to it")
    for other in broken:
        yield CORRUPTS.found(f"{device} to {other}: what arrived is not what was sent")
    samples = [sample for sample in found["samples"] if "pcie_width" in sample and "pcie_generation" in sample]
    if not samples:
        yield passed(f"{rates}; NVML does not tell the link")
        return
    # Under load the link is at its best; between copies it may already train down again.
    generation, width = max((sample["pcie_generation"], sample["pcie_width"]) for sample in samples)
    most = (samples[-1].get("pcie_generation_max", generation), samples[-1].get("pcie_width_max", width))
    link = f"PCIe generation {generation} x{width}"
    capacity = _LANE_BYTES.get(generation, 0.0) * width
    slowest = min(found["to_device"], found["from_device"])
    if generation < most[0] or width < most[1]:
        yield NARROW.found(f"{rates}: {link} under load, of generation {most[0]} x{most[1]}")
    elif slowest < _LEAST_OF_LINK * capacity:
        yield SLOW_LINK.found(f"{rates}: {slowest / capacity:.0%} of what {link} carries ({capacity / 1e9:.1f} GB/s)")
    else:
        yield passed(f"{rates}; {link}")


def _devices(context: Context) -> list[str]:
    return [f"cuda:{index}" for index in range(len(context.facts.get("devices") or []))] or ["cpu"]


def _work(context: Context, device: str, work: str, **arguments: Any) -> Outcome:
    pynvml = find_spec("pynvml")
    folder = str(Path(pynvml.origin).parent) if pynvml and pynvml.origin else None
    return context.torch_probe("stress", {"device": device, "work": work, "pynvml": folder, **arguments})


def _ending(outcome: Outcome) -> str:
    words = outcome.last_words
    return outcome.ending + (f": {words}" if words and words not in outcome.ending else "")
