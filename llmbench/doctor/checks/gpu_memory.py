"""Whether the memory of GPUs errs: ECC, remapped rows, retired pages."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Finding
from llmbench.doctor.nvml import Gpu, Reading, gpu_check, told
from llmbench.doctor.runner import Context

_MANAGEMENT = "https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/index.html"
_RETIREMENT = "https://docs.nvidia.com/deploy/dynamic-page-retirement/index.html"
_STORM = 1000
"""Corrected errors since the driver was loaded, from which they are no accident of nature."""
_HISTORY = 10
"""Uncorrectable errors in a GPU's life, from which it has a habit of them."""
_PAGES = 60
"""Retired pages from which NVIDIA takes a card back (Dynamic Page Retirement, section RMA)."""

UNCORRECTED = fault(
    "gpu.ecc.uncorrected",
    "fail",
    "A GPU has uncorrectable ECC errors",
    cause="memory of the GPU returned bits that could not be corrected: jobs on it died or computed wrong, and the "
    "damaged rows are put aside only by a reset",
    fix="stop its jobs, then sudo nvidia-smi --gpu-reset -i <gpus> (or reboot); if errors come back, test it "
    "(dcgmi diag -r 3) and return the card",
    link=_MANAGEMENT,
)
HABIT = fault(
    "gpu.ecc.history",
    "warn",
    "A GPU has a history of uncorrectable ECC errors",
    cause="no error since the driver was loaded, but many over its life: more will come",
    fix="test it: dcgmi diag -r 3; watch it: nvidia-smi -q -d ECC,ROW_REMAPPER -i <gpus>; return it if they grow",
    link=_MANAGEMENT,
)
SRAM = fault(
    "gpu.ecc.sram",
    "fail",
    "A GPU has exceeded its threshold of uncorrectable SRAM errors",
    cause="caches or registers of the GPU are damaged; unlike DRAM they cannot be remapped",
    fix="drain the node; NVIDIA's field diagnostic, then return the card",
    link=_MANAGEMENT,
)
CORRECTED = fault(
    "gpu.ecc.storm",
    "warn",
    "A GPU corrects very many ECC errors",
    cause="a cell or a link of its memory is failing: each correction costs time, and uncorrectable errors follow",
    fix="reset the GPU so that rows are remapped (sudo nvidia-smi --gpu-reset -i <gpus>); test it: dcgmi diag -r 3",
    link=_MANAGEMENT,
)
ECC_OFF = fault(
    "gpu.ecc.off",
    "warn",
    "ECC is off on a data-centre GPU",
    cause="flipped bits in its memory are neither corrected nor told: they corrupt weights and gradients silently",
    fix="sudo nvidia-smi -i <gpus> -e 1, then reset the GPU or reboot",
)
ECC_PENDING = fault(
    "gpu.ecc.pending",
    "warn",
    "A change of the ECC mode waits for a reboot",
    cause="the ECC mode was changed, and the old one is in force until the GPU is reset: the memory that is free will "
    "change, too",
    fix="sudo nvidia-smi --gpu-reset -i <gpus>, or reboot",
)


