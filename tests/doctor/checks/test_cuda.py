"""Every reason why torch does not reach a GPU, or does not compute on it.

With fake trees of /dev, /proc and /sys, a torch of a few lines in real processes, and a real ``libcuda.so.1`` that
answers with each of the driver's error codes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor import gpus, system
from llmbench.doctor.checks import all_checks
from llmbench.doctor.checks.cuda_visible import select
from llmbench.doctor.model import Finding
from llmbench.doctor.process import Processes
from llmbench.doctor.runner import PROBES, Context, diagnose
from tests.doctor.conftest import ask, verdicts

FAKE_TORCH = Path(__file__).with_name("fake_torch.py").read_text(encoding="utf-8")
NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
DISPLAY, ACCELERATOR = "0x030000", "0x120000"
RELEASE = "6.8.0-45-generic"


class Machine:
    """A tree of /dev, /proc and /sys, and the variables of a process; at first without any GPU."""

    def __init__(self, root: Path, torch: Path) -> None:
        self.root, self.torch = root, torch
        self.environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(torch)}
        self.facts: dict[str, Any] = {}
        self.fake: dict[str, Any] = {}
        self.file("proc/sys/kernel/osrelease", RELEASE)
        self.file("proc/modules", "virtio_net 69632 0 - Live 0x0000000000000000\n")

    def file(self, path: str, text: str | bytes = "") -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else text.encode())
        return place

    def pci(self, vendor: str, number: int = 1, kind: str = DISPLAY, driver: str | None = None) -> None:
        """More GPUs on the bus."""
        folder = self.root / "sys/bus/pci/devices"
        start = len(list(folder.glob("*")))
        for index in range(start, start + number):
            address = f"0000:{0x18 + index:02x}:00.0"
            self.file(f"sys/bus/pci/devices/{address}/vendor", f"{vendor}\n")
            self.file(f"sys/bus/pci/devices/{address}/class", f"{kind}\n")
            if driver:
                (folder / address / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")

    def nvidia(self, number: int = 2, driver: str = "580.82.07") -> None:
        """A machine with NVIDIA GPUs on which all is as it should be."""
        self.pci(NVIDIA, number, driver="nvidia")
        self.file("sys/module/nvidia/version", f"{driver}\n")
        self.file("sys/module/nvidia_uvm/initstate", "live\n")
        for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{index}" for index in range(number))):
            self.file(f"dev/{name}")

    def run(self, check: str) -> list[Finding]:
        """What a check finds, after those whose facts it uses."""
        known = {c.id: c for c in all_checks()}
        chain = ["cuda.build", "cuda.reach", check] if check in _NEED_DEVICES else ["cuda.build", check]
        torch = {"cuda": "13.0", "hip": None, "version": "2.13.0+cu130"}
        facts = {**self.facts, "torch": {key: self.fake.get(key, value) for key, value in torch.items()}}
        environ = {**self.environ, "FAKE_TORCH": json.dumps(self.fake)}
        context = Context(sys.executable, environ, False, Processes(), facts=facts)
        for id in dict.fromkeys(chain):
            found = list(known[id].run(context))
        self.facts = context.facts
        for finding in found:
            if finding.verdict != "pass":
                assert finding.verdict == "skip" or (finding.cause and finding.fix)
                assert "<" not in (finding.fix or "").replace("<python>", "").replace("<uuid", "")
        return found

    def one(self, check: str) -> Finding:
        (finding,) = self.run(check)
        return finding


_NEED_DEVICES = ("cuda.count", "cuda.devices", "cuda.libraries")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text(FAKE_TORCH, encoding="utf-8")
    monkeypatch.setattr(system, "ROOT", tmp_path / "root")
    return Machine(tmp_path / "root", tmp_path / "site")


CPU = {"cuda": None, "version": "2.13.0+cpu"}
ROCM = {"cuda": None, "hip": "6.4", "version": "2.13.0+rocm6.4"}


# --- cuda.build


def test_cpu_build_beside_gpus(machine: Machine) -> None:
    machine.nvidia(8)
    machine.fake = CPU
    finding = machine.one("cuda.build")
    assert (finding.fault, finding.verdict) == ("cuda.build.cpu-only", "fail")
    assert "8 NVIDIA GPUs here (driver 580.82.07" in finding.evidence
    assert "torch 2.13.0+cpu is a CPU-only build" in finding.evidence
    assert "--index-url https://download.pytorch.org/whl/cu130" in str(finding.fix)


@pytest.mark.parametrize(
    ("driver", "wheel"),
    [("580.65.06", "torch .*/cu130"), ("550.54.15", "torch .*/cu126"), ("470.57.02", "torch==2.7.1 .*/cu118")],
)
def test_the_wheel_that_the_driver_runs(machine: Machine, driver: str, wheel: str) -> None:
    machine.nvidia(1, driver)
    machine.fake = CPU
    start, _, end = wheel.partition(" .*")
    fix = str(machine.one("cuda.build").fix)
    assert f"{start} --index-url" in fix
    assert fix.endswith(end)


def test_rocm_build_beside_nvidia(machine: Machine) -> None:
    machine.nvidia()
    machine.fake = ROCM
    assert machine.one("cuda.build").fault == "cuda.build.rocm-on-nvidia"


@pytest.mark.parametrize(
    ("kind", "rocm", "verdict"),
    [(ACCELERATOR, False, "fail"), (DISPLAY, True, "warn"), (DISPLAY, False, "pass")],
    ids=["Instinct", "Radeon with ROCm", "Radeon"],
)
def test_amd_gpus_without_a_rocm_build(machine: Machine, kind: str, rocm: bool, verdict: str) -> None:
    machine.pci(AMD, 2, kind, "amdgpu")
    machine.file("dev/kfd")
    if rocm:
        machine.file("opt/rocm/.info/version", "6.4.0")
    finding = machine.one("cuda.build")
    assert finding.verdict == verdict
    assert finding.fault == (None if verdict == "pass" else "cuda.build.amd-unused")


def test_jetson_with_a_cpu_build(machine: Machine) -> None:
    machine.file("etc/nv_tegra_release", "# R36")
    machine.fake = CPU
    assert machine.one("cuda.build").fault == "cuda.build.tegra"


def test_nothing_is_wrong(machine: Machine) -> None:
    """A laptop, a display GPU with nouveau, a container on a GPU host, a host of virtual machines."""
    assert "no NVIDIA GPU here" in machine.one("cuda.build").evidence
    machine.pci(INTEL)
    machine.pci(NVIDIA, driver="nouveau")
    machine.fake = CPU
    finding = machine.one("cuda.build")
    assert finding.verdict == "pass"
    assert "1 Intel GPUs" in finding.evidence
    machine.file("sys/module/nvidia/version", "580.82.07")
    assert machine.one("cuda.build").verdict == "pass"  # a driver, but no node: none of these GPUs was given to us


def test_cuda_build_without_a_gpu(machine: Machine) -> None:
    for check in ("cuda.driver", "cuda.visible", "cuda.reach", "cuda.count", "cuda.devices", "cuda.libraries"):
        assert machine.one(check).verdict == "skip"


# --- cuda.driver


def _module(machine: Machine, release: str = RELEASE) -> None:
    machine.file(f"lib/modules/{release}/updates/dkms/nvidia.ko.zst")


def _secure_boot(machine: Machine) -> None:
    _module(machine)
    machine.file(gpus._SECURE_BOOT, b"\x06\x00\x00\x00\x01")


def _blacklist(machine: Machine) -> None:
    _module(machine)
    machine.file("etc/modprobe.d/nvidia.conf", "options nvidia x=1\nblacklist nvidia\n")


_NO_DRIVER: dict[str, tuple[Callable[[Machine], object], str]] = {
    "cuda.driver.missing": (lambda machine: None, "neither /sys/module/nvidia nor /proc/driver/nvidia"),
    "cuda.driver.nouveau": (lambda machine: machine.file("sys/module/nouveau/initstate"), "nouveau is"),
    "cuda.driver.not-built": (
        lambda machine: _module(machine, "6.8.0-40-generic"),
        "6.8.0-40-generic, none for the running kernel",
    ),
    "cuda.driver.blacklisted": (_blacklist, "blacklist nvidia in /etc/modprobe.d/nvidia.conf"),
    "cuda.driver.secure-boot": (_secure_boot, "Secure Boot is on"),
    "cuda.driver.not-loaded": (_module, f"/lib/modules/{RELEASE}/updates/dkms/nvidia.ko.zst is installed"),
}


@pytest.mark.parametrize("fault", _NO_DRIVER)
def test_no_driver_is_loaded(machine: Machine, fault: str) -> None:
    machine.pci(NVIDIA, 8)
    setup, expected = _NO_DRIVER[fault]
    setup(machine)
    finding = machine.one("cuda.driver")
    assert finding.fault == fault
    assert finding.evidence.startswith("8 NVIDIA GPUs on the PCI bus, but no NVIDIA driver is loaded")
    assert expected in finding.evidence


def test_sources_that_were_never_built(machine: Machine) -> None:
    machine.pci(NVIDIA)
    machine.file("usr/src/nvidia-580.82.07/dkms.conf")
    finding = machine.one("cuda.driver")
    assert finding.fault == "cuda.driver.not-built"
    assert f"linux-headers-{RELEASE}" in str(finding.fix)


def test_in_a_container_the_host_needs_the_driver(machine: Machine) -> None:
    machine.pci(NVIDIA)
    machine.file(".dockerenv")
    finding = machine.one("cuda.driver")
    assert finding.fault == "cuda.driver.missing"
    assert "on the host of this container (/.dockerenv exists)" in str(finding.fix)


@pytest.mark.parametrize(
    ("os_release", "command"),
    [("ID=ubuntu\nID_LIKE=debian", "ubuntu-drivers"), ("ID=debian", "apt-get"), ('ID="rocky"\nID_LIKE="rhel"', "dnf")],
)
def test_the_command_of_this_distribution(machine: Machine, os_release: str, command: str) -> None:
    machine.pci(NVIDIA)
    machine.file("etc/os-release", os_release)
    assert command in str(machine.one("cuda.driver").fix)


def test_gpus_of_virtual_machines(machine: Machine) -> None:
    machine.pci(NVIDIA, 2, driver="vfio-pci")
    finding = machine.one("cuda.driver")
    assert (finding.fault, finding.verdict) == ("cuda.driver.vfio", "warn")
    assert "echo 0000:18:00.0" in str(finding.fix)


def test_a_gpu_that_the_driver_does_not_take(machine: Machine) -> None:
    machine.nvidia(2)
    machine.pci(NVIDIA, 1)
    machine.pci(NVIDIA, 1, driver="nouveau")  # drives a display: its business
    unbound, new = machine.run("cuda.driver")
    assert (unbound.fault, new.verdict) == ("cuda.driver.unbound", "pass")
    assert "1 of 4 NVIDIA GPUs: 0000:1a:00.0" in unbound.evidence


@pytest.mark.parametrize(
    ("cuda", "driver", "old"),
    [
        ("13.0", "580.65.06", False),
        ("13.0", "575.51.02", True),
        ("12.6", "525.60.13", False),
        ("12.6", "525.60.11", True),
        ("11.8", "450.80.02", False),
        ("11.8", "418.226.00", True),
        ("14.0", "580.65.06", False),  # nothing is known of it
    ],
)
def test_driver_against_cuda(machine: Machine, cuda: str, driver: str, old: bool) -> None:
    machine.nvidia(1, driver)
    machine.fake = {"cuda": cuda}
    finding = machine.one("cuda.driver")
    assert finding.fault == ("cuda.driver.too-old" if old else None)
    assert driver in finding.evidence


def test_driver_told_by_proc_only(machine: Machine) -> None:
    machine.pci(NVIDIA)
    text = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.183.01  Release Build  (dvs-builder@U22)\nGCC 12"
    )
    machine.file("proc/driver/nvidia/version", text)
    assert gpus.nvidia_driver() == "535.183.01"
    assert machine.one("cuda.driver").fault == "cuda.driver.too-old"


def test_windows_has_the_driver(machine: Machine) -> None:
    machine.file("dev/dxg")
    machine.file("usr/lib/wsl/lib/libcuda.so.1")
    assert "Windows" in machine.one("cuda.driver").evidence


# --- cuda.visible


A, B = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1a2b3c4d-0000-1111-2222-333344445555"
MIG = "MIG-5a6b7c8d-0000-1111-2222-333344445555"


@pytest.mark.parametrize(
    ("value", "kept", "fault"),
    [
        ("0,1", 2, None),
        (" 1 , 0", 2, None),
        ("0", 1, None),
        ("", 0, "hidden"),
        ("-1", 0, "hidden"),
        ("NoDevFiles", 0, "hidden"),
        ("8", 0, "out-of-range"),
        ("0,8,1", 1, "out-of-range"),
        ("0,2,-1,1", 2, "out-of-range"),
        ("0,0", 0, "duplicate"),
        ("all", 0, "text"),
        ("cuda:0", 0, "text"),
        ("None", 0, "text"),
        ("'0,1'", 0, "text"),
        ("0-3", 1, "text"),
        ("0;1", 1, "text"),
        ("0,", 1, "text"),
        (A, 1, None),
        (A[:8], 1, None),
        (f"{A},{B}", 2, None),
        (f"{A},{A}", 0, "duplicate"),
        ("GPU-deadbeef", 0, "unknown-uuid"),
        (f"{A},GPU-deadbeef,{B}", 1, "unknown-uuid"),
        (MIG, 1, None),
        ("MIG-deadbeef", 0, "mig-gone"),
        (f"MIG-{A}/1/0", 1, None),
        (f"{A},0", 1, "mixed"),
        (f"0,{A}", 1, "mixed"),
    ],
)
def test_cuda_visible_devices(machine: Machine, value: str, kept: int, fault: str | None) -> None:
    selection = select(value, 8, (A, B, MIG))
    assert len(selection.kept) == kept
    assert (selection.fault and selection.fault.id) == (fault and f"cuda.visible.{fault}")


_VISIBLE_FAULTS = {
    "cuda.visible.hidden": "",
    "cuda.visible.out-of-range": "0,9",
    "cuda.visible.duplicate": "0,0",
    "cuda.visible.unknown-uuid": "GPU-deadbeef",
    "cuda.visible.mig-gone": "MIG-deadbeef",
    "cuda.visible.mixed": f"0,{A}",
    "cuda.visible.text": "all",
}


@pytest.mark.parametrize("fault", _VISIBLE_FAULTS)
def test_the_finding_names_the_variable(machine: Machine, fault: str, tmp_path: Path) -> None:
    machine.nvidia(2)
    smi = machine.file("bin/nvidia-smi", f"#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: {A})'\n")
    smi.chmod(0o755)
    machine.environ |= {"PATH": f"{smi.parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": _VISIBLE_FAULTS[fault]}
    finding = machine.one("cuda.visible")
    assert finding.fault == fault
    assert finding.evidence.startswith(f"CUDA_VISIBLE_DEVICES={_VISIBLE_FAULTS[fault] or repr('')}: ")
    assert "CUDA_VISIBLE_DEVICES" in str(finding.fix)
    assert finding.verdict == ("warn" if "stay visible" in finding.evidence else "fail")


def test_uuids_without_nvidia_smi(machine: Machine) -> None:
    machine.nvidia(2)
    machine.environ |= {"PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": B}
    assert machine.one("cuda.visible").verdict == "pass"  # nothing tells the UUIDs: no verdict
    machine.file("proc/driver/nvidia/gpus/0000:18:00.0/information", f"Model: \t\t NVIDIA H100\nGPU UUID: \t {A}\n")
    assert machine.one("cuda.visible").fault == "cuda.visible.unknown-uuid"


def test_order_of_different_gpus(machine: Machine) -> None:
    machine.nvidia(2)
    for address, model in (("0000:18:00.0", "NVIDIA T400"), ("0000:19:00.0", "NVIDIA GeForce RTX 4090")):
        machine.file(f"proc/driver/nvidia/gpus/{address}/information", f"Model: \t\t {model}\n")
    machine.environ["CUDA_VISIBLE_DEVICES"] = "0"
    shows, order = machine.run("cuda.visible")
    assert (shows.verdict, order.fault) == ("pass", "cuda.visible.order")
    assert "NVIDIA T400, NVIDIA GeForce RTX 4090" in order.evidence
    machine.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    assert len(machine.run("cuda.visible")) == 1


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({}, None),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, None),
        ({"HIP_VISIBLE_DEVICES": "9"}, "cuda.visible.out-of-range"),
        ({"ROCR_VISIBLE_DEVICES": "2", "HIP_VISIBLE_DEVICES": "2"}, "cuda.visible.two-variables"),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, "cuda.visible.two-variables"),
        ({"ROCR_VISIBLE_DEVICES": ""}, "cuda.visible.hidden"),
    ],
)
def test_variables_of_rocm(machine: Machine, environ: dict[str, str], fault: str | None) -> None:
    machine.pci(AMD, 4, ACCELERATOR, "amdgpu")
    machine.fake = ROCM
    machine.environ |= environ
    assert [finding.fault for finding in machine.run("cuda.visible") if finding.verdict != "pass"] == [fault][
        : bool(fault)
    ]


# --- cuda.reach: the driver's own library, for real

_LIBCUDA = r"""
#include <stdlib.h>
#include <unistd.h>
static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
int cuDriverGetVersion(int *version) { *version = number("FAKE_CUDA"); return *version ? 0 : 1; }
int cuInit(unsigned flags) { if (number("FAKE_CUINIT") < 0) abort(); return number("FAKE_CUINIT"); }
"""


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda that runs CUDA ``FAKE_CUDA`` and whose cuInit returns ``FAKE_CUINIT``."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "libcuda.c").write_text(_LIBCUDA)
    library = folder / "libcuda.so.580.82.07"
    compiler = shutil.which("cc") or shutil.which("g++") or "gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-xc", str(folder / "libcuda.c"), "-o", str(library)], check=True)
    (folder / "libcuda.so.1").symlink_to(library.name)
    return folder


def _installed(libcuda: Path, folder: Path, version: str = "580.82.07") -> str:
    """A copy of the library, as of this version, in a folder of its own."""
    folder.mkdir(parents=True)
    shutil.copy(libcuda / "libcuda.so.580.82.07", folder / f"libcuda.so.{version}")
    (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{version}")
    return str(folder)


_CODES = {
    2: "cuda.reach.memory",
    3: "cuda.reach.init",
    34: "cuda.reach.stub-library",
    46: "cuda.reach.busy",
    100: "cuda.reach.no-device",
    101: "cuda.reach.ordinal",
    304: "cuda.reach.os-call",
    802: "cuda.reach.fabric",
    805: "cuda.reach.mps",
    807: "cuda.reach.mps",
    999: "cuda.reach.unknown",
    12345: "cuda.reach.other",
}


@pytest.mark.compiler
@pytest.mark.parametrize("code", _CODES)
def test_error_codes_of_the_driver(machine: Machine, libcuda: Path, code: int) -> None:
    machine.nvidia(1)
    machine.fake = {"error": "it does not work"}
    machine.environ |= {"LD_LIBRARY_PATH": str(libcuda), "FAKE_CUINIT": str(code), "FAKE_CUDA": "13000"}
    finding = machine.one("cuda.reach")
    assert finding.fault == _CODES[code]
    assert f"cuInit of {libcuda}/libcuda.so.580.82.07 returns {code}" in finding.evidence
    assert "it does not work" in finding.evidence


_UNEXPECTED = "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before? "
_WORDS = {
    "CUDA unknown error - this may be due to an incorrectly set up environment": "cuda.reach.unknown",
    _UNEXPECTED + "Error 802: system not yet initialized": "cuda.reach.fabric",
    _UNEXPECTED + "Error 803: system has unsupported display driver / cuda driver combination": "cuda.reach.mismatch",
    _UNEXPECTED + "Error 804: forward compatibility was attempted on non supported HW": "cuda.reach.compat",
    _UNEXPECTED + "Error 101: invalid device ordinal": "cuda.reach.ordinal",
    _UNEXPECTED + "Error 304: OS call failed or operation not supported on this OS": "cuda.reach.os-call",
    _UNEXPECTED + "Error 34: CUDA driver is a stub library": "cuda.reach.stub-library",
    "CUDA driver initialization failed, you might not have a CUDA gpu.": "cuda.reach.init",
    "No CUDA GPUs are available": "cuda.reach.no-device",
    "CUDA error: out of memory": "cuda.reach.memory",
    "The NVIDIA driver on your system is too old (found version 12020).": "cuda.reach.too-old",
    "something new": "cuda.reach.other",
}


@pytest.mark.parametrize("words", _WORDS)
def test_errors_in_the_words_of_torch(machine: Machine, words: str) -> None:
    machine.nvidia(1)
    machine.fake = {"error": words}
    finding = machine.one("cuda.reach")
    assert (finding.fault, finding.verdict) == (_WORDS[words], "fail")
    assert words.split("\n")[0] in finding.evidence


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("supported", "driver", "fault"),
    [
        ("13000", "580.82.07", None),
        ("12020", "535.183.01", "cuda.driver.too-old"),
        ("13000", "535.183.01", None),  # forward compatibility: a newer library on an older driver
    ],
)
def test_the_library_tells_what_it_runs(
    machine: Machine, libcuda: Path, supported: str, driver: str, fault: str | None
) -> None:
    machine.nvidia(1, driver)
    machine.environ |= {"LD_LIBRARY_PATH": str(libcuda), "FAKE_CUDA": supported}
    finding = machine.one("cuda.driver")
    assert finding.fault == fault
    assert f"runs CUDA up to {int(supported) // 1000}." in finding.evidence


@pytest.mark.compiler
def test_forward_compatibility_that_is_not_supported(machine: Machine, libcuda: Path, tmp_path: Path) -> None:
    machine.nvidia(1)
    folder = _installed(libcuda, tmp_path / "cuda-13.2" / "compat", "595.10.01")
    machine.environ |= {"LD_LIBRARY_PATH": folder, "FAKE_CUINIT": "803", "FAKE_CUDA": "13020"}
    machine.fake = {"error": "x"}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.compat"
    assert f"LD_LIBRARY_PATH names {folder}" in finding.evidence
    assert f"remove {folder} from LD_LIBRARY_PATH" in str(finding.fix)


def test_compat_named_by_the_linker(machine: Machine) -> None:
    machine.nvidia(1)
    machine.file("etc/ld.so.conf.d/cuda-compat.conf", "/usr/local/cuda/compat\n")
    machine.fake = {"error": "Error 804: forward compatibility was attempted on non supported HW"}
    assert "/etc/ld.so.conf.d/cuda-compat.conf names /usr/local/cuda/compat" in machine.one("cuda.reach").evidence


@pytest.mark.compiler
def test_library_and_module_of_different_versions(machine: Machine, libcuda: Path, tmp_path: Path) -> None:
    machine.nvidia(1)
    folder = _installed(libcuda, tmp_path / "lib", "580.95.05")
    machine.environ |= {"LD_LIBRARY_PATH": folder, "FAKE_CUINIT": "803", "FAKE_CUDA": "13000"}
    machine.fake = {"error": "x"}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.mismatch"
    assert "(version 580.95.05), but the loaded driver is 580.82.07" in finding.evidence


@pytest.mark.compiler
def test_stub_of_the_toolkit(machine: Machine, libcuda: Path, tmp_path: Path) -> None:
    machine.nvidia(1)
    machine.environ["LD_LIBRARY_PATH"] = _installed(libcuda, tmp_path / "cuda" / "lib64" / "stubs")
    machine.fake = {"error": "Found no NVIDIA driver on your system."}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.stub-library"
    assert "/lib64/stubs/" in finding.evidence


@pytest.mark.compiler
def test_a_library_that_crashes_is_no_end(machine: Machine, libcuda: Path) -> None:
    machine.nvidia(1)
    machine.environ |= {"LD_LIBRARY_PATH": str(libcuda), "FAKE_CUINIT": "-1"}
    machine.fake = {"crashes": ["init"]}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.crash"
    assert "SIGABRT" in finding.evidence


NO_DRIVER = {"error": "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"}


def _no_libcuda_here() -> bool:
    return "libcuda.so.1" not in subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout


without_libcuda = pytest.mark.skipif(not _no_libcuda_here(), reason="this machine has a libcuda")


@without_libcuda
def test_no_library(machine: Machine) -> None:
    machine.nvidia(1)
    machine.fake = NO_DRIVER
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.no-library"
    assert "libnvidia-compute-580" in str(finding.fix)


def test_library_that_is_cut_off(machine: Machine, tmp_path: Path) -> None:
    machine.nvidia(1)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcuda.so.1").write_bytes(b"")
    machine.environ["LD_LIBRARY_PATH"] = str(tmp_path / "lib")
    machine.fake = NO_DRIVER
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.broken-library"
    assert "file too short" in finding.evidence


@without_libcuda
def test_wsl_without_the_library_of_windows(machine: Machine) -> None:
    machine.file("dev/dxg")
    machine.file("usr/lib/wsl/lib/libcuda.so.1")
    machine.fake = NO_DRIVER
    assert machine.one("cuda.reach").fault == "cuda.reach.wsl-library"


# --- cuda.reach: device nodes


@pytest.mark.parametrize(
    ("missing", "fault"),
    [("nvidia-uvm", "cuda.reach.uvm"), ("nvidiactl", "cuda.reach.nodes"), ("nvidia0", "cuda.reach.nodes")],
)
def test_missing_nodes(machine: Machine, missing: str, fault: str) -> None:
    machine.nvidia(1)
    (machine.root / "dev" / missing).unlink()
    machine.fake = {"error": "CUDA unknown error"}
    finding = machine.one("cuda.reach")
    assert finding.fault == fault
    assert f"/dev/{missing}" in finding.evidence


def test_uvm_is_not_loaded(machine: Machine) -> None:
    machine.nvidia(2)
    shutil.rmtree(machine.root / "sys/module/nvidia_uvm")
    (machine.root / "dev/nvidia-uvm").unlink()
    machine.fake = {"error": "CUDA unknown error"}
    finding = machine.one("cuda.reach")
    assert "the module nvidia_uvm is not loaded" in finding.evidence
    assert "modprobe nvidia-uvm" in str(finding.fix)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes opening /dev/nvidia0 end with an error that root cannot provoke, or never end."""

    def fail(error: str) -> None:
        folder = tmp_path / "probes"
        shutil.copytree(PROBES, folder)
        source = (folder / "device_nodes.py").read_text(encoding="utf-8")
        act = "__import__('time').sleep(600)" if error == "hang" else f"raise OSError(errno.{error}, path)"
        opens = "            os.close(os.open("
        assert opens in source
        changed = source.replace(opens, f"            if path.endswith('nvidia0'):\n                {act}\n{opens}")
        (folder / "device_nodes.py").write_text(changed, encoding="utf-8")
        monkeypatch.setattr("llmbench.doctor.runner.PROBES", folder)

    return fail


