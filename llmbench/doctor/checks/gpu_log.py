"""What the kernel logged: errors of GPUs (Xid) and their action, and of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.nvml import device_files, nvidia_on_pci
from llmbench.doctor.runner import Context
from llmbench.doctor.system import read
from llmbench.doctor.xid import ACTIONS, Event, parse

_CATALOG = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"
KMSG: str | None = "/dev/kmsg"
_DAY = 86400.0
_RECENT = _DAY
"""A program's error of yesterday says nothing about the GPU today."""
_OLD = 7 * _DAY
"""What was a week ago and has not come back may have been mended without a reboot."""

XID_FATAL = fault(
    "gpu.xid.fatal",
    "fail",
    "The kernel log has an Xid after which a GPU must be reset, rebooted or replaced",
    cause="the driver reported an error of the GPU that programs do not survive, and that does not go away by itself",
    fix="what the code asks for (see the evidence): <action>",
    link=_CATALOG,
)
XID_WARNING = fault(
    "gpu.xid.warning",
    "warn",
    "The kernel log has an Xid that needs watching",
    cause="the driver reported an error that did not stop the GPU, but may be the first of more",
    fix="what the code asks for (see the evidence): <action>",
    link=_CATALOG,
)
XID_PROGRAM = fault(
    "gpu.xid.program",
    "warn",
    "The kernel log has an Xid of a program that failed",
    cause="a program on the GPU was stopped within the last day: mostly an error of its own (illegal address, killed "
    "job), sometimes the first sign of bad hardware",
    fix="what the code asks for (see the evidence): <action>",
    link=_CATALOG,
)
SXID = fault(
    "gpu.xid.switch",
    "fail",
    "The kernel log has an error of an NVSwitch (SXid)",
    cause="the switch between the GPUs reported an error: collectives fail or hang",
    fix="nvidia-smi nvlink -s; restart the fabric manager after a reset of all GPUs, or reboot; then report it to "
    "the vendor",
    link="https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/index.html",
)
FALLEN = fault(
    "gpu.xid.fallen",
    "fail",
    "The kernel log says that a GPU has fallen off the bus",
    cause="the GPU stopped answering on the PCI bus: power, heat, a loose card or riser, or a defect",
    fix="power the machine off and on; check power cables and seat; then return the card",
    link=_CATALOG,
)
INIT_FAILED = fault(
    "gpu.xid.init-failed",
    "fail",
    "The kernel log says that the driver could not start a GPU",
    cause="RmInitAdapter failed or the probe of the device failed: programs do not see this GPU",
    fix="sudo dmesg | grep -i nvrm; power off and on; install the driver again (for new GPUs its open kernel modules); "
    "then reseat or replace the card",
)
API_MISMATCH = fault(
    "gpu.xid.api-mismatch",
    "fail",
    "The kernel log has an API mismatch of the driver",
    cause="programs come with another driver version than the kernel module: the driver was upgraded without a "
    "reboot, or a container brings its own driver libraries",
    fix="reboot; remove driver libraries (libcuda, libnvidia-*) from the container's image",
)
ADDRESS_SPACE = fault(
    "gpu.xid.address-space",
    "fail",
    "The kernel log says that a GPU got no address space (BAR)",
    cause="the BIOS or the virtual machine has too small a window for the GPU's memory, so that the driver cannot "
    "use it",
    fix="enable 'Above 4G decoding' in the BIOS; virtual machine: enlarge its 64-bit MMIO window "
    "(pciPassthru.64bitMMIOSizeGB, or OVMF's X-PciMmio64Mb)",
    link="https://github.com/NVIDIA/gpu-operator/issues/492",
)
# Older messages of the driver may be mended by a reload; the log does not tell.
_MESSAGES: tuple[tuple[str, Fault], ...] = (
    (r"GPU has fallen off the bus", FALLEN),
    (r"NVRM: .*RmInitAdapter failed|NVRM: The NVIDIA probe routine failed", INIT_FAILED),
    (r"NVRM: API mismatch", API_MISMATCH),
    (r"NVRM: BAR\d is 0M|NVRM: This PCI I/O region assigned to your NVIDIA device is invalid", ADDRESS_SPACE),
)


