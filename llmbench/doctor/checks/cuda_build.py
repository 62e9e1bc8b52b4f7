"""The build of torch against the GPUs on the bus, and the kernel driver between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llmbench.doctor import gpus, system
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.runner import Context

# First Linux driver that runs programs of a CUDA major version (minor version compatibility).
LEAST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_WHEELS = ((580, "torch", "cu130"), (525, "torch", "cu126"), (450, "torch==2.7.1", "cu118"))
"""The newest wheels that a driver runs, newest first: least driver branch, requirement, index."""

_COMPATIBILITY = "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"
_DRIVER_GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"

CPU_ONLY = fault(
    "cuda.build.cpu-only",
    "fail",
    "A CPU-only build of torch on a machine with NVIDIA GPUs",
    cause="this torch is a CPU-only build, not compiled with CUDA: training uses the CPU although there are GPUs",
    fix="<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link="https://pytorch.org/get-started/locally/",
)
ROCM_ON_NVIDIA = fault(
    "cuda.build.rocm-on-nvidia",
    "fail",
    "A ROCm build of torch on a machine with NVIDIA GPUs",
    cause="a build for AMD's ROCm cannot use NVIDIA GPUs: training would use the CPU",
    fix="<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link="https://pytorch.org/get-started/locally/",
)
AMD_UNUSED = fault(
    "cuda.build.amd-unused",
    "fail",
    "AMD GPUs, but no ROCm build of torch",
    cause="only a ROCm build of torch uses AMD GPUs: training uses the CPU although there are GPUs",
    fix="<python> -m pip install --force-reinstall torch --index-url, with the address that "
    "https://pytorch.org/get-started/locally/ gives for ROCm",
    link="https://pytorch.org/get-started/locally/",
)
TEGRA = fault(
    "cuda.build.tegra",
    "fail",
    "A CPU-only build of torch on a Jetson",
    cause="the wheels of the Python Package Index do not use the GPU of a Jetson: training uses the CPU",
    fix="install the torch wheel that NVIDIA builds for this JetPack: "
    "https://docs.nvidia.com/deeplearning/frameworks/install-pytorch-jetson-platform/",
)

MISSING = fault(
    "cuda.driver.missing",
    "fail",
    "No NVIDIA driver is installed",
    cause="the NVIDIA kernel driver is not installed: torch finds no NVIDIA driver and sees no GPU",
    fix="<install>; reboot; nvidia-smi must then list the GPUs",
    link=_DRIVER_GUIDE,
)
NOUVEAU = fault(
    "cuda.driver.nouveau",
    "fail",
    "nouveau holds the GPUs instead of the NVIDIA driver",
    cause="the free driver nouveau, which cannot run CUDA, is loaded and the NVIDIA driver is not: torch sees no GPU",
    fix="<install>; printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' | "
    "sudo tee /etc/modprobe.d/blacklist-nouveau.conf; <initramfs>; reboot",
    link=_DRIVER_GUIDE,
)
NOT_BUILT = fault(
    "cuda.driver.not-built",
    "fail",
    "The NVIDIA driver is not built for the running kernel",
    cause="the kernel was updated, and the driver's module was not built for the new one (its headers are missing, or "
    "the build failed): no driver is loaded and torch sees no GPU",
    fix="install the headers of kernel <release> (Debian, Ubuntu: sudo apt-get install linux-headers-<release>), then "
    "sudo dkms autoinstall && sudo modprobe nvidia; a failed build is told in /var/lib/dkms/nvidia/*/build/make.log",
)
BLACKLISTED = fault(
    "cuda.driver.blacklisted",
    "fail",
    "modprobe is told not to load the NVIDIA driver",
    cause="the driver is installed, but a line of modprobe's configuration keeps it from loading: torch sees no GPU",
    fix="remove the line (on Ubuntu laptops: sudo prime-select nvidia), then <initramfs>, and reboot",
)
SECURE_BOOT = fault(
    "cuda.driver.secure-boot",
    "fail",
    "Secure Boot keeps the NVIDIA driver from loading",
    cause="the driver is installed but not loaded, and Secure Boot lets the kernel load only modules signed with a key "
    "that it knows: torch sees no GPU",
    fix="sudo mokutil --import /var/lib/shim-signed/mok/MOK.der (Fedora: /etc/pki/akmods/certs/public_key.der), reboot "
    "and enroll the key at the blue screen; or switch Secure Boot off in the firmware",
)
NOT_LOADED = fault(
    "cuda.driver.not-loaded",
    "fail",
    "The NVIDIA driver is installed, but not loaded",
    cause="the kernel module is there but not loaded: torch sees no GPU",
    fix="sudo modprobe nvidia && sudo nvidia-modprobe -u -c=0; if that fails: sudo dmesg | grep -i -e nvrm -e nvidia",
)
VFIO = fault(
    "cuda.driver.vfio",
    "warn",
    "All GPUs are passed through to virtual machines",
    cause="vfio-pci holds the GPUs for virtual machines: only these can use them, torch on this host cannot",
    fix="train inside the virtual machine; or give one back: echo <address> | sudo tee "
    "/sys/bus/pci/drivers/vfio-pci/unbind, then sudo modprobe nvidia",
)
UNBOUND = fault(
    "cuda.driver.unbound",
    "warn",
    "The driver does not take one of the GPUs",
    cause="the NVIDIA driver is loaded, but holds only some of the GPUs: the others are too old for it, need the other "
    "kind of module (open or proprietary), or do not start",
    fix="see why: sudo dmesg | grep -i -e nvrm -e <address>",
)
TOO_OLD = fault(
    "cuda.driver.too-old",
    "fail",
    "The driver is too old for the CUDA version of torch",
    cause="the NVIDIA driver is too old for this torch, which therefore cannot use the GPUs: CUDA <cuda> needs driver "
    "<least> or newer",
    fix="upgrade the driver to <least> or newer (<install>) and reboot; or install a torch for this driver: "
    "<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link=_COMPATIBILITY,
)


@check("cuda.build", "The build of torch fits to the GPUs", needs=("torch.import",))
def build(context: Context) -> Iterator[Finding]:
    """Keeps NVIDIA's devices and driver as fact ``nvidia``, and the numbers of others' GPUs as ``other_gpus``."""
    devices, driver = gpus.nvidia_devices(), gpus.nvidia_driver()
    amd, intel = gpus.pci_gpus("amd"), gpus.pci_gpus("intel")
    context.facts["nvidia"] = {"devices": devices, "driver": driver}
    context.facts["other_gpus"] = {"amd": len(amd), "intel": len(intel)}
    torch = context.facts["torch"]
    wheel = wheel_for(driver)
    reachable = bool(gpus.nvidia_nodes()) or gpus.in_wsl()
    there = _there(devices, driver)
    if torch["hip"]:
        if reachable and not amd and not gpus.exists("dev/kfd"):
            yield ROCM_ON_NVIDIA.found(f"torch {torch['version']} is a ROCm build; {there}", **wheel)
        else:
            yield passed(f"torch {torch['version']} is built for ROCm {torch['hip']}; {len(amd)} AMD GPUs on the bus")
    elif not devices and gpus.exists("dev/kfd") and any(gpu.accelerator for gpu in amd):
        yield AMD_UNUSED.found(f"{len(amd)} AMD GPUs here (/dev/kfd), but torch {torch['version']} is no ROCm build")
    elif not devices and gpus.exists("dev/kfd") and amd and gpus.exists("opt/rocm"):
        evidence = f"{len(amd)} AMD GPUs and ROCm (/opt/rocm) here, but torch {torch['version']} is no ROCm build"
        yield AMD_UNUSED.found(evidence, verdict="warn")
    elif torch["cuda"]:
        yield passed(f"torch {torch['version']} is built for CUDA {torch['cuda']}; {there}")
    elif devices and gpus.is_tegra():
        yield TEGRA.found(f"this is a Jetson, but torch {torch['version']} is a CPU-only build")
    elif devices and reachable:
        yield CPU_ONLY.found(
            f"{there}, but torch {torch['version']} is a CPU-only build (torch.version.cuda is None)", **wheel
        )
    else:
        others = f"; {len(intel)} Intel GPUs, which a CPU build does not use" if intel else ""
        others += f"; {len(amd)} AMD GPUs, which a CPU build does not use" if amd else ""
        yield passed(f"torch {torch['version']} is a CPU build; {there}{others}")


def _there(devices: list[str], driver: str | None) -> str:
    if not devices:
        return "no NVIDIA GPU here"
    return f"{len(devices)} NVIDIA GPUs here (driver {driver or 'not loaded'}; {devices[0]} …)"


def wheel_for(driver: str | None) -> dict[str, Any]:
    """The requirement and the wheel index of the newest torch that a driver runs; the newest of all if unknown."""
    branch = int(driver.partition(".")[0]) if driver else 10**6
    requirement, index = next((wheel[1:] for wheel in _WHEELS if branch >= wheel[0]), _WHEELS[-1][1:])
    return {"requirement": requirement, "index": index}


@check("cuda.driver", "The NVIDIA driver is loaded, and new enough for torch", needs=("cuda.build",))
def driver(context: Context) -> Iterator[Finding]:
    """Compares the kernel's driver, or better the CUDA version that its library tells, with torch's CUDA version."""
    torch, nvidia = context.facts["torch"], context.facts["nvidia"]
    on_bus = gpus.pci_gpus("nvidia")
    if not torch["cuda"]:
        yield skipped("not a CUDA build of torch")
    elif not nvidia["devices"] and on_bus:
        held = f"vfio-pci holds all {len(on_bus)} NVIDIA GPUs of this host"
        yield VFIO.found(held, address=on_bus[0].address)
    elif not nvidia["devices"]:
        yield skipped("no NVIDIA GPU here")
    elif gpus.in_wsl() or gpus.is_tegra():
        yield passed("the driver of Windows, through /dev/dxg" if gpus.in_wsl() else "the driver of JetPack")
    elif not gpus.nvidia_module_loaded():
        yield _not_loaded(context, on_bus)
    else:
        yield from _unbound(on_bus)
        yield _new_enough(context)


def _not_loaded(context: Context, on_bus: list[gpus.PciGpu]) -> Finding:
    """Why there is no driver, as far as files tell."""
    release = (gpus.text(system.ROOT / "proc/sys/kernel/osrelease") or "").strip()
    modules = gpus.kernel_modules("nvidia.ko*")
    sources = [gpus.shown(path) for path in (*gpus.glob("usr/src", "nvidia-*"), *gpus.glob("var/lib/dkms", "nvidia*"))]
    forbidden = gpus.blacklisted("nvidia")
    number = len(context.facts["nvidia"]["devices"])
    there = f"{number} NVIDIA GPUs {'on the PCI bus' if on_bus else 'in /dev'}, but no NVIDIA driver is loaded"
    values: dict[str, Any] = {"install": install_driver(), "initramfs": _initramfs(), "release": release}
    if "nouveau" in {gpu.driver for gpu in on_bus} or gpus.exists("sys/module/nouveau"):
        return NOUVEAU.found(f"{there}: the kernel module nvidia is not loaded, nouveau is (/sys/module)", **values)
    if release in modules and forbidden:
        return BLACKLISTED.found(f"{there}, and modprobe says: {forbidden}", **values)
    if release in modules and gpus.secure_boot():
        return SECURE_BOOT.found(f"{there}; {modules[release][0]} is installed, and Secure Boot is on (efivars)")
    if release in modules:
        return NOT_LOADED.found(f"{there}, though {modules[release][0]} is installed")
    if modules or sources:
        built = f"modules only for {', '.join(modules)}" if modules else f"sources in {sources[0]}"
        return NOT_BUILT.found(f"{there}: {built}, none for the running kernel {release}", **values)
    seen = gpus.container(context.environ)
    if seen:
        fix = f"install the driver on the host of this container ({seen}), not in it: {install_driver()}; then restart"
        return MISSING.found(f"{there} (neither /sys/module/nvidia nor /proc/driver/nvidia)", fix=fix)
    return MISSING.found(f"{there} (neither /sys/module/nvidia nor /proc/driver/nvidia)", **values)


def _unbound(on_bus: list[gpus.PciGpu]) -> Iterator[Finding]:
    """GPUs without any driver beside such as have NVIDIA's. One with nouveau may drive the display."""
    without = [gpu.address for gpu in on_bus if gpu.driver is None]
    if without and any(gpu.driver == "nvidia" for gpu in on_bus):
        evidence = f"no driver holds {len(without)} of {len(on_bus)} NVIDIA GPUs: {', '.join(without)}"
        yield UNBOUND.found(evidence, address=without[0].partition(":")[2])


