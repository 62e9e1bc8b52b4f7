"""The device nodes of the GPUs: there, allowed, and those of the driver that runs?"""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from llmbench.doctor import gpus, system
from llmbench.doctor.checks import cuda_faults as faults
from llmbench.doctor.model import Fault, Finding
from llmbench.doctor.runner import Context


def opened(context: Context) -> dict[str, str]:
    """What opening each node gives; ``no answer`` for the one that blocked."""
    paths = ["/dev/nvidiactl", "/dev/nvidia-uvm", *gpus.nvidia_nodes()]
    # Nodes elsewhere than in the root are those of a test.
    real = {str(system.ROOT / path.lstrip("/")): path for path in paths}
    outcome = context.probe("device_nodes", {"paths": list(real)}, deadline=15)
    answers = outcome.answer.get("nodes", {})
    found = {path: answers[place] for place, path in real.items() if place in answers}
    blocked = [path for path in paths if path not in found]
    return found | ({blocked[0]: "no answer"} if outcome.timed_out and blocked else {})


def by_nodes(context: Context, evidence: str) -> Iterator[Finding]:
    """What is wrong with the nodes, where torch fails as ``evidence`` says."""
    if gpus.in_wsl() or gpus.is_tegra():
        return
    errors = opened(context)
    missing = [path for path, error in errors.items() if error == "ENOENT"]
    closed = [path for path, error in errors.items() if error == "EACCES"]
    denied = [path for path, error in errors.items() if error == "EPERM"]
    seen = gpus.container(context.environ)
    module = "" if gpus.exists("sys/module/nvidia_uvm") else "; the module nvidia_uvm is not loaded"
    if "/dev/nvidia-uvm" in missing:
        yield faults.UVM.found(f"/dev/nvidia-uvm is missing{module}: {evidence}", **_for(seen, "/dev/nvidia-uvm"))
    if "/dev/nvidiactl" in missing:
        yield faults.NODES.found(f"/dev/nvidiactl is missing: {evidence}", **_for(seen, "/dev/nvidiactl"))
    elif not gpus.nvidia_nodes():
        yield faults.NODES.found(f"no /dev/nvidia0 or other node of a GPU: {evidence}", **_for(seen, "/dev/nvidia0"))
    if closed:
        yield no_permission(closed, evidence, faults.PERMISSION)
    if denied:
        yield faults.DENIED.found(f"{', '.join(denied)}: operation not permitted (EPERM): {evidence}")
    if blocked := [path for path, error in errors.items() if error == "no answer"]:
        yield faults.NODE_HANGS.found(f"opening {blocked[0]} gave no answer within 15 s: {evidence}")
    yield from _stale(evidence)
    if "MIG-" in context.environ.get("CUDA_VISIBLE_DEVICES", "") and not gpus.glob("dev/nvidia-caps", "nvidia-cap*"):
        yield faults.CAPS.found(f"CUDA_VISIBLE_DEVICES names a MIG instance, but /dev/nvidia-caps is empty: {evidence}")


def _for(container: str | None, node: str) -> dict[str, Any]:
    """The fix, where it differs in a container."""
    fix = f"sudo nvidia-modprobe -u -c=0 on the host, then start the container with --gpus all (or --device {node})"
    return {"fix": fix} if container else {}


def no_permission(closed: Sequence[str], evidence: str, fault: Fault) -> Finding:
    """The finding that these nodes may not be opened, with whom they belong to."""
    found = os.stat(system.ROOT / closed[0].lstrip("/"))
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    mode = f"mode {found.st_mode & 0o777:o}, group {group}, of which user {os.geteuid()} is no member"
    # Nobody should join the group root for that.
    fix = f"sudo chmod 666 {' '.join(closed)}" if group == "root" else None
    return fault.found(f"{', '.join(closed)} may not be opened (EACCES: {mode}): {evidence}", fix=fix, group=group)


def _stale(evidence: str) -> Iterator[Finding]:
    """A node that was made for another major number than the module has now (bind mounts into LXC)."""
    listed = re.search(r"^\s*(\d+) nvidia-uvm$", gpus.text(system.ROOT / "proc/devices") or "", re.MULTILINE)
    try:
        major = os.major(os.stat(system.ROOT / "dev/nvidia-uvm").st_rdev)
    except OSError:
        return
    if listed and major not in (0, int(listed[1])):
        yield faults.STALE_NODE.found(
            f"/dev/nvidia-uvm has major number {major}, but /proc/devices says {listed[1]}: {evidence}", major=listed[1]
        )