@check("gpu.xid", "The kernel log has no error of a GPU", deadline=12, follows=("gpu.present", "gpu.ecc"))
def xid(context: Context) -> Iterator[Finding]:
    """Xid and SXid codes, and other messages of the driver, since the kernel started."""
    if not device_files() and not nvidia_on_pci():
        yield skipped("no NVIDIA device")
        return
    log = _log(context, ["NVRM: ", "SXid ", "fallen off the bus"])
    if isinstance(log, Finding):
        yield log
        return
    events = _events(log)
    told = False
    for group in (_fatal, _warnings, _programs, _switches):
        for finding in group(events, log.source):
            told = True
            yield finding
    covered = {entry.event.address for entry in events}
    for pattern, kind in _MESSAGES:
        lines = [line for line in log.lines if re.search(pattern, line.text) and parse(line.text) is None]
        if lines and not (kind is FALLEN and covered):
            told = True
            yield kind.found(
                f"kernel log ({log.source}): {_shown(lines[-1].text)} ({_when(lines[-1].age, len(lines))})"
            )
    if not told:
        rest = ", ".join(sorted({f"Xid {entry.event.code}" for entry in events}))
        yield passed(
            f"nothing grave in the kernel log ({log.source})" + (f"; older or harmless: {rest}" if rest else "")
        )


@dataclass(frozen=True)
class Line:
    """Attributes: seconds since it was logged, None if not known; text."""

    age: float | None
    text: str


@dataclass(frozen=True)
class Log:
    source: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Entry:
    """Equal events: how many there were, and the age of the last."""

    event: Event
    age: float | None
    count: int


def _log(context: Context, patterns: Sequence[str]) -> Log | Finding:
    outcome = context.probe("kernel_log", {"patterns": list(patterns), "kmsg": KMSG})
    answer: Mapping[str, Any] = outcome.answer
    if "lines" in answer:
        return Log(answer["source"], [Line(age, text) for age, text in answer["lines"]])
    refused = "; ".join(answer.get("refused", [])) or outcome.ending
    return skipped(f"the kernel log cannot be read ({refused}): as root, dmesg | grep -e NVRM -e Xid tells")


def _events(log: Log) -> list[Entry]:
    """Each code of each GPU once, the last of them."""
    entries: dict[tuple[str, int, bool], Entry] = {}
    for line in log.lines:
        event = parse(line.text)
        if event:
            key = (event.address, event.code, event.switch)
            count = entries[key].count if key in entries else 0
            entries[key] = Entry(event, line.age, count + 1)
    return list(entries.values())


def _fatal(events: Sequence[Entry], source: str) -> Iterator[Finding]:
    found = [entry for entry in events if not entry.event.switch and entry.event.xid.gravity == "fail"]
    old = all(entry.age is not None and entry.age > _OLD for entry in found)
    yield from _told(XID_FATAL, found, source, "warn" if old else "fail")


def _warnings(events: Sequence[Entry], source: str) -> Iterator[Finding]:
    found = [entry for entry in events if not entry.event.switch and entry.event.xid.gravity == "warn"]
    yield from _told(XID_WARNING, [entry for entry in found if _is_within(entry, _OLD)], source, "warn")


def _programs(events: Sequence[Entry], source: str) -> Iterator[Finding]:
    found = [entry for entry in events if not entry.event.switch and entry.event.xid.gravity == "program"]
    # 45 only follows from others.
    alone = [entry for entry in found if entry.event.code != 45 or len(found) == 1]
    yield from _told(XID_PROGRAM, [entry for entry in alone if _is_within(entry, _RECENT)], source, "warn")


def _switches(events: Sequence[Entry], source: str) -> Iterator[Finding]:
    found = [entry for entry in events if entry.event.switch and _is_within(entry, _OLD)]
    fatal = any(entry.event.xid.gravity == "fail" for entry in found)
    yield from _told(SXID, found, source, "fail" if fatal else "warn")


def _is_within(entry: Entry, seconds: float) -> bool:
    return entry.age is None or entry.age <= seconds


def _told(kind: Fault, entries: Sequence[Entry], source: str, verdict: Any) -> Iterator[Finding]:
    if not entries:
        return
    actions = dict.fromkeys(ACTIONS[entry.event.xid.action] for entry in entries)
    texts = [_described(entry) for entry in entries]
    yield kind.found(
        f"kernel log ({source}): {'; '.join(texts)}",
        verdict=verdict,
        action="; ".join(actions),
        gpu=",".join(dict.fromkeys(f"{entry.event.address}.0" for entry in entries)),
    )


def _described(entry: Entry) -> str:
    event, xid = entry.event, entry.event.xid
    name = "SXid" if event.switch else "Xid"
    text = _shown(event.text) if event.switch or xid.meaning.startswith("a code") or event.code == 154 else ""
    return (
        f"{name} {event.code} on {event.address} ({xid.meaning}{': ' + text if text else ''}; "
        f"{_when(entry.age, entry.count)})"
    )


def _shown(text: str) -> str:
    """Short, and without what names the machine or its user."""
    return re.sub(r"GPU-[0-9a-f-]{8,}", "GPU-…", text)[:160]