@pytest.mark.parametrize(
    ("error", "fault"),
    [("EACCES", "cuda.reach.permission"), ("EPERM", "cuda.reach.denied"), ("ENXIO", "cuda.reach.unknown")],
)
def test_nodes_that_may_not_be_opened(machine: Machine, opening: Callable[[str], None], error: str, fault: str) -> None:
    machine.nvidia(1)
    (machine.root / "dev/nvidia0").chmod(0o600)
    machine.fake = {"error": "CUDA unknown error"}
    opening(error)
    finding = machine.one("cuda.reach")
    assert finding.fault == fault
    assert "/dev/nvidia0" in finding.evidence


@pytest.mark.slow
def test_a_node_that_hangs(machine: Machine, opening: Callable[[str], None]) -> None:
    machine.nvidia(1)
    machine.fake = {"error": "CUDA unknown error"}
    opening("hang")
    assert machine.one("cuda.reach").fault == "cuda.reach.node-hangs"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to make device nodes")
def test_a_node_of_before_the_reboot(machine: Machine) -> None:
    machine.nvidia(1)
    node = machine.root / "dev/nvidia-uvm"
    node.unlink()
    try:
        os.mknod(node, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"no device node can be made here: {error}")
    machine.file("proc/devices", "Character devices:\n195 nvidia-frontend\n508 nvidia-uvm\n")
    machine.fake = {"error": "Error 304: OS call failed"}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.stale-node"
    assert "c 508 0" in str(finding.fix)


