"""GPUs as the kernel shows them: on the PCI bus, as device nodes, with their drivers. No driver is asked anything."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmbench.doctor import system

_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
# PCI class codes: 0x03 is a display controller, 0x12 a processing accelerator. Audio functions, bridges, NVSwitches and
# other accelerators (0x12 of Intel is a crypto or neural unit) are none.
_CLASSES = {"nvidia": ("0x03",), "amd": ("0x03", "0x12"), "intel": ("0x03",)}
# AMD's Instinct show no VGA output: "display controller, other" or a processing accelerator.
_ACCELERATOR_CLASSES = ("0x0380", "0x12")
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@dataclass(frozen=True)
class PciGpu:
    """A GPU on the PCI bus.

    Attributes:
        address: ``domain:bus:device.function``.
        vendor: ``nvidia``, ``amd`` or ``intel``.
        accelerator: it has no display output at all.
        driver: name of the kernel driver that holds it; None if none does or it is not told.
    """

    address: str
    vendor: str
    accelerator: bool
    driver: str | None


def pci_gpus(vendor: str) -> list[PciGpu]:
    """GPUs of a vendor on the PCI bus, by address. Containers see those of the whole machine."""
    found = []
    for device in glob("sys/bus/pci/devices", "*"):
        kind = (text(device / "class") or "").strip()
        if _VENDORS.get((text(device / "vendor") or "").strip()) == vendor and kind.startswith(_CLASSES[vendor]):
            try:
                driver: str | None = os.path.basename(os.readlink(device / "driver"))
            except OSError:
                driver = None
            found.append(PciGpu(device.name, vendor, kind.startswith(_ACCELERATOR_CLASSES), driver))
    return found


def nvidia_nodes() -> list[str]:
    """Device nodes of NVIDIA GPUs, in the order of their numbers."""
    names = [path.name for path in glob("dev", "nvidia[0-9]*")]
    return sorted((f"/dev/{name}" for name in names if name[6:].isdigit()), key=lambda name: int(name[11:]))


def nvidia_devices() -> list[str]:
    """NVIDIA GPUs of this machine or container, with or without a driver: nodes, else PCI devices, else what stands
    for them in WSL 2 and on a Jetson. Those that are passed through to a virtual machine are not among them.
    """
    if nodes := nvidia_nodes():
        return nodes
    if found := [f"PCI device {gpu.address}" for gpu in pci_gpus("nvidia") if gpu.driver != "vfio-pci"]:
        return found
    if in_wsl() and exists("usr/lib/wsl/lib/libcuda.so.1"):
        return ["the GPU of Windows (/dev/dxg)"]
    return ["the GPU of this Jetson"] if is_tegra() else []


def nvidia_driver() -> str | None:
    """Version of the loaded NVIDIA kernel module."""
    for told in (text(system.ROOT / "sys/module/nvidia/version"), text(system.ROOT / "proc/driver/nvidia/version")):
        if found := re.search(r"(?<![\d.])\d{3,}\.\d+(?:\.\d+)?(?![\d.])", told or ""):
            return found[0]
    return None


def nvidia_module_loaded() -> bool:
    """Whether the kernel has the driver, even if it does not tell the version.

    Where the kernel hides its modules (gVisor), device nodes have to do.
    """
    if exists("sys/module/nvidia") or exists("proc/driver/nvidia/version"):
        return True
    modules = text(system.ROOT / "proc/modules")
    return bool(nvidia_nodes()) if modules is None else re.search(r"^nvidia ", modules, re.MULTILINE) is not None


def nvidia_uuids() -> list[str]:
    """UUIDs of the GPUs as the driver's files tell them; empty if they do not."""
    texts = [text(path / "information") or "" for path in glob("proc/driver/nvidia/gpus", "*")]
    return [uuid for text in texts for uuid in re.findall(r"GPU UUID:\s*(GPU-[0-9a-fA-F-]+)", text)]


def nvidia_models() -> list[str]:
    """Names of the GPUs as the driver's files tell them, in the order of the bus; empty if they do not."""
    texts = [text(path / "information") or "" for path in glob("proc/driver/nvidia/gpus", "*")]
    return [name.strip() for text in texts for name in re.findall(r"^Model:(.*)", text, re.MULTILINE)]


def kernel_modules(pattern: str) -> dict[str, list[str]]:
    """Files of installed kernel modules by kernel release, e.g. for ``nvidia.ko*``."""
    found: dict[str, list[str]] = {}
    for folder in glob("lib/modules", "*"):
        try:
            files = sorted(str(path) for path in folder.rglob(pattern))
        except OSError:
            files = []
        if files:
            found[folder.name] = files
    return found


def blacklisted(module: str) -> str | None:
    """The line of modprobe's configuration that keeps a module from loading, with its file."""
    forbids = re.compile(
        rf"^\s*(?:blacklist\s+{module}|(?:install|alias)\s+{module}\s+(?:/bin/(?:false|true)|off))\s*$"
    )
    for folder in ("etc/modprobe.d", "lib/modprobe.d", "usr/lib/modprobe.d", "run/modprobe.d"):
        for path in glob(folder, "*.conf"):
            for line in (text(path) or "").splitlines():
                if forbids.match(line):
                    return f"{line.strip()} in {shown(path)}"
    return None


def secure_boot() -> bool:
    """Whether the firmware lets the kernel load signed modules only."""
    try:
        return (system.ROOT / _SECURE_BOOT).read_bytes()[-1:] == b"\x01"
    except OSError:
        return False


def in_wsl() -> bool:
    """Whether this Linux runs in Windows Subsystem for Linux 2."""
    return exists("dev/dxg") or "microsoft" in (text(system.ROOT / "proc/sys/kernel/osrelease") or "").lower()


def is_tegra() -> bool:
    """Whether this is a Jetson, whose GPU is part of the processor and not on the PCI bus."""
    return exists("etc/nv_tegra_release") or "nvidia,tegra" in (text(system.ROOT / "proc/device-tree/compatible") or "")


def container(environ: Mapping[str, str]) -> str | None:
    """Why this seems to be a container; None if it does not."""
    for name in ("KUBERNETES_SERVICE_HOST", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if name in environ:
            return f"{name} is set"
    if environ.get("container"):
        return f"container={environ['container']} is set"
    for path in (".dockerenv", "run/.containerenv"):
        if exists(path):
            return f"/{path} exists"
    if found := re.search(r"docker|kubepods|containerd|lxc|libpod", text(system.ROOT / "proc/1/cgroup") or ""):
        return f"/proc/1/cgroup names {found[0]}"
    return None


def text(place: Path) -> str | None:
    """Text of a small file; None where there is none or it may not be read."""
    try:
        return place.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def exists(path: str) -> bool:
    return os.path.exists(system.ROOT / path)


def glob(folder: str, pattern: str) -> list[Path]:
    """Sorted; empty where the folder cannot be read."""
    try:
        return sorted((system.ROOT / folder).glob(pattern))
    except OSError:
        return []


def shown(path: Path) -> str:
    """The path as the machine knows it."""
    return f"/{path.relative_to(system.ROOT)}"