def _when(age: float | None, count: int) -> str:
    times = f"{count} times, last " if count > 1 else ""
    if age is None:
        return times + "since the kernel started"
    unit, seconds = ("h", 3600.0) if age < 2 * _DAY else ("days", _DAY)
    return f"{times}{age / seconds:.0f} {unit} ago"


OOM = fault(
    "cpu.log.oom",
    "warn",
    "The kernel killed a program because memory ran out",
    cause="the out-of-memory killer ended a process within the last day: a training that ends with 'Killed' or exit "
    "code 137, or a DataLoader worker that 'is killed by signal: Killed', was this",
    fix="use fewer or smaller workers (num_workers, prefetch_factor), smaller batches on the CPU, or more memory; "
    "sudo dmesg | grep -i -A1 oom",
)
MACHINE_CHECK = fault(
    "cpu.log.machine-check",
    "warn",
    "The processor reported hardware errors",
    cause="machine check exceptions: processor, memory or bus err. Results may be wrong, and the machine may crash",
    fix="sudo ras-mc-ctl --errors (package rasdaemon) tells which part; test and replace it",
)
MEMORY_ERRORS = fault(
    "cpu.log.memory-errors",
    "warn",
    "The memory controller reported errors (EDAC)",
    cause="a memory module errs: corrected errors are the first sign, uncorrected ones corrupt data or crash programs",
    fix="sudo ras-mc-ctl --summary (package rasdaemon) tells which module; replace it",
)
LOCKUP = fault(
    "cpu.log.lockup",
    "warn",
    "The kernel reported that a processor was stuck",
    cause="a processor did not schedule for long (soft or hard lockup): a driver or the virtual machine's host holds "
    "it, and trainings stand still meanwhile",
    fix="sudo dmesg | grep -i -A20 lockup names the task and the driver; virtual machine: its host is overcommitted",
)
PCIE_ERRORS = fault(
    "cpu.log.pcie",
    "warn",
    "The kernel reported errors of the PCIe bus (AER)",
    cause="packets between processor and devices are damaged: GPUs, network cards or disks become slow or vanish",
    fix="sudo dmesg | grep -i aer names the device; reseat it, or replace the riser",
)
_MACHINE: tuple[tuple[str, Fault, int], ...] = (
    (r"Out of memory: Killed process \d+ \(", OOM, 1),
    (r"mce: \[Hardware Error\]|Machine check events logged|\[Hardware Error\]: Machine check", MACHINE_CHECK, 1),
    (r"EDAC .*(CE|UE) ", MEMORY_ERRORS, 1),
    (r"soft lockup - CPU|hard LOCKUP", LOCKUP, 1),
    (r"AER: (Corrected|Multiple Corrected) error|AER: Uncorrect\w+|PCIe Bus Error: severity=", PCIE_ERRORS, 20),
)


@check("cpu.log", "The kernel log has no error of the machine", deadline=12)
def kernel(context: Context) -> Iterator[Finding]:
    """Killed programs, machine checks, memory errors, lockups and bus errors of the last day."""
    log = _log(context, [*(pattern for pattern, _, _ in _MACHINE), "oom-kill:.*oom_memcg="])
    if isinstance(log, Finding):
        yield replace(log, evidence=log.evidence.replace("grep -e NVRM -e Xid tells", "tells"))
        return
    recent = [line for line in log.lines if line.age is None or line.age <= _RECENT]
    told = False
    for pattern, kind, least in _MACHINE:
        lines = [line for line in recent if re.search(pattern, line.text)]
        if len(lines) >= least:
            told = True
            yield kind.found(
                f"kernel log ({log.source}): {_shown(lines[-1].text)} ({_when(lines[-1].age, len(lines))})"
            )
    own = [line for line in recent if _is_own_group(line.text)]
    if own:
        told = True
        yield OOM.found(
            f"kernel log ({log.source}): the memory limit of this control group ended a process: "
            f"{_shown(own[-1].text[own[-1].text.find('task=') :])} ({_when(own[-1].age, len(own))})"
        )
    if not told:
        yield passed(f"none within a day in the kernel log ({log.source})")


def _is_own_group(line: str) -> bool:
    """Whether the control group that ran out of memory holds this process; those of others are their own affair."""
    match = re.search(r"oom_memcg=([^,]+)", line)
    if not match or match[1] == "/":
        return False
    groups = [entry.rpartition(":")[2] for entry in (read("/proc/self/cgroup") or "").splitlines()]
    return any(group == match[1] or group.startswith(match[1] + "/") for group in groups)
