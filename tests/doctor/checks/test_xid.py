"""Codes in the kernel log: what they mean, how grave they are, and where the log is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor import nvml
from llmbench.doctor.checks import gpu_log
from llmbench.doctor.model import Finding
from llmbench.doctor.probes import kernel_log
from llmbench.doctor.xid import ACTIONS, XIDS, parse
from tests.doctor.conftest import ask

Kernel = Callable[..., tuple[Finding, ...]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    """Gives the findings of a check when dmesg prints these lines; ``{now}`` is the time of the kernel."""
    monkeypatch.setattr(gpu_log, "KMSG", None)
    monkeypatch.setattr(nvml, "DEV", tmp_path)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def said(*lines: str, check: str = "gpu.xid", code: int = 0) -> tuple[Finding, ...]:
        (tmp_path / "log").write_text("\n".join(lines) + "\n")
        for name in ("dmesg", "journalctl"):
            script = tmp_path / name
            error = "echo 'read kernel buffer failed: Operation not permitted' >&2" if code else f"cat {tmp_path}/log"
            script.write_text(f"#!/bin/sh\n{error}\nexit {code}\n")
            script.chmod(0o755)
        return ask(check)

    return said


def stamp(seconds_ago: float) -> str:
    now = kernel_log.uptime()
    assert now is not None
    return f"[{max(0.0, now - seconds_ago):12.6f}]"


GPU = "NVRM: Xid (PCI:0000:4b:00)"


@pytest.mark.parametrize(
    ("line", "fault", "verdict", "words"),
    [
        (f"{GPU}: 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "gpu.xid.fatal", "fail",
         "Xid 79 on 0000:4b:00 (GPU has fallen off the bus"),
        (f"{GPU}: 48, pid=12, name=python, An uncorrectable double bit error", "gpu.xid.fatal", "fail", "double bit"),
        (f"{GPU}: 119, pid=12, Timeout after 6s of waiting for RPC response from GPU0 GSP!", "gpu.xid.fatal", "fail",
         "Xid 119"),
        (f"{GPU}: 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "gpu.xid.fatal",
         "fail", "GPU Reset Required"),
        (f"{GPU}: 63, pid=12, Row Remapper: New row marked for remapping, reset gpu to activate.", "gpu.xid.warning",
         "warn", "Xid 63"),
        (f"{GPU}: 999, something new", "gpu.xid.warning", "warn", "something new"),
        (f"{GPU}: 31, pid=77, name=python, Ch 00000008, MMU Fault", "gpu.xid.program", "warn", "illegal address"),
        ("NVRM: Xid (0000:01:00): 13, 0005 00000000 0000502d", "gpu.xid.program", "warn", "Xid 13 on 0000:01:00"),
        ("nvidia-nvswitch0: SXid (PCI:0000:c2:00.0): 20034, Fatal, Link 28 LTSSM Fault Up", "gpu.xid.switch", "fail",
         "SXid 20034 on 0000:c2:00"),
        ("nvidia-nvswitch4: SXid (PCI:0000:c6:00.0): 19084, Non-fatal, Link 29 AN1 Heartbeat Timeout", "gpu.xid.switch",
         "warn", "SXid 19084"),
        ("NVRM: GPU 0000:4b:00.0: GPU has fallen off the bus.", "gpu.xid.fallen", "fail", "fallen off the bus"),
        ("NVRM: GPU 0000:4b:00.0: RmInitAdapter failed! (0x26:0x56:1463)", "gpu.xid.init-failed", "fail",
     "RmInitAdapter"),
        ("NVRM: API mismatch: the client has the version 580.95.05, but", "gpu.xid.api-mismatch", "fail", "580.95.05"),
        ("NVRM: BAR1 is 0M @ 0x0 (PCI:0000:14:00.0)", "gpu.xid.address-space", "fail", "BAR1 is 0M"),
    ],
)  # fmt: skip
def test_line_of_the_driver(kernel: Kernel, line: str, fault: str, verdict: str, words: str) -> None:
    (finding,) = kernel("[    1.0] Linux version 6.8", f"{stamp(60)} {line}")
    assert (finding.fault, finding.verdict) == (fault, verdict)
    assert words in finding.evidence
    assert "<" not in str(finding.fix)


def test_each_code_is_told_once_with_its_action(kernel: Kernel) -> None:
    (finding,) = kernel(
        f"{stamp(9000)} {GPU}: 79, GPU has fallen off the bus.",
        f"{stamp(7200)} {GPU}: 79, GPU has fallen off the bus.",
        f"{stamp(7200)} NVRM: GPU 0000:4b:00.0: GPU has fallen off the bus.",
        f"{stamp(60)} NVRM: Xid (PCI:0000:5c:00): 48, pid=1, name=python, DBE",
    )
    assert finding.evidence.count("Xid 79") == 1
    assert "2 times, last 2 h ago" in finding.evidence
    assert "power it off and on" in str(finding.fix)
    assert "--gpu-reset -i 0000:4b:00.0,0000:5c:00.0" in str(finding.fix)


@pytest.mark.parametrize(
    ("age", "line"),
    [
        (None, f"{GPU}: 31, pid=77, name=python, MMU Fault"),  # when the machine started
        (1, f"{GPU}: 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"),
        (1, f"{GPU}: 106, SMBPBI test message"),
        (1, "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.82.07"),
        (1, "NVRM: GPU at PCI:0000:4b:00: GPU-11111111-2222-3333-4444-555555555555"),
    ],
)
def test_old_or_harmless_lines(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, age: int | None, line: str) -> None:
    monkeypatch.setattr(gpu_log, "_RECENT", 100.0)
    (finding,) = kernel(f"{stamp(age) if age else '[    1.000000]'} {line}")
    assert finding.verdict == "pass", finding
    assert "GPU-1111" not in finding.evidence


def test_fatal_code_of_long_ago_is_a_warning(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_log, "_OLD", 100.0)
    (finding,) = kernel(f"[    1.000000] {GPU}: 79, GPU has fallen off the bus.")
    assert (finding.fault, finding.verdict) == ("gpu.xid.fatal", "warn")


def test_log_with_dates_has_no_age(kernel: Kernel) -> None:
    (finding,) = kernel(f"[Sun Nov 22 07:00:01 2026] {GPU}: 95, pid=1, name=python, Uncontained error")
    assert finding.verdict == "fail"
    assert "since the kernel started" in finding.evidence


def test_log_that_may_not_be_read(kernel: Kernel) -> None:
    (finding,) = kernel(code=1)
    assert finding.verdict == "skip"
    assert "Operation not permitted" in finding.evidence


def test_buffer_of_the_kernel(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = kernel_log.uptime()
    assert now is not None
    buffer = tmp_path / "kmsg"
    buffer.write_text(f"4,100,{int(now * 1e6)},-;{GPU}: 74, pid=1, name=python, NVLink\n SUBSYSTEM=pci\n")
    monkeypatch.setattr(gpu_log, "KMSG", str(buffer))
    (finding,) = kernel(code=1)
    assert finding.fault == "gpu.xid.fatal"
    assert f"({buffer})" in finding.evidence
    assert "0 h ago" in finding.evidence


def test_without_gpu(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvml, "DEV", tmp_path / "none")
    monkeypatch.setattr(nvml, "PCI", tmp_path / "none")
    (finding,) = kernel(f"{GPU}: 79, GPU has fallen off the bus.")
    assert (finding.verdict, finding.evidence) == ("skip", "no NVIDIA device")


@pytest.mark.parametrize(
    ("line", "count", "fault"),
    [
        ("Out of memory: Killed process 4711 (python) total-vm:99kB", 1, "cpu.log.oom"),
        ("oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg={group},task_memcg={group},task=python,pid=9,uid=0", 1,
         "cpu.log.oom"),
        ("Memory cgroup out of memory: Killed process 20597 (python) total-vm:99kB", 1, None),
        ("oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/of-others,task_memcg=/of-others,task=python,pid=9", 1, None),
        ("mce: [Hardware Error]: Machine check events logged", 1, "cpu.log.machine-check"),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0", 1, "cpu.log.memory-errors"),
        ("EDAC MC: Ver: 3.0.0", 1, None),
        ("watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [python:4711]", 1, "cpu.log.lockup"),
        ("pcieport 0000:00:01.0: AER: Corrected error message received from 0000:01:00.0", 30, "cpu.log.pcie"),
        ("pcieport 0000:00:01.0: AER: Corrected error message received from 0000:01:00.0", 3, None),
        ("pcieport 0000:00:01.0: AER: enabled with IRQ 24", 30, None),
    ],
)  # fmt: skip
def test_line_of_the_machine(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, line: str, count: int, fault: str | None
) -> None:
    group = "/user.slice/training"
    monkeypatch.setattr(gpu_log, "read", lambda path: f"0::{group}/worker\n")
    lines = [f"{stamp(60)} {line.replace('{group}', group)}"] * count
    (finding,) = kernel(*lines, check="cpu.log")
    assert finding.fault == fault, finding
    assert finding.verdict == ("warn" if fault else "pass")


def test_machine_error_of_last_week(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_log, "_RECENT", 30.0)
    (finding,) = kernel(f"{stamp(60)} Out of memory: Killed process 4711 (python)", check="cpu.log")
    assert finding.verdict == "pass"


def test_every_code_has_an_action() -> None:
    assert {xid.action for xid in XIDS.values()} == set(ACTIONS)
    assert set(range(1, 15)) | set(range(18, 173)) <= set(XIDS) | {15, 17, 158}
    for code in (46, 48, 62, 64, 74, 79, 95, 109, 119, 120, 140, 143):
        assert XIDS[code].gravity == "fail", code


def test_what_is_no_code() -> None:
    assert parse("NVRM: Xid messages are explained at https://docs.nvidia.com") is None
    assert parse("usb 1-1: new device") is None