def test_mig_without_capability_nodes(machine: Machine) -> None:
    machine.nvidia(1)
    machine.environ["CUDA_VISIBLE_DEVICES"] = MIG
    machine.fake = {"error": "No CUDA GPUs are available"}
    assert machine.one("cuda.reach").fault == "cuda.reach.mig-caps"


# --- cuda.reach: containers and jobs


def test_container_without_gpus(machine: Machine) -> None:
    machine.pci(NVIDIA, 8)
    machine.file("sys/module/nvidia/version", "580.82.07")
    machine.file(".dockerenv")
    machine.fake = NO_DRIVER
    finding = machine.one("cuda.reach")
    assert (finding.fault, finding.verdict) == ("cuda.reach.container", "warn")
    assert "--gpus all" in str(finding.fix)
    machine.environ["NVIDIA_VISIBLE_DEVICES"] = "all"
    assert machine.one("cuda.reach").verdict == "fail"
    machine.environ["NVIDIA_VISIBLE_DEVICES"] = "void"
    assert machine.one("cuda.reach").fault == "cuda.reach.void"


@without_libcuda
def test_container_with_nodes_but_no_library(machine: Machine) -> None:
    machine.nvidia(1)
    machine.environ["container"] = "podman"
    machine.fake = NO_DRIVER
    assert machine.one("cuda.reach").fault == "cuda.reach.not-mounted"
    machine.environ["NVIDIA_DRIVER_CAPABILITIES"] = "utility,video"
    assert machine.one("cuda.reach").fault == "cuda.reach.capabilities"


