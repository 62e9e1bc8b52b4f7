"""What NVML told of this machine's GPUs: read once, by a probe, for all checks of area ``gpu``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.process import Outcome, Processes
from llmbench.doctor.runner import Context
from llmbench.doctor.system import read

NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, CORRUPTED_INFOROM = 3, 4, 13, 14
LOST, RESET_REQUIRED, UNKNOWN = 15, 16, 999

# A value outside is no reading: 255 degrees, all bits set for "not available".
PLAUSIBLE = {
    "temperature": (-50, 150),
    "temperature_memory": (-50, 150),
    "fan": (0, 200),
    "power": (0, 5_000_000),
    "clock": (0, 10_000),
    "performance_state": (0, 32),
}
_ALL_BITS = (2**32 - 1, 2**64 - 1)

_CONSUMER = re.compile(
    r"GeForce|TITAN|Quadro|RTX|GTX|\bGT \d|\bMX\d|NVS|\bT(400|500|550|600|1000|1200|2000)\b|GB10\b|Thor|Orin"
)
_BOARD_WITH_FABRIC = re.compile(r"SXM|\b(H100 80GB HBM3|H200|H20|H800|A800|B[123]00|GB[23]00|GH200)\b")
_CARD = re.compile(r"PCI?e|NVL\b|Laptop|Mobile|Max-Q")


@dataclass(frozen=True)
class Gpu:
    """The fields of one GPU, as NVML orders them.

    Attributes:
        index: NVML's, which nvidia-smi takes.
        fields: by name, ``value`` or ``error`` (number) and ``words``.
    """

    index: int
    fields: Mapping[str, Mapping[str, Any]]

    def get(self, name: str) -> Any:
        """The value; None if the driver or the device does not tell."""
        return self.fields.get(name, {}).get("value")

    def number(self, name: str) -> int | None:
        """The value if it is a number that can be true."""
        value = self.get(name)
        low, high = PLAUSIBLE.get(name, (0, 2**63))
        return value if isinstance(value, int) and low <= value <= high and value not in _ALL_BITS else None

    def numbers(self, name: str, count: int) -> list[int] | None:
        """The value if it is so many numbers."""
        value = self.get(name)
        return value if isinstance(value, list) and len(value) == count else None

    def error(self, name: str) -> int | None:
        return self.fields.get(name, {}).get("error")

    @property
    def name(self) -> str:
        return str(self.get("name") or "NVIDIA GPU")

    @property
    def bus(self) -> str | None:
        """PCI address as Linux writes it."""
        return pci_address(str((self.get("pci") or {}).get("busId", "")))

    @property
    def is_data_centre(self) -> bool:
        """A100, H100, L4, Tesla …: not GeForce, Quadro, RTX, nor a module of an embedded board."""
        return self.get("name") is not None and not _CONSUMER.search(self.name)

    @property
    def has_fabric(self) -> bool:
        """A module on a board whose GPUs are all joined by NVLink (SXM), not a card."""
        return bool(_BOARD_WITH_FABRIC.search(self.name)) and not _CARD.search(self.name)

    @property
    def is_virtual(self) -> bool:
        return self.number("virtualization") == 2

    @property
    def load(self) -> int:
        """Percent of the time that a kernel ran, the lesser of two samples."""
        samples = [(self.get(name) or {}).get("gpu", 0) for name in ("utilization", "again/utilization")]
        return min(samples) if max(samples) <= 100 else 0

    @property
    def label(self) -> str:
        return f"GPU {self.index}" + (f" ({self.bus})" if self.bus else "")


@dataclass(frozen=True)
class Reading:
    """Attributes: how the probe ended, what it said, and the GPUs that answer."""

    outcome: Outcome
    answer: Mapping[str, Any]
    gpus: tuple[Gpu, ...]

    def get(self, name: str) -> Any:
        return self.answer.get(name, {}).get("value")

    @property
    def count(self) -> int | None:
        count = self.get("count")
        return count if isinstance(count, int) else None

    @property
    def driver(self) -> str:
        return str(self.get("driver") or "of unknown version")

    def handle_error(self, index: int) -> Mapping[str, Any]:
        """Why NVML gives no handle of this GPU; empty if it does."""
        found: Mapping[str, Any] = self.answer.get(f"gpu/{index}", {})
        return found


_readings: WeakKeyDictionary[Processes, Reading] = WeakKeyDictionary()


def take_reading(context: Context) -> Reading:
    """Runs the probe. If it crashes or hangs at one GPU, those after it are asked again, without that field."""
    module = find_spec("pynvml")
    arguments: dict[str, Any] = {"pynvml": module.origin if module else None, "files": device_files()}
    outcome = context.probe("nvml", arguments)
    answer, stuck = dict(outcome.answer), outcome.answer.get("asked_gpu")
    if not outcome.ok and stuck is not None:
        arguments |= {"skip": list(range(stuck + 1)), "without": [outcome.answer["asked_field"]]}
        answer = {**context.probe("nvml", arguments, deadline=context.deadline / 2).answer, **answer}
    indices = [index for index in range(answer.get("count", {}).get("value", 0)) if answer.get(f"gpu/{index}") == {}]
    gpus = tuple(Gpu(index, _fields_of(index, answer)) for index in indices)
    _readings[context.processes] = Reading(outcome, answer, gpus)
    return _readings[context.processes]


def _fields_of(index: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"gpu/{index}/"
    return {key.removeprefix(prefix): value for key, value in answer.items() if key.startswith(prefix)}


Judgement = Callable[[Context, Reading], Iterator[Finding | str]]


def gpu_check(
    id: str, title: str, *, fields: Sequence[str], follows: tuple[str, ...] = ()
) -> Callable[[Judgement], Judgement]:
    """Registers a check of what NVML told. It gives findings, and texts that are told if there are none.

    Args:
        id: of the check.
        title: what is asked.
        fields: what it looks at; if no GPU tells any of them, the check is skipped with the reason.
        follows: see ``Check``.
    """

    def register(judge: Judgement) -> Judgement:
        @check(id, title, needs=("gpu.nvml",), follows=follows)
        @wraps(judge)
        def run(context: Context) -> Iterator[Finding]:
            reading = _readings[context.processes]
            told = list(judge(context, reading))
            found = [item for item in told if isinstance(item, Finding)]
            facts = [item for item in told if isinstance(item, str)]
            if found:
                yield from found
            elif facts:
                yield passed("; ".join(facts))
            else:
                yield skipped(_why_untold(reading, fields))

        return judge

    return register


def _why_untold(reading: Reading, fields: Sequence[str]) -> str:
    if not reading.gpus:
        return "no GPU answers"
    words = {
        f"{name}: {gpu.fields[name]['words']}" for gpu in reading.gpus for name in fields if gpu.error(name) is not None
    }
    return f"driver {reading.driver} does not tell: " + ("; ".join(sorted(words)) or "nothing was read")


Told = Sequence[tuple[Gpu, str]]


def told(fault: Fault, gpus: Told, **options: Any) -> Iterator[Finding]:
    """One finding for all GPUs that have the fault; none if there are none. ``<gpus>`` becomes their indices."""
    if gpus:
        indices = ",".join(str(gpu.index) for gpu, _ in gpus)
        yield fault.found(in_words(gpus), gpus=indices, **options)


def in_words(gpus: Told) -> str:
    """``GPU 2 (0000:3a:00.0): 91 C; GPUs 4-7: 80 C``."""
    parts = []
    for text in dict.fromkeys(text for _, text in gpus):
        same = [gpu for gpu, other in gpus if other == text]
        parts.append(f"{names(same)}: {text}")
    return "; ".join(parts)


def names(gpus: Sequence[Gpu]) -> str:
    return gpus[0].label if len(gpus) == 1 else "GPUs " + ranges([gpu.index for gpu in gpus])


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,5``."""
    runs = groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    lists = [[number for _, number in run] for _, run in runs]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in lists)


