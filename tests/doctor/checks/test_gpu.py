"""The health of GPUs, as a library built here tells it in NVML's place."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor import nvml
from llmbench.doctor.checks import gpu_links, gpu_nvml, gpu_present, gpu_smi, gpu_use
from llmbench.doctor.model import Diagnosis, Finding
from llmbench.doctor.nvml import Reading
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import diagnose
from tests.doctor.conftest import findings

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
    pytest.mark.filterwarnings("error"),
]
SOURCE = Path(__file__).parent / "fake_nvml.c"
Machine = Callable[..., Diagnosis]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Folder of the library built with these options, each once."""
    built: dict[tuple[str, ...], str] = {}

    def build(*options: str) -> str:
        if options not in built:
            folder = tmp_path_factory.mktemp("nvml")
            output = folder / "libnvidia-ml.so.1"
            subprocess.run(["gcc", "-shared", "-fPIC", "-O1", *options, "-o", output, SOURCE], check=True)
            built[options] = str(folder)
        return built[options]

    return build


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: Callable[..., str]) -> Machine:
    """Two A100 on the PCI bus and in /dev, and what NVML says of them; gives the diagnosis of the area ``gpu``."""
    monkeypatch.setattr(nvml, "DEV", tmp_path / "dev")
    monkeypatch.setattr(nvml, "PCI", tmp_path / "pci")
    (tmp_path / "dev").mkdir()
    (tmp_path / "pci").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    for address in ("0000:01:00.0", "0000:02:00.0"):
        pci_device(tmp_path, address)
    for module in (gpu_nvml, gpu_smi, gpu_links):
        monkeypatch.setattr(module, "is_container", lambda environ: False)
    monkeypatch.setattr(gpu_nvml, "nvidia_driver", lambda: None)
    # NVML lists processes of the test too, if it should run on a machine with GPUs.
    monkeypatch.setattr(gpu_use, "is_running", lambda name: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    skipped = ["gpu.xid", "gpu.smi"]

    def ask(said: str = "", *options: str, only: str = "gpu", skip: list[str] = skipped) -> Diagnosis:
        (tmp_path / "said").write_text(said.replace("; ", "\n") + "\n")
        monkeypatch.setenv("FAKE_NVML", str(tmp_path / "said"))
        monkeypatch.setenv("LD_LIBRARY_PATH", library(*options))
        return diagnose(only=[only], skip=[] if only != "gpu" else skip)

    return ask


def pci_device(root: Path, address: str, vendor: str = "0x10de", kind: str = "0x030200") -> Path:
    folder = root / "pci" / address
    folder.mkdir()
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(kind + "\n")
    (folder / "numa_node").write_text("0\n")
    return folder


def faults(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.fault: finding for _, finding in diagnosis.of("fail", "warn", "incomplete") if finding.fault}


def test_healthy(machine: Machine) -> None:
    diagnosis = machine()
    problems = diagnosis.of("fail", "warn", "incomplete")
    assert problems == []
    told = {check.id: finding.evidence for check, finding in diagnosis.of("pass")}
    assert told["gpu.nvml"] == "2 GPUs (NVIDIA A100-SXM4-80GB), driver 570.86.10, NVML 12.570.86.10"
    assert told["gpu.nvlink"] == "NVLinks up: 12 on each of 2 GPUs"
    assert diagnosis.facts["gpus"][1]["bus"] == "0000:02:00.0"
    assert "GPU-0000" not in str(diagnosis.to_json())


# What NVML says; the fault, and words that its evidence must hold. Nothing else may be found.
CASES = [
    ("1 nvmlDeviceGetHandleByIndex_v2 error 15", "gpu.present.lost", "GPU 1 (0000:02:00.0): NVML: GPU is lost"),
    ("0 nvmlDeviceGetTemperature error 15", "gpu.present.lost", "GPU 0 (0000:01:00.0)"),
    ("1 nvmlDeviceGetHandleByIndex_v2 error 16", "gpu.present.reset", "(it must be reset)"),
    ("0 nvmlDeviceGetEccMode error 16", "gpu.present.reset", "GPU 0 (0000:01:00.0): NVML: GPU requires a reset"),
    ("* nvmlDeviceGetHandleByIndex_v2 error 4", "gpu.present.unreadable", "GPU 0 (0000:01:00.0), GPU 1"),
    ("1 nvmlDeviceGetFieldValues.230 2", "gpu.present.recovery", "recovery action: reboot the node"),
    ("* nvmlDeviceGetCount_v2 1", "gpu.present.missing",
     "1 of 2 GPUs: 2 on the PCI bus, 2 in /dev (missing: 0000:02:00.0)"),
    ("1 nvmlDeviceValidateInforom error 14", "gpu.present.inforom", "GPU 1 (0000:02:00.0)"),
    ("1 nvmlDeviceGetPowerUsage crash", "gpu.present.stuck", "GPU 1 (0000:02:00.0): NVML crashes when asked for"),
    ("1 nvmlDeviceGetTemperature 255", "gpu.readings.implausible", "temperature of 255"),
    ("1 nvmlDeviceGetMemoryInfo.used 99000000000", "gpu.readings.implausible", "92.2 GiB of 80.0 GiB memory used"),
    ("1 nvmlDeviceGetUtilizationRates 117", "gpu.readings.implausible", "utilisation (gpu) of 117 %"),
    ("1 nvmlDeviceGetCurrentClocksEventReasons 0x60; 1 nvmlDeviceGetTemperature 91", "gpu.throttle.thermal", "91 C"),
    ("1 nvmlDeviceGetCurrentClocksEventReasons 0x88", "gpu.throttle.power-brake", "hardware power brake"),
    ("1 nvmlDeviceGetCurrentClocksEventReasons 0x8", "gpu.throttle.hardware", "SM clock 210 of 1410 MHz"),
    ("1 nvmlDeviceGetCurrentClocksEventReasons 0x4", "gpu.throttle.power-cap", "60 of 400 W"),
    ("1 nvmlDeviceGetCurrentClocksEventReasons 0x10", "gpu.throttle.sync-boost", "sync boost"),
    ("1 nvmlDeviceGetTemperature 87", "gpu.throttle.hot", "87 C (slowdown at 90 C)"),
    ("1 nvmlDeviceGetFieldValues.82 99", "gpu.throttle.hot-memory", "memory temperature 99 C (limit 95 C)"),
    ("1 nvmlDeviceGetFanSpeed 0; 1 nvmlDeviceGetTemperature 82", "gpu.throttle.fan", "fan at 0 %"),
    ("1 nvmlDeviceGetPowerManagementLimit 250000", "gpu.power.limit", "power limit 250 W, default 400 W"),
    ("1 nvmlDeviceGetEnforcedPowerLimit 200000", "gpu.power.limit", "power limit 200 W, default 400 W"),
    ("1 nvmlDeviceGetPowerSource 2", "gpu.power.source", "undersized"),
    ("* nvmlDeviceGetApplicationsClock 900", "gpu.clocks.application",
     "GPUs 0-1: application clocks: SM 900 MHz of 1410"),
    ("1 nvmlDeviceGetEccMode.now 0", "gpu.ecc.off", "GPU 1 (0000:02:00.0): ECC is off"),
    ("* nvmlDeviceGetEccMode.pending 0", "gpu.ecc.pending", "GPUs 0-1: ECC is on, and off after the next reset"),
    ("1 nvmlDeviceGetTotalEccErrors.uncorrected 2", "gpu.ecc.uncorrected", "2 uncorrectable ECC errors"),
    ("1 nvmlDeviceGetSramEccErrorStatus.secded 1", "gpu.ecc.uncorrected", "1 uncorrectable ECC errors"),
    ("1 nvmlDeviceGetTotalEccErrors.uncorrected_ever 40", "gpu.ecc.history", "40 uncorrectable"),
    ("1 nvmlDeviceGetTotalEccErrors.corrected 5000", "gpu.ecc.storm", "5000 corrected"),
    ("1 nvmlDeviceGetSramEccErrorStatus.exceeded 1", "gpu.ecc.sram", "threshold exceeded (3 errors in its life)"),
    ("1 nvmlDeviceGetRemappedRows.pending 1", "gpu.memory.remap-pending", "pending"),
    ("1 nvmlDeviceGetRemappedRows.failed 1", "gpu.memory.remap-failed", "failed"),
    ("1 nvmlDeviceGetRowRemapperHistogram.none 3", "gpu.memory.banks-exhausted", "3 banks"),
    ("1 nvmlDeviceGetRetiredPagesPendingStatus 1", "gpu.memory.pages-pending", "pending"),
    ("1 nvmlDeviceGetRetiredPages 0; 1 nvmlDeviceGetRetiredPages.double 61", "gpu.memory.pages-many",
     "61 retired pages"),
    ("1 nvmlDeviceGetRepairStatus.channel 1", "gpu.memory.repair-pending", "memory channel"),
    ("* nvmlDeviceGetMigMode.now 1", "gpu.mig.empty", "GPUs 0-1: MIG mode is on, but there are no MIG instances"),
    ("* nvmlDeviceGetMigMode.now 1; * nvmlDeviceGetMigDeviceHandleByIndex 3", "gpu.mig.on", "3 instances"),
    ("1 nvmlDeviceGetMigMode.now 1; 1 nvmlDeviceGetMigDeviceHandleByIndex 7", "gpu.mig.mixed", "on for GPU 1"),
    ("1 nvmlDeviceGetMigMode.pending 1", "gpu.mig.pending", "pending"),
    ("* nvmlDeviceGetPersistenceMode 0", "gpu.mode.persistence", "GPUs 0-1"),
    ("* nvmlDeviceGetComputeMode 3", "gpu.mode.exclusive", "EXCLUSIVE_PROCESS"),
    ("* nvmlDeviceGetComputeMode 2", "gpu.mode.prohibited", "PROHIBITED"),
    ("0 processes.pid 4194000; 0 processes.memory 60000000000; 0 nvmlDeviceGetMemoryInfo.used 61000000000",
     "gpu.busy.process", "other (pid 4194000) uses it, 55.9 GiB of memory"),
    ("0 nvmlDeviceGetMemoryInfo.used 61000000000", "gpu.busy.unseen",
     "56.8 GiB of 80.0 GiB memory is used, no process"),
    ("1 nvmlDeviceGetName Tesla V100-PCIE-32GB", "gpu.alike.models", "GPU 1 (0000:02:00.0): Tesla V100-PCIE-32GB"),
    ("1 nvmlDeviceGetMemoryInfo.total 42949672960", "gpu.alike.memory", "40.0 GiB"),
    ("1 nvmlDeviceGetVbiosVersion 92.00.19.00.01", "gpu.alike.firmware", "VBIOS 92.00.19.00.01"),
    ("1 nvmlDeviceGetDisplayActive 1; 1 nvmlDeviceGetPersistenceMode 0", "gpu.alike.settings", "persistence mode off"),
    ("* nvmlDeviceGetVirtualizationMode 2; * nvmlDeviceGetGridLicensableFeatures_v4 0", "gpu.licence.vgpu",
     "unlicensed"),
    ("1 nvmlDeviceGetCurrPcieLinkWidth 4", "gpu.pcie.width", "GPU 1 (0000:02:00.0): PCIe link width x4"),
    ("1 nvmlDeviceGetCurrPcieLinkGeneration 1; 1 nvmlDeviceGetUtilizationRates 60", "gpu.pcie.generation",
     "generation 1 of 4 at 60 % load"),
    ("1 nvmlDeviceGetPcieReplayCounter 5000", "gpu.pcie.replays", "5000"),
    ("1 nvmlDeviceGetBAR1MemoryInfo 268435456", "gpu.pcie.bar1", "BAR1 of 0.2 GiB"),
    ("1 nvmlDeviceGetNvLinkState.3 0; 1 nvmlDeviceGetNvLinkState.4 0", "gpu.nvlink.down", "NVLinks 3-4 are down"),
    ("* nvmlDeviceGetNvLinkState.all 0", "gpu.nvlink.down", "GPUs 0-1: NVLinks 0-11 are down"),
    ("1 nvmlDeviceGetNvLinkErrorCounter.recovery 12", "gpu.nvlink.errors", "12 recovery errors (link 0: 12)"),
    ("* nvmlDeviceGetGpuFabricInfoV.state 1", "gpu.fabric.not-ready", "state not started"),
    ("* nvmlDeviceGetGpuFabricInfoV.status 999", "gpu.fabric.not-ready", "NVML error 999"),
    ("1 nvmlDeviceGetGpuFabricInfoV.health 0x9a", "gpu.fabric.unhealthy", "unhealthy route"),
    ("1 nvmlDeviceGetGpuFabricInfoV.summary 3", "gpu.fabric.unhealthy", "limited capacity"),
    ("* nvmlDeviceGetP2PStatus 1", "gpu.peers.none",
     "no P2P between 1 of 1 pairs of GPUs (NVML: chipset not supported)"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "fault", "words"), CASES, ids=[f"{case[1]}-{i}" for i, case in enumerate(CASES)])
def test_fault(machine: Machine, said: str, fault: str, words: str) -> None:
    found = faults(machine(said))
    assert {id: finding.evidence for id, finding in found.items() if id != fault} == {}
    assert words in found[fault].evidence
    assert "<gpus>" not in str(found[fault].fix)


@pytest.mark.parametrize(
    ("reasons", "state", "clock", "fault"),
    [
        ("0x2", 0, 700, "gpu.clocks.locked"),
        ("0x0", 0, 700, "gpu.clocks.stuck"),
        ("0x0", 8, 1400, "gpu.clocks.stuck"),
        ("0x4", 0, 700, None),  # at its power limit, as any busy GPU
        ("0x1", 0, 210, None),  # a job has just ended
        ("0x0", 0, 1300, None),
    ],
)
def test_clocks_under_load(machine: Machine, reasons: str, state: int, clock: int, fault: str | None) -> None:
    said = (
        f"1 nvmlDeviceGetUtilizationRates 99; 1 nvmlDeviceGetCurrentClocksEventReasons {reasons}; "
        f"1 nvmlDeviceGetPerformanceState {state}; 1 nvmlDeviceGetClockInfo {clock}; 1 nvmlDeviceGetPowerUsage 390000"
    )
    assert list(faults(machine(said))) == ([fault] if fault else [])


GEFORCE = (
    "* nvmlDeviceGetName NVIDIA GeForce RTX 4090; * nvmlDeviceGetNvLinkState.count 0; "
    "* nvmlDeviceGetGpuFabricInfoV.state 0; "
)


@pytest.mark.parametrize(
    "said",
    [
        GEFORCE + "* nvmlDeviceGetP2PStatus 5; * nvmlDeviceGetEccMode error 3; * nvmlDeviceGetMigMode error 3",
        GEFORCE
        + "* nvmlDeviceGetPersistenceMode 0; * nvmlDeviceGetEccMode.now 0; * nvmlDeviceGetBAR1MemoryInfo 268435456",
        GEFORCE + "* nvmlDeviceGetCurrPcieLinkWidth 8; * nvmlDeviceGetCurrentClocksEventReasons 0x4",
        "* nvmlDeviceGetCurrPcieLinkGeneration 1; * nvmlDeviceGetPerformanceState 8",
        "* nvmlDeviceGetName NVIDIA H100 PCIe; * nvmlDeviceGetNvLinkState.all 0",
        "0 graphics.pid 77; 0 graphics.memory 900000000; 0 nvmlDeviceGetMemoryInfo.used 1500000000",
        "0 processes.pid 4194000; 0 processes.memory 500000000",
        "1 nvmlDeviceGetName NVIDIA T400; 1 nvmlDeviceGetMemoryInfo.total 4294967296; 1 nvmlDeviceGetDisplayActive 1",
        "* nvmlDeviceGetMigMode.now 1; 0 nvmlDeviceGetMigDeviceHandleByIndex 1; * nvmlDeviceGetCount_v2 1",
        "* nvmlDeviceGetVirtualizationMode 2; * nvmlDeviceGetPersistenceMode 0",
        "1 nvmlDeviceGetTotalEccErrors.uncorrected_ever 1; 1 nvmlDeviceGetRemappedRows.uncorrected 1",
        "1 nvmlDeviceGetTemperature error 999; 1 nvmlDeviceGetName error 999",
    ],
)
def test_what_is_normal_somewhere(machine: Machine, said: str, tmp_path: Path) -> None:
    if "Count_v2 1" in said:  # a container with one slice of one GPU
        (tmp_path / "dev" / "nvidia1").unlink()
    diagnosis = machine(said)
    assert [(check.id, finding.evidence) for check, finding in diagnosis.of("fail", "warn", "incomplete")] == []


@pytest.mark.parametrize(
    ("said", "fault", "words"),
    [
        ("* nvmlInitWithFlags error 9", "gpu.nvml.not-loaded", "Driver Not Loaded"),
        ("* nvmlInitWithFlags error 18", "gpu.nvml.mismatch", "mismatch: library "),
        ("* nvmlInitWithFlags error 999", "gpu.nvml.unknown", "Unknown Error (error 999; not in a container"),
        ("* nvmlInitWithFlags error 4", "gpu.nvml.permission", "Insufficient Permissions"),
        ("* nvmlInitWithFlags error 17", "gpu.nvml.permission", "error 17"),
        ("* nvmlInitWithFlags error 20", "gpu.nvml.failed", "error 20"),
        ("* nvmlInitWithFlags error 12", "gpu.nvml.missing", "error 12"),
        ("* nvmlInitWithFlags crash", "gpu.nvml.crashes", "nvmlInit was killed by SIGSEGV"),
        ("* nvmlDeviceGetCount_v2 crash", "gpu.nvml.crashes", "nvmlDeviceGetCount_v2 was killed by SIGSEGV"),
        ("* nvmlDeviceGetCount_v2 0", "gpu.nvml.empty", "NVML lists 0 GPUs; 2 on the PCI bus, 2 in /dev"),
    ],
)
def test_nvml_does_not_answer(machine: Machine, said: str, fault: str, words: str) -> None:
    diagnosis = machine(said)
    found = faults(diagnosis)
    assert list(found) == [fault], "what follows is not told"
    assert words in found[fault].evidence
    (one,) = findings(diagnosis, "gpu.ecc")
    assert one.evidence == "needs gpu.nvml"


def test_nvml_hangs(machine: Machine, patience: Callable[[float], None]) -> None:
    patience(1.0)
    assert list(faults(machine("* nvmlInitWithFlags hang"))) == ["gpu.nvml.hangs"]


def test_what_was_read_before_a_hang_and_after_it_is_kept(machine: Machine, patience: Callable[[float], None]) -> None:
    """Of the GPU at which it hangs, what was read before; of the others all but the field."""
    patience(1.0)
    found = faults(
        machine(
            "* nvmlDeviceGetPowerUsage hang; 0 nvmlDeviceGetTemperature 89; 0 nvmlDeviceGetCurrPcieLinkWidth 4; "
            "1 nvmlDeviceGetTotalEccErrors.uncorrected 1"
        )
    )
    assert set(found) == {"gpu.present.stuck", "gpu.throttle.hot", "gpu.ecc.uncorrected"}
    assert "NVML hangs when asked for nvmlDeviceGetPowerUsage of GPU 0" in found["gpu.present.stuck"].evidence


def test_no_library(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    diagnosis = machine()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    diagnosis = diagnose(only=["gpu"], skip=["gpu.xid", "gpu.smi"])
    assert list(faults(diagnosis)) == ["gpu.nvml.missing"]


def test_stub_of_the_toolkit(machine: Machine, library: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "stubs"
    folder.mkdir()
    shutil.copy(Path(library()) / "libnvidia-ml.so.1", folder)
    machine()
    os.environ["LD_LIBRARY_PATH"] = str(folder)  # the fixture puts it back
    (finding,) = findings(diagnose(only=["gpu.nvml"]), "gpu.nvml")
    assert finding.fault == "gpu.nvml.stub"
    assert str(folder) in str(finding.fix)


def test_driver_of_2021(machine: Machine) -> None:
    """It lacks newer functions, which is no fault; and a field that it lacks is no finding."""
    diagnosis = machine("* nvmlSystemGetDriverVersion 470.57.02; * nvmlDeviceGetMemoryInfo.used 5000000", "-DOLD")
    assert diagnosis.of("fail", "warn", "incomplete") == []


def test_driver_that_is_too_old(machine: Machine) -> None:
    found = faults(machine("* nvmlSystemGetDriverVersion 450.80.02", "-DOLD", "-DWITHOUT_ROWS"))
    assert list(found) == ["gpu.nvml.old"]
    assert "driver 450.80.02 lacks" in found["gpu.nvml.old"].evidence
    assert "nvmlDeviceGetRemappedRows" in found["gpu.nvml.old"].evidence


def test_fields_that_no_driver_tells(machine: Machine) -> None:
    functions = ("nvmlDeviceGetEccMode", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetSramEccErrorStatus")
    said = "; ".join(f"* {function} error 3" for function in functions)
    (finding,) = findings(machine(said), "gpu.ecc")
    assert finding.verdict == "skip"
    assert "ecc: Not Supported" in finding.evidence


def test_library_of_another_driver(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_nvml, "nvidia_driver", lambda: "560.35.03")
    found = faults(machine())
    assert list(found) == ["gpu.nvml.other-driver"]
    assert found["gpu.nvml.other-driver"].evidence == "NVML: driver 570.86.10; kernel module: 560.35.03"


def test_gpus_given_to_others_are_not_missing(machine: Machine, tmp_path: Path) -> None:
    """A container or a job sees all of the bus, but has the files of its own GPUs only; one more is a VM's."""
    (tmp_path / "dev" / "nvidia1").unlink()
    guest = pci_device(tmp_path, "0000:03:00.0")
    (tmp_path / "vfio-pci").mkdir()
    (guest / "driver").symlink_to(tmp_path / "vfio-pci")
    assert faults(machine("* nvmlDeviceGetCount_v2 1")) == {}


def test_gpus_that_a_job_may_not_open_are_not_missing() -> None:
    """A job of SLURM sees all device files, and its control group forbids those of others."""
    nodes = {"/dev/nvidia0": 0, "/dev/nvidia1": errno.EPERM, "/dev/nvidiactl": 0}
    both = ["0000:01:00.0", "0000:02:00.0"]

    def found(nodes: dict[str, int]) -> list[Finding]:
        reading = Reading(Outcome(), {"count": {"value": 1}, "nodes": nodes}, ())
        return list(gpu_present._fewer(reading, both, both[1:]))

    assert found(nodes) == []
    assert [finding.fault for finding in found({**nodes, "/dev/nvidia1": errno.EIO})] == ["gpu.present.missing"]


def test_busy_gpus_that_this_job_does_not_see(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    said = "0 processes.pid 4194000; 0 processes.memory 60000000000; 0 nvmlDeviceGetMemoryInfo.used 61000000000"
    assert faults(machine(said)) == {}


def test_own_processes_are_not_others(machine: Machine) -> None:
    said = f"0 processes.pid {os.getpid()}; 0 processes.memory 60000000000; 0 nvmlDeviceGetMemoryInfo.used 61000000000"
    assert faults(machine(said)) == {}


def test_exclusive_mode_under_mps(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_use, "is_running", lambda name: name == "nvidia-cuda-mps-control")
    assert faults(machine("* nvmlDeviceGetComputeMode 3")) == {}


def test_narrow_slot(machine: Machine, tmp_path: Path) -> None:
    """What the slot does not have is not lost."""
    bridge = tmp_path / "bridge"
    bridge.mkdir()
    (bridge / "max_link_width").write_text("8\n")
    (tmp_path / "pci" / "0000:02:00.0").rename(bridge / "0000:02:00.0")
    (tmp_path / "pci" / "0000:02:00.0").symlink_to(bridge / "0000:02:00.0")
    assert faults(machine("1 nvmlDeviceGetCurrPcieLinkWidth 8")) == {}


@pytest.mark.parametrize(("fatal", "corrected", "found"), [("1", "0", True), ("0", "99999", True), ("0", "10", False)])
def test_errors_of_the_bus(machine: Machine, tmp_path: Path, fatal: str, corrected: str, found: bool) -> None:
    device = tmp_path / "pci" / "0000:02:00.0"
    (device / "aer_dev_fatal").write_text(f"Undefined 0\nDLP {fatal}\nTOTAL_ERR_FATAL {fatal}\n")
    (device / "aer_dev_nonfatal").write_text("UnsupReq 3\nTOTAL_ERR_NONFATAL 3\n")
    (device / "aer_dev_correctable").write_text(f"RxErr 0\nBadTLP {corrected}\nTOTAL_ERR_COR {corrected}\n")
    assert list(faults(machine())) == (["gpu.pcie.aer"] if found else [])


@pytest.mark.parametrize(("runs", "expected"), [(False, ["gpu.fabric.manager"]), (True, [])])
def test_switches_without_a_manager(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs: bool, expected: list[str]
) -> None:
    pci_device(tmp_path, "0000:0a:00.0", kind="0x068000")
    monkeypatch.setattr(gpu_links, "is_running", lambda name: runs)
    assert list(faults(machine("* nvmlDeviceGetGpuFabricInfoV.state 0"))) == expected


@pytest.mark.parametrize(
    ("modules", "version", "expected"),
    [
        ([], "NVIDIA UNIX x86_64 Kernel Module  570.86.10", ["gpu.rdma.peermem"]),
        ([], "NVIDIA UNIX Open Kernel Module for x86_64  570.86.10", []),
        (["nvidia_peermem"], "NVIDIA UNIX x86_64 Kernel Module  570.86.10", []),
    ],
)
def test_rdma(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, modules: list[str], version: str, expected: list[str]
) -> None:
    folders = {"/sys/class/infiniband": ["mlx5_0"], "/sys/module": modules}
    real = gpu_links._listed
    monkeypatch.setattr(gpu_links, "_listed", lambda folder: folders.get(str(folder), real(folder)))
    monkeypatch.setattr(gpu_links, "read", lambda path: version if path == "/proc/driver/nvidia/version" else None)
    monkeypatch.setattr(gpu_links, "_kernel", lambda: (6, 8))
    assert list(faults(machine())) == expected


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("printf '0, A100, 40, 81920 MiB\\n1, A100, 41, 81920 MiB\\n'", None),
        ("printf '\\377\\376 \\200 Unknown\\n'", "gpu.smi.unreadable"),
        ("echo '0, A100, [Unknown Error], 81920 MiB'", "gpu.smi.unreadable"),
        ("echo hello", "gpu.smi.unreadable"),
        ("echo 'Failed to initialize NVML'; exit 18", "gpu.smi.fails"),
        ("kill -SEGV $$", "gpu.smi.fails"),
        ("sleep 60", "gpu.smi.hangs"),
        (None, "gpu.smi.missing"),
    ],
)
def test_nvidia_smi(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    patience: Callable[[float], None],
    tmp_path: Path,
    script: str | None,
    fault: str | None,
) -> None:
    patience(1.0 if script == "sleep 60" else 10.0)
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    assert list(faults(machine(only="gpu.smi"))) == ([fault] if fault else [])


def test_no_nvidia_smi_in_a_container(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_smi, "is_container", lambda environ: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert faults(machine(only="gpu.smi")) == {}


@pytest.mark.parametrize(
    ("on_bus", "container", "words"),
    [
        (False, False, "no NVIDIA device"),
        (True, True, "given none of them"),
        (True, False, "no NVIDIA driver is loaded"),
    ],
)
def test_nothing_to_ask(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_bus: bool, container: bool, words: str
) -> None:
    shutil.rmtree(tmp_path / "dev")
    if not on_bus:
        shutil.rmtree(tmp_path / "pci")
    monkeypatch.setattr(gpu_nvml, "is_container", lambda environ: container)
    diagnosis = machine()
    told = {(answer.verdict, finding.evidence) for answer in diagnosis.answers for finding in answer.findings}
    ((_, one),) = [pair for pair in told if pair[1] != "needs gpu.nvml"]
    assert words in one
    assert {verdict for verdict, _ in told} == {"skip"}
