"""Whether nvidia-smi answers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.nvml import (
    is_container,
)
from llmbench.doctor.runner import Context

NO_SMI = fault(
    "gpu.smi.missing",
    "warn",
    "nvidia-smi is missing",
    cause="the driver's tool is not on PATH although the driver works: scripts and schedulers that call it fail",
    fix="install the driver's utilities (Debian, Ubuntu: apt-get install nvidia-smi or nvidia-utils-<branch>), or "
    "add their folder to PATH (WSL: /usr/lib/wsl/lib)",
)
SMI_HANGS = fault(
    "gpu.smi.hangs",
    "warn",
    "nvidia-smi hangs",
    cause="it does not answer although NVML does: a monitoring tool holds the driver, or a GPU is slow to start; "
    "scripts that call nvidia-smi (launchers, schedulers, prologs) hang with it",
    fix="sudo nvidia-smi -pm 1 keeps GPUs started; sudo fuser -v /dev/nvidiactl shows who uses the driver; else reboot",
)
SMI_FAILS = fault(
    "gpu.smi.fails",
    "warn",
    "nvidia-smi fails",
    cause="NVML works here, but the tool nvidia-smi does not: it is of another driver version, or finds another "
    "library",
    fix="type -a nvidia-smi; keep only that of the installed driver",
)
SMI_UNREADABLE = fault(
    "gpu.smi.unreadable",
    "warn",
    "The output of nvidia-smi is unreadable",
    cause="it has bytes that are no text, or fields such as [Unknown Error] in place of values: programs that parse it "
    "break, or take nonsense for a fact. NVML was used instead",
    fix="type -a nvidia-smi (a wrapper script?); nvidia-smi -q; reset the GPU whose fields are in error, or reboot",
)
_QUERY = "index,name,temperature.gpu,memory.total"


@check("gpu.smi", "nvidia-smi answers", needs=("gpu.nvml",), follows=("gpu.present",), deadline=10)
def smi(context: Context) -> Iterator[Finding]:
    """The tool that everybody else parses."""
    path = shutil.which("nvidia-smi", path=context.environ.get("PATH"))
    if path is None:
        if is_container(context.environ):
            yield passed("nvidia-smi is not in this container; NVML is used")
        else:
            yield NO_SMI.found("no nvidia-smi on PATH; NVML is used instead")
        return
    outcome = context.command([path, f"--query-gpu={_QUERY}", "--format=csv,noheader"])
    text = outcome.noise.strip()
    if outcome.timed_out:
        yield SMI_HANGS.found(f"{path} {outcome.ending}; NVML is used instead")
    elif outcome.signal:
        yield SMI_FAILS.found(f"{path} {outcome.ending}; NVML is used instead")
    elif "\ufffd" in text or "\0" in text:
        yield SMI_UNREADABLE.found("nvidia-smi: its output cannot be parsed: it is no UTF-8 text; NVML is used instead")
    elif outcome.returncode != 0:
        yield SMI_FAILS.found(f"{path}: exit code {outcome.returncode}: {outcome.last_words[:200]}")
    else:
        yield _parsed(path, text)


def _parsed(path: str, text: str) -> Finding:
    wrong = [line for line in text.splitlines() if not re.match(r"\d+, [^,]+, (\d+|\[?N/A\]?), ", line)]
    errors = sorted(set(re.findall(r"\[(?!N/A|Not Supported)[A-Z][^\]]*\]|ERR!", text)))
    if errors or wrong or not text:
        what = ", ".join(errors) or (wrong[0][:80] if wrong else "nothing")
        return SMI_UNREADABLE.found(f"nvidia-smi: its output cannot be parsed: {what}; NVML is used instead")
    return passed(f"{path} lists {len(text.splitlines())} GPUs")
