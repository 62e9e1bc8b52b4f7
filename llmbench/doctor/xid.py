"""Xid codes, by which NVIDIA's driver reports errors of a GPU in the kernel log: what they mean and what to do.

Source: NVIDIA's Xid catalog (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html; its immediate action
decides ``action``), and for codes of Volta and older GPUs its list of Xid errors. The words are our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Action = Literal[
    "none", "program", "restart", "watch", "reset", "memory", "link", "power", "reboot", "update", "vendor"
]

ACTIONS: dict[Action, str] = {
    "none": "nothing: it only tells of another error",
    "program": "look for an error in the program (compute-sanitizer python train.py), and start it again",
    "restart": "start the program again; if it comes back, on this GPU only, test the GPU: dcgmi diag -r 3",
    "watch": "go on, and watch whether it comes back; then test the GPU: dcgmi diag -r 3",
    "reset": "end the GPU's jobs and reset it (sudo nvidia-smi --gpu-reset -i <gpu>), or reboot",
    "memory": "end the GPU's jobs and reset it (sudo nvidia-smi --gpu-reset -i <gpu>), then look at ECC errors and "
    "remapped rows (nvidia-smi -q -d ECC,ROW_REMAPPER); if it comes back, return the card",
    "link": "nvidia-smi nvlink -s and -e; reset all GPUs and restart the fabric manager; then reseat bridge or module",
    "power": "connect all power cables of the card; check the power supply",
    "reboot": "drain the node and power it off and on; if it comes back, check power and seat, then return the card",
    "update": "install a driver (and vGPU or firmware) that fits to the other parts",
    "vendor": "update driver and VBIOS; if it comes back, report it to NVIDIA or the vendor with nvidia-bug-report.sh",
}

Gravity = Literal["note", "program", "warn", "fail"]


@dataclass(frozen=True)
class Xid:
    """Attributes: what it means; what to do; how grave it is (``program``: mostly an error of the user's program)."""

    meaning: str
    action: Action
    gravity: Gravity


def _several(codes: Iterable[int], meaning: str, action: Action, gravity: Gravity) -> dict[int, Xid]:
    return {code: Xid(meaning, action, gravity) for code in codes}


XIDS: dict[int, Xid] = {
    **_several((1, 2, 3, 4, 5, 6, 7, 9, 10, 12), "invalid commands in a push buffer", "program", "program"),
    8: Xid("the GPU stopped processing: a kernel ran into a time limit", "restart", "program"),
    11: Xid("invalid or corrupted push buffer", "program", "program"),
    13: Xid("graphics engine exception: mostly an illegal address or instruction in a kernel", "program", "program"),
    14: Xid("test error", "none", "note"),
    16: Xid("a display interrupt was late", "vendor", "warn"),
    18: Xid("bus master timeout: the GPU did not answer on the bus", "reboot", "fail"),
    19: Xid("display engine error", "vendor", "warn"),
    **_several((20, 21, 22, 27, 28, 29, 34, 35, 36, 42), "video engine error", "restart", "program"),
    23: Xid("error reporting was switched on", "none", "note"),
    24: Xid("a GPU semaphore timed out", "restart", "program"),
    25: Xid("invalid or illegal push buffer", "program", "program"),
    26: Xid("frame buffer timeout", "vendor", "warn"),
    30: Xid("GPU semaphore access error", "restart", "program"),
    31: Xid("GPU memory page fault: an illegal address in a kernel", "program", "program"),
    32: Xid("invalid or corrupted push buffer: damaged on its way over PCIe, or by the program", "restart", "program"),
    33: Xid("internal micro-controller error", "vendor", "warn"),
    37: Xid("driver firmware error", "watch", "warn"),
    38: Xid("driver firmware error: watchdog", "watch", "warn"),
    **_several((39, 40, 41, 70, 71, 72, 75, 76, 77, 85), "copy engine exception", "restart", "program"),
    43: Xid("the GPU stopped processing for a program that had failed", "program", "program"),
    44: Xid("graphics engine fault while contexts were switched", "watch", "warn"),
    45: Xid("a program was removed from the GPU: it was killed, or an earlier error did it", "none", "program"),
    46: Xid("the GPU stopped processing", "reset", "fail"),
    47: Xid("video encoder exception", "restart", "program"),
    48: Xid("double bit ECC error: GPU memory could not be corrected", "memory", "fail"),
    **_several((49, 50, 51), "the GPU runs in a reduced power state", "watch", "warn"),
    **_several((52, 53), "the GPU lowers its clocks because it is hot", "watch", "warn"),
    54: Xid("auxiliary power is not connected to the card", "power", "fail"),
    55: Xid("the GPU lowers its clocks because it is hot", "watch", "warn"),
    56: Xid("display engine error", "vendor", "warn"),
    57: Xid("error while programming the memory interface", "vendor", "warn"),
    58: Xid("unstable memory interface", "vendor", "fail"),
    59: Xid("internal micro-controller error", "vendor", "warn"),
    60: Xid("security or video processor exception", "restart", "program"),
    61: Xid("internal micro-controller breakpoint or warning", "reset", "fail"),
    62: Xid("internal micro-controller halt", "reset", "fail"),
    63: Xid("a row of GPU memory is to be remapped, or a page retired: a reset makes it so", "memory", "warn"),
    64: Xid("remapping a row or retiring a page of GPU memory has failed", "memory", "fail"),
    65: Xid("video encoder exception", "restart", "program"),
    66: Xid("illegal access by the driver", "update", "warn"),
    67: Xid("illegal access by the driver", "update", "warn"),
    68: Xid("video decoder exception", "restart", "program"),
    69: Xid("graphics engine class error", "program", "program"),
    73: Xid("video encoder exception", "restart", "program"),
    74: Xid("NVLink error", "link", "fail"),
    78: Xid("a vGPU cannot be started: guest and host drivers do not fit", "update", "fail"),
    79: Xid("GPU has fallen off the bus", "reboot", "fail"),
    80: Xid("corrupted data was sent to the GPU", "restart", "program"),
    81: Xid("VGA subsystem error", "vendor", "warn"),
    **_several((82, *range(99, 106)), "JPEG engine exception", "restart", "program"),
    **_several((83, 84, 88, 89, 96, 97, 98), "video decoder exception", "restart", "program"),
    **_several((86, 139), "optical flow engine exception", "restart", "program"),
    87: Xid("telemetry report of the driver", "none", "note"),
    90: Xid("L2 cache error", "vendor", "warn"),
    91: Xid("reserved", "vendor", "warn"),
    92: Xid("very many corrected ECC errors", "memory", "warn"),
    93: Xid("the infoROM was written too often", "vendor", "warn"),
    94: Xid("contained memory error: uncorrectable, but only its program was hit", "memory", "warn"),
    95: Xid("uncontained memory error: uncorrectable, and any program may be hit", "memory", "fail"),
    106: Xid("test message", "none", "note"),
    107: Xid("test message", "none", "note"),
    108: Xid("an address of another GPU could not be translated over NVLink", "program", "program"),
    109: Xid("a context switch timed out", "reset", "fail"),
    110: Xid("security fault", "reset", "fail"),
    111: Xid("display bundle error", "vendor", "warn"),
    112: Xid("display supervisor error", "vendor", "warn"),
    113: Xid("DisplayPort link training failed", "vendor", "warn"),
    **_several((114, 115, 116, 117, 118), "display register error", "vendor", "warn"),
    119: Xid("the GPU's system processor (GSP) did not answer in time", "reset", "fail"),
    120: Xid("error of the GPU's system processor (GSP)", "reset", "fail"),
    121: Xid("error of the chip-to-chip link to the CPU (C2C), corrected", "watch", "warn"),
    **_several((122, 123, 124), "the board's flash memory could not be accessed", "vendor", "warn"),
    125: Xid("the infoROM's file system is damaged", "vendor", "warn"),
    **_several(range(126, 136), "copy engine exception", "restart", "program"),
    136: Xid("NVLink training failed", "link", "fail"),
    137: Xid("NVLink: a peer's access was refused, mostly after an illegal address there", "program", "program"),
    138: Xid("deep learning accelerator error", "restart", "program"),
    140: Xid("unrecovered ECC error", "memory", "fail"),
    141: Xid("CUDA fast path error", "restart", "program"),
    142: Xid("video encoder exception", "restart", "program"),
    143: Xid("the GPU failed to initialise", "reset", "fail"),
    **_several(range(144, 151), "NVLink 5 error", "link", "fail"),
    151: Xid("keys of confidential computing could not be changed: the virtual machine must restart", "reboot", "fail"),
    **_several((152, 153), "deep learning accelerator error", "restart", "program"),
    154: Xid("the driver changed the recovery action of the GPU", "reset", "fail"),
    155: Xid("NVLink error that software defines", "link", "fail"),
    156: Xid("a damaged part of the GPU was retired: a reset makes it so", "reset", "warn"),
    157: Xid("a damaged part of the GPU could not be retired", "vendor", "fail"),
    158: Xid("fatal timeout of the GPU", "reset", "fail"),
    159: Xid("error of the coherent link to the CPU", "watch", "warn"),
    160: Xid("a memory channel was retired", "watch", "warn"),
    161: Xid("a memory channel could not be retired", "vendor", "fail"),
    **_several((162, 163), "power smoothing was switched", "none", "note"),
    164: Xid("the power smoothing circuit nears the end of its life", "vendor", "warn"),
    165: Xid("the power smoothing circuit has reached the end of its life", "vendor", "warn"),
    **_several((166, 170), "NVLink error in confidential computing", "link", "fail"),
    167: Xid("fatal timeout of the PCIe link", "reboot", "fail"),
    168: Xid("the GPU has less memory: errors in a protected region", "memory", "fail"),
    169: Xid("internal micro-controller halt", "reset", "fail"),
    171: Xid("uncorrectable error of GPU memory (DRAM)", "memory", "fail"),
    172: Xid("uncorrectable error of a cache or register of the GPU (SRAM)", "memory", "fail"),
}
UNKNOWN = Xid("a code that is not in this list", "vendor", "warn")

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)\b,? ?(.*)")
_SXID = re.compile(r"SXid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)\b,? ?(.*)")


@dataclass(frozen=True)
class Event:
    """One line of the kernel log.

    Attributes:
        address: PCI address without function, as ``0000:4b:00``.
        code: of the error.
        text: the rest of the line.
        switch: an NVSwitch reports it (SXid), not a GPU.
    """

    address: str
    code: int
    text: str
    switch: bool = False

    @property
    def xid(self) -> Xid:
        """Its row of the table; what the line itself says of a recovery action or of a switch counts more."""
        if self.switch:
            fatal = re.search(r"(?<!Non-)\bFatal", self.text) is not None
            return Xid("NVSwitch error", "link", "fail" if fatal else "warn")
        known = XIDS.get(self.code, UNKNOWN)
        if self.code == 154 and re.search(r"to 0x0|to \S* ?\(None\)", self.text):
            return Xid(known.meaning, "none", "note")
        return known


def parse(line: str) -> Event | None:
    """The event that a line of the kernel log tells of; None if it is no Xid or SXid."""
    for pattern, switch in ((_XID, False), (_SXID, True)):
        match = pattern.search(line)
        if match:
            address = match[1].lower().partition(".")[0]
            return Event(address, int(match[2]), match[3].strip(), switch)
    return None