def pci_address(text: str) -> str | None:
    """NVML's ``00000000:3A:00.0`` as Linux writes it: ``0000:3a:00.0``."""
    match = re.fullmatch(r"([0-9A-Fa-f]+):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])", text.strip("\0 "))
    return f"{int(match[1], 16):04x}:{match[2].lower()}" if match else None


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


DEV = Path("/dev")
PCI = Path("/sys/bus/pci/devices")
_OTHER_DRIVERS = ("vfio-pci", "pci-stub", "nouveau")


def device_files() -> list[str]:
    """Files of the driver in /dev."""
    return sorted(str(path) for path in DEV.glob("nvidia*") if re.fullmatch(r"nvidia(\d+|ctl)", path.name))


def nvidia_on_pci() -> list[str]:
    """PCI addresses of NVIDIA GPUs, without those that are given to a virtual machine or driven by nouveau."""
    try:
        devices = sorted(PCI.iterdir())
    except OSError:
        return []
    return [
        device.name
        for device in devices
        if (read(device / "vendor") or "").strip() == "0x10de"
        and (read(device / "class") or "").startswith("0x03")
        and os.path.basename(os.path.realpath(device / "driver")) not in _OTHER_DRIVERS
    ]


def of_pci(gpu: Gpu, name: str) -> str | None:
    """An attribute of the GPU's PCI device."""
    text = read(PCI / gpu.bus / name) if gpu.bus else None
    return text.strip() if text else None


def is_container(environ: Mapping[str, str]) -> bool:
    """Whether there are signs of Docker, Podman, Kubernetes, LXC or Apptainer."""
    if "KUBERNETES_SERVICE_HOST" in environ or environ.get("container"):
        return True
    if any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv", "/.singularity.d")):
        return True
    groups = read("/proc/1/cgroup") or ""
    return any(sign in groups for sign in ("docker", "kubepods", "containerd", "lxc", "libpod"))


def is_running(name: str) -> bool:
    """Whether a process of that name is visible; true if none can be seen at all."""
    try:
        pids = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return True
    return any((read(f"/proc/{pid}/comm") or "").strip() == name[:15] for pid in pids)