@gpu_check("gpu.ecc", "The memory of GPUs has no errors", fields=("ecc", "uncorrected", "sram"))
def ecc(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Counters since the driver was loaded and over the GPU's life; the mode."""
    broken = [gpu for gpu in reading.gpus if gpu.number("uncorrected") or _sram(gpu, "volatileUnc")]
    yield from told(UNCORRECTED, [(gpu, _uncorrected(gpu)) for gpu in broken])
    over = [gpu for gpu in reading.gpus if (gpu.get("sram") or {}).get("bThresholdExceeded")]
    sram = "SRAM uncorrectable error threshold exceeded ({} errors in its life)"
    yield from told(SRAM, [(gpu, sram.format(_sram(gpu, "aggregateUnc"))) for gpu in over])
    for gpu in reading.gpus:
        ever = gpu.number("uncorrected_ever") or 0
        if ever >= _HISTORY and gpu not in broken + over:
            yield from told(
                HABIT, [(gpu, f"{ever} uncorrectable ECC errors in its life, none since the driver loaded")]
            )
    many = [(gpu, count) for gpu in reading.gpus if (count := gpu.number("corrected") or 0) >= _STORM]
    yield from told(CORRECTED, [(gpu, f"{count} corrected ECC errors since the driver loaded") for gpu, count in many])
    off = [gpu for gpu in reading.gpus if _is_off(gpu)]
    yield from told(ECC_OFF, [(gpu, f"ECC is off ({gpu.name})") for gpu in off])
    yield from told(ECC_PENDING, [(gpu, text) for gpu in reading.gpus if (text := _pending(gpu))])
    modes = [gpu.numbers("ecc", 2) for gpu in reading.gpus]
    on, tells = sum(bool(mode and mode[0]) for mode in modes), sum(mode is not None for mode in modes)
    if tells:
        ever = sum(gpu.number("uncorrected_ever") or 0 for gpu in reading.gpus)
        yield f"ECC is on for {on} of {len(modes)} GPUs; uncorrectable errors: 0 since the driver loaded, {ever} ever"


def _sram(gpu: Gpu, prefix: str) -> int:
    counts = gpu.get("sram") or {}
    return sum(value for name, value in counts.items() if name in (prefix + "Parity", prefix + "SecDed"))


def _uncorrected(gpu: Gpu) -> str:
    count, ever = gpu.number("uncorrected") or _sram(gpu, "volatileUnc"), gpu.number("uncorrected_ever") or 0
    rows = gpu.numbers("rows", 4)
    pending = ", row remapping pending" if rows and rows[2] else ""
    return f"{count} uncorrectable ECC errors since the driver loaded, {ever} in its life{pending}"


def _is_off(gpu: Gpu) -> bool:
    mode, default = gpu.numbers("ecc", 2), gpu.numbers("ecc_default", 1)
    # Where the maker's default is off (some A40, A16), that is no fault.
    return bool(mode and mode == [0, 0] and gpu.is_data_centre and not gpu.is_virtual and (not default or default[0]))


def _pending(gpu: Gpu) -> str | None:
    mode = gpu.numbers("ecc", 2)
    if not mode or mode[0] == mode[1]:
        return None
    return f"ECC is {_switch(mode[0])}, and {_switch(mode[1])} after the next reset (pending)"


def _switch(value: int) -> str:
    return "on" if value else "off"


REMAP_FAILED = fault(
    "gpu.memory.remap-failed",
    "fail",
    "Remapping a damaged row of GPU memory has failed",
    cause="a row of memory is damaged and no spare row could take its place: the GPU keeps computing on bad memory",
    fix="drain the node; NVIDIA's field diagnostic, then return the card",
    link=_MANAGEMENT,
)
REMAP_PENDING = fault(
    "gpu.memory.remap-pending",
    "warn",
    "A damaged row of GPU memory waits for a reset to be remapped",
    cause="the driver has put the row on the list (Xid 63), but until the GPU is reset programs may still touch it "
    "and die",
    fix="when its jobs have ended: sudo nvidia-smi --gpu-reset -i <gpus>, or reboot",
    link=_MANAGEMENT,
)
BANKS = fault(
    "gpu.memory.banks-exhausted",
    "warn",
    "Banks of GPU memory have no spare rows left",
    cause="the next damaged row in such a bank cannot be remapped: the GPU will then have to be replaced",
    fix="nvidia-smi -q -d ROW_REMAPPER -i <gpus>; plan its replacement",
    link=_MANAGEMENT,
)
PAGES_PENDING = fault(
    "gpu.memory.pages-pending",
    "warn",
    "Damaged pages of GPU memory wait for a reboot to be retired",
    cause="Volta, Turing and older retire a page only when the driver is loaded anew: until then programs may touch "
    "it and die",
    fix="reboot, or reset the GPU when its jobs have ended: sudo nvidia-smi --gpu-reset -i <gpus>",
    link=_RETIREMENT,
)
PAGES_MANY = fault(
    "gpu.memory.pages-many",
    "fail",
    "A GPU has retired so many pages that it must be replaced",
    cause="64 pages can be retired at most; NVIDIA takes the card back from 60 on: its memory is failing",
    fix="drain the node, test it (dcgmi diag -r 3), and return the card",
    link=_RETIREMENT,
)
REPAIR = fault(
    "gpu.memory.repair-pending",
    "warn",
    "A repair of a GPU waits for a reset",
    cause="the driver has marked a memory channel or a processing cluster (TPC) as damaged, and swaps it at the next "
    "reset",
    fix="when its jobs have ended: sudo nvidia-smi --gpu-reset -i <gpus>, or reboot",
)


@gpu_check("gpu.memory", "No damaged memory of a GPU waits for repair", fields=("rows", "retired_pending"))
def memory(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Remapped rows (Ampere and newer), retired pages (older)."""
    rows = [(gpu, row) for gpu in reading.gpus if (row := gpu.numbers("rows", 4))]
    failed = [(gpu, f"row remapping failed ({row[0] + row[1]} rows remapped)") for gpu, row in rows if row[3]]
    yield from told(REMAP_FAILED, failed)
    # With uncorrectable errors it is told there.
    waits = [(gpu, row) for gpu, row in rows if row[2] and not row[3] and not gpu.number("uncorrected")]
    yield from told(
        REMAP_PENDING, [(gpu, f"row remapping pending ({row[1]} after uncorrectable)") for gpu, row in waits]
    )
    banks = [(gpu, count) for gpu in reading.gpus if (count := (gpu.get("row_histogram") or {}).get("none", 0))]
    yield from told(BANKS, [(gpu, f"{count} banks have no spare row left (row remapper)") for gpu, count in banks])
    pages = [(gpu, _pages(gpu)) for gpu in reading.gpus]
    many = [gpu for gpu, count in pages if count >= _PAGES]
    yield from told(PAGES_MANY, [(gpu, f"{_pages(gpu)} retired pages (limit {_PAGES})") for gpu in many])
    pending = [(gpu, f"retired pages pending ({_pages(gpu)} retired)") for gpu in reading.gpus if _is_pending(gpu)]
    yield from told(PAGES_PENDING, pending)
    yield from told(REPAIR, [(gpu, text) for gpu in reading.gpus if (text := _repair(gpu))])
    if rows:
        yield f"{sum(row[0] + row[1] for _, row in rows)} rows remapped, none pending"
    elif any(gpu.number("retired_pending") is not None for gpu in reading.gpus):
        yield f"{sum(count for _, count in pages)} pages retired, none pending"


def _pages(gpu: Gpu) -> int:
    return len(gpu.get("retired_single") or []) + len(gpu.get("retired_double") or [])


def _is_pending(gpu: Gpu) -> bool:
    return gpu.number("retired_pending") == 1


def _repair(gpu: Gpu) -> str | None:
    channel, cluster = gpu.numbers("repair", 2) or (0, 0)
    what = [name for name, flag in (("memory channel", channel), ("TPC", cluster)) if flag]
    return f"repair pending: {', '.join(what)}" if what else None