def _new_enough(context: Context) -> Finding:
    """What the library says is decisive: a newer one may run on an older driver (forward compatibility)."""
    cuda, nvidia = context.facts["torch"]["cuda"], context.facts["nvidia"]
    library = context.probe("libcuda").answer
    supported = library.get("version")
    needed = int(cuda.partition(".")[0])
    least = LEAST_DRIVER.get(needed)
    version = nvidia["driver"]
    nvidia["cuda"] = cuda_version(supported) if supported else None
    name = f"driver {version or 'of unknown version'}"
    if supported:
        told = f"{name}, whose library {library['path']} runs CUDA up to {nvidia['cuda']}"
        if supported // 1000 < needed:
            return too_old(context, told)
        return passed(f"{told}; torch needs {cuda}")
    if version and least and _parts(version) < _parts(least):
        return too_old(context, f"{name} (/proc/driver/nvidia/version)")
    return passed(f"{name}; torch needs CUDA {cuda}" + (f", hence at least {least}" if least else ""))


def too_old(context: Context, told: str, fault: Fault = TOO_OLD) -> Finding:
    """The finding that the driver, as ``told``, is too old for torch."""
    cuda, version = context.facts["torch"]["cuda"], context.facts["nvidia"]["driver"]
    least = LEAST_DRIVER.get(int(cuda.partition(".")[0]), "a newer one")
    # Where CUDA's version is known but not the driver's, the branch follows from the former.
    supported = (context.facts["nvidia"].get("cuda") or "").partition(".")[0]
    driver = LEAST_DRIVER.get(int(supported)) if supported.isdigit() else version
    return fault.found(
        f"{told}; torch {context.facts['torch']['version']} for CUDA {cuda} needs driver {least} or newer",
        cuda=cuda,
        least=least,
        install=install_driver(),
        **wheel_for(driver or version),
    )


def cuda_version(number: int) -> str:
    """``13.0`` for 13000, as CUDA encodes it."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


_INSTALL = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt-get install nvidia-driver",
    "fedora": "sudo dnf install akmod-nvidia",
    "rhel": "sudo dnf module install nvidia-driver:open-dkms",
    "arch": "sudo pacman -S nvidia-open",
    "suse": "sudo zypper install nvidia-open-driver-G06-signed-kmp-meta",
}


def _distribution() -> str:
    text = gpus.text(system.ROOT / "etc/os-release") or ""
    names = " ".join(re.findall(r"^ID(?:_LIKE)?=\"?([^\"\n]*)", text, re.MULTILINE)).split()
    return next((name for name in names if name in _INSTALL), "")


def install_driver() -> str:
    """The command that installs the driver on this distribution."""
    return _INSTALL.get(_distribution(), "install the driver from https://www.nvidia.com/drivers")


def _initramfs() -> str:
    return "sudo update-initramfs -u" if _distribution() in ("ubuntu", "debian") else "sudo dracut --force"