def test_job_without_gpus(machine: Machine) -> None:
    machine.nvidia(4)
    machine.environ |= {"SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}
    assert machine.one("cuda.visible").verdict == "pass"
    finding = machine.one("cuda.reach")
    assert (finding.fault, finding.verdict) == ("cuda.reach.no-allocation", "warn")
    assert "SLURM_JOB_ID=4711" in finding.evidence


# --- cuda.reach: some, all, none


def test_all_are_reached(machine: Machine) -> None:
    machine.nvidia(2)
    finding = machine.one("cuda.reach")
    assert (finding.verdict, finding.evidence) == ("pass", "torch sees 2 GPUs: NVIDIA H100 80GB HBM3")
    assert [device["capability"] for device in machine.facts["devices"]] == ["9.0", "9.0"]


def test_one_is_missing(machine: Machine) -> None:
    machine.nvidia(3)
    finding = machine.one("cuda.count")
    assert (finding.fault, finding.verdict) == ("cuda.count.fewer", "warn")
    assert finding.evidence == "torch sees 2 of 3 NVIDIA GPUs, 1 missing"
    machine.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    assert machine.one("cuda.count").verdict == "pass"


def test_one_instance_of_mig(machine: Machine) -> None:
    machine.nvidia(2)
    machine.fake = {"devices": [{"name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "capability": "8.0"}]}
    assert machine.one("cuda.count").verdict == "pass"


def test_gpus_of_other_jobs(machine: Machine, opening: Callable[[str], None]) -> None:
    machine.nvidia(3)
    opening("EPERM")
    finding = machine.one("cuda.count")
    assert finding.verdict == "pass"
    assert "other jobs (/dev/nvidia0: EPERM)" in finding.evidence


def test_one_lost_gpu_is_found(machine: Machine) -> None:
    machine.nvidia(2)
    machine.fake = {"lost": [1]}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.lost"
    assert finding.evidence.startswith("GPU 1 fails alone, the other 1 of 2 work alone")
    assert "export CUDA_VISIBLE_DEVICES=0 " in str(finding.fix)


def test_gpus_that_work_only_alone(machine: Machine) -> None:
    machine.nvidia(2)
    machine.fake = {"fails_with_all": True}
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.together"


def test_availability_from_nvml_is_told(machine: Machine) -> None:
    machine.nvidia(1)
    machine.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    machine.fake = {"available": True, "error": "CUDA unknown error"}
    assert "PYTORCH_NVML_BASED_CUDA_CHECK is set" in machine.one("cuda.reach").evidence


@pytest.mark.slow
def test_start_that_hangs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.nvidia(1)
    machine.fake = {"hangs": ["init"]}
    monkeypatch.setattr(Context, "deadline", 3.0)
    patient = Context._patient
    monkeypatch.setattr(Context, "_patient", lambda self, deadline: patient(self, min(deadline or 3.0, 3.0)))
    finding = machine.one("cuda.reach")
    assert finding.fault == "cuda.reach.hang"


# --- cuda.reach: AMD


@pytest.fixture
def amd(machine: Machine) -> Machine:
    machine.pci(AMD, 2, ACCELERATOR, "amdgpu")
    machine.fake = {**ROCM, "error": "No HIP GPUs are available"}
    return machine


def test_kfd_is_missing(amd: Machine) -> None:
    finding = amd.one("cuda.reach")
    assert finding.fault == "cuda.reach.kfd"
    assert "--device=/dev/kfd" in str(finding.fix)


def test_kfd_may_not_be_opened(amd: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    amd.file("dev/kfd").chmod(0o440)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False if "kfd" in str(path) else real(path, mode))
    finding = amd.one("cuda.reach")
    assert finding.fault == "cuda.reach.kfd-permission"
    assert "mode 440" in finding.evidence


def test_gfx_override(amd: Machine) -> None:
    amd.file("dev/kfd")
    amd.environ["HSA_OVERRIDE_GFX_VERSION"] = "11.0.0"
    finding = amd.one("cuda.reach")
    assert finding.fault == "cuda.reach.gfx-override"
    assert "HSA_OVERRIDE_GFX_VERSION=11.0.0" in finding.evidence


def test_rocm_without_a_reason(amd: Machine) -> None:
    amd.file("dev/kfd")
    assert amd.one("cuda.reach").fault == "cuda.reach.hip"


# --- cuda.devices


def test_each_gpu_computes_right(machine: Machine) -> None:
    machine.nvidia(2)
    finding = machine.one("cuda.devices")
    assert finding.verdict == "pass"
    assert finding.evidence.startswith("GPUs 0, 1, NVIDIA H100 80GB HBM3 (compute capability 9.0): 79.0 of 80.0 GiB")


@pytest.mark.parametrize(
    ("fake", "fault", "expected"),
    [
        (
            {"off": {"matmul@1": 0.1}},
            "cuda.devices.wrong",
            "GPU 1, NVIDIA H100 80GB HBM3 (compute capability 9.0) computes wrong",
        ),
        ({"off": {"kernel@1": 1.0}}, "cuda.devices.wrong", "2^20 ones add up to 2097152"),
        ({"off": {"matmul@1": 1e-9}, "unsteady": True}, "cuda.devices.unsteady", "different bits"),
        ({"raises": {"zeros@1": "CUDA error: out of memory"}}, "cuda.devices.no-memory", "its first allocation"),
        (
            {"raises": {"context@1": "CUDA error: all CUDA-capable devices are busy or unavailable"}},
            "cuda.devices.busy",
            "context",
        ),
        (
            {"raises": {"kernel@1": "CUDA error: uncorrectable ECC error encountered"}},
            "cuda.devices.ecc",
            "a kernel of torch",
        ),
        (
            {"raises": {"kernel@1": "CUDA error: no kernel image is available"}},
            "cuda.devices.no-kernel-image",
            "no kernel image",
        ),
        (
            {"raises": {"kernel@1": "the provided PTX was compiled with an unsupported toolchain."}},
            "cuda.devices.ptx-version",
            "PTX",
        ),
        (
            {"raises": {"matmul@1": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"}},
            "cuda.devices.cublas",
            "a matmul (cuBLAS)",
        ),
        (
            {"raises": {"copy@1": "CUDA error: unspecified launch failure"}},
            "cuda.devices.error",
            "unspecified launch failure",
        ),
        ({"crashes": ["matmul@1"]}, "cuda.devices.crash", "a matmul (cuBLAS) was killed by SIGABRT"),
    ],
)
def test_one_of_two_gpus_fails(machine: Machine, fake: dict[str, Any], fault: str, expected: str) -> None:
    machine.nvidia(2)
    machine.fake = fake
    good, bad = machine.run("cuda.devices")
    assert good.evidence.startswith("GPU 0,")
    assert good.verdict == "pass"
    assert (bad.fault, bad.verdict) == (fault, "fail")
    assert bad.evidence.startswith("GPU 1,")
    assert expected in bad.evidence


@pytest.mark.slow
def test_a_gpu_that_hangs_hides_no_other(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.nvidia(2)
    machine.fake = {"hangs": ["matmul@0"]}
    patient = Context._patient
    monkeypatch.setattr(Context, "_patient", lambda self, deadline: patient(self, min(deadline or 4.0, 4.0)))
    bad, good = machine.run("cuda.devices")
    assert (bad.fault, good.verdict) == ("cuda.devices.hang", "pass")
    assert "GPU 0, NVIDIA H100 80GB HBM3 (compute capability 9.0): a matmul (cuBLAS) gave no answer" in bad.evidence


CUDA_13 = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120"
WHEELS = {"12.6": {"x86_64": [50, 60, 70, 75, 80, 86, 90]}, "13.0": {"x86_64": [75, 80, 86, 90, 100, 120]}}
WHEELS = {cuda: built | {"aarch64": built["x86_64"]} for cuda, built in WHEELS.items()}


@pytest.mark.parametrize(
    ("capability", "architectures", "fault", "wheel"),
    [
        ("6.1", CUDA_13, "cuda.devices.too-old", "torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126"),
        ("3.7", CUDA_13, "cuda.devices.too-old", "torch==1.12.1 --index-url https://download.pytorch.org/whl/cu113"),
        ("12.0", "sm_50 sm_60 sm_70 sm_80 sm_86 sm_90", "cuda.devices.too-new", "whl/cu130"),
        ("9.0", "sm_50 sm_60 sm_70 sm_80 sm_86", "cuda.devices.too-new", "whl/cu130"),
        ("12.0", "sm_50 sm_80 sm_90 compute_90", "cuda.devices.by-ptx", "whl/cu130"),
        ("8.7", "sm_80 sm_86 sm_90", "cuda.devices.too-new", "index-url"),
        ("8.9", CUDA_13, None, ""),
        ("9.0", "sm_80 sm_90a", None, ""),
        ("12.1", CUDA_13, None, ""),
        ("9.0", "", None, ""),
    ],
)
def test_architecture(machine: Machine, capability: str, architectures: str, fault: str | None, wheel: str) -> None:
    machine.nvidia(1)
    gpu = {"name": "NVIDIA Something", "capability": capability}
    machine.fake = {"devices": [gpu], "architectures": architectures, "wheels": WHEELS}
    found = [finding for finding in machine.run("cuda.devices") if finding.verdict != "pass"]
    assert [finding.fault for finding in found] == ([fault] if fault else [])
    for finding in found:
        assert f"sm_{capability.replace('.', '')}" in finding.evidence
        assert wheel in str(finding.fix)


@pytest.mark.parametrize(("gfx", "fault"), [("gfx942:sramecc+:xnack-", None), ("gfx1031", "cuda.devices.gfx")])
def test_architecture_of_amd(machine: Machine, gfx: str, fault: str | None) -> None:
    machine.pci(AMD, 1, driver="amdgpu")
    machine.file("dev/kfd")
    device = {"name": "AMD Radeon", "capability": "10.3", "gfx": gfx}
    machine.fake = {**ROCM, "devices": [device], "architectures": "gfx906 gfx942 gfx1030"}
    (finding,) = machine.run("cuda.devices")
    assert finding.fault == fault


# --- cuda.libraries


def test_libraries_work(machine: Machine) -> None:
    machine.nvidia(2)
    machine.fake = {"nccl": [2, 28, 9]}
    finding = machine.one("cuda.libraries")
    assert finding.evidence == "cuDNN 91900, NCCL 2.28.9; 2 of 2 pairs of GPUs access each other directly"


_INCOMPATIBLE = (
    "cuDNN version incompatibility: PyTorch was compiled  against (9, 19, 0) but found runtime version (8, 9, 2)"
)


@pytest.mark.parametrize(
    ("fake", "fault", "verdict"),
    [
        ({"raises": {"cudnn": _INCOMPATIBLE}}, "cuda.libraries.cudnn-version", "fail"),
        (
            {"raises": {"conv2d": "cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH"}},
            "cuda.libraries.cudnn-version",
            "fail",
        ),
        ({"raises": {"conv2d": "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"}}, "cuda.libraries.cudnn", "fail"),
        ({"raises": {"linear": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"}}, "cuda.libraries.cublas", "fail"),
        ({"raises": {"conv2d": "something else"}}, "cuda.libraries.error", "fail"),
        ({"off": {"conv2d": 10.0}, "nccl": [2, 28, 9]}, "cuda.libraries.cudnn", "fail"),
        ({"off": {"linear": 10.0}, "nccl": [2, 28, 9]}, "cuda.libraries.cublas", "fail"),
        ({"nccl": None}, "cuda.libraries.no-nccl", "warn"),
    ],
)
def test_a_library_fails(machine: Machine, fake: dict[str, Any], fault: str, verdict: str) -> None:
    machine.nvidia(2)
    machine.fake = fake
    finding = machine.run("cuda.libraries")[0]
    assert (finding.fault, finding.verdict) == (fault, verdict)


# --- as the command asks


@pytest.mark.slow
def test_this_machine() -> None:
    """The whole chain with the torch of this environment: nothing here fails unless there is a GPU."""
    pytest.importorskip("torch")
    if gpus.nvidia_devices() or gpus.pci_gpus("amd"):
        pytest.skip("this machine has a GPU")
    diagnosis = diagnose(only=["cuda"])
    assert set(verdicts(diagnosis).values()) <= {"pass", "skip"}
    assert verdicts(diagnosis)["cuda.build"] == "pass"


def test_one_import_serves_all_gpus(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the runner: the probes are forks of the process that imported torch, and CVD's fault is the root."""
    machine.nvidia(2)
    monkeypatch.setenv("PYTHONPATH", str(machine.torch))
    monkeypatch.setenv("FAKE_TORCH", json.dumps({}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    (finding,) = ask("cuda.visible")
    assert finding.fault == "cuda.visible.out-of-range"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (finding,) = ask("cuda.devices")
    assert finding.verdict == "pass"
