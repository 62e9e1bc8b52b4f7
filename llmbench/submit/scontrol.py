"""What SLURM says of a job: one line of ``scontrol show job -o``, and what its states mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmbench.submit.jobs import Condition, State

# https://slurm.schedmd.com/squeue.html, job state codes
STATES: Mapping[str, State] = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_HOLD": "queued",
    "REQUEUE_FED": "queued",
    "RESV_DEL_HOLD": "queued",
    "SPECIAL_EXIT": "queued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "STAGE_OUT": "running",
    "SIGNALING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "RESIZING": "running",
    "COMPLETED": "done",
    "FAILED": "failed",
    "BOOT_FAIL": "failed",
    "LAUNCH_FAILED": "failed",
    "RECONFIG_FAIL": "failed",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_failed",
    "OUT_OF_MEMORY": "out_of_memory",
}
PENDING_REASONS = {
    "Resources": "waits for nodes to be free",
    "Priority": "others come first",
    "Dependency": "waits for another job",
    "PartitionNodeLimit": "asks for more nodes than the partition has or allows",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs to run",
    "QOSMaxJobsPerUserLimit": "as many of your jobs run as are allowed",
    "AssocGrpGRES": "your account has as many devices as are allowed",
    "AssocMaxJobsLimit": "your account has as many jobs as are allowed",
    "JobHeldUser": "held by you: scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "ReqNodeNotAvail": "a node that it needs is down or reserved",
    "BeginTime": "its time to begin has not come",
    "launch_failed_requeued_held": "it could not be started on its nodes: scontrol show job",
}
END_REASONS = {
    "timeout": "the wall limit was reached",
    "node_failed": "a node of the job failed",
    "out_of_memory": "it used more memory than the job has",
}
_NOTHING = ("None", "(null)", "NonZeroExitCode", "TimeLimit", "")


def fields(line: str) -> dict[str, str]:
    """The fields of ``scontrol show job -o``. A value with spaces (a path) is cut at the first one.

    The fields of an array or of a job of several components come first of the first one.
    """
    found: dict[str, str] = {}
    for name, value in re.findall(r"(?:^|\s)([A-Z][\w/:.]*)=(\S*)", line):
        found.setdefault(name, value)
    return found


def condition(line: str) -> Condition:
    """How a job is, from its line of ``scontrol show job -o``.

    The exit code is that of the script; a script that was ended by a signal has none.
    """
    found = fields(line)
    word = found.get("JobState", "")
    state = STATES.get(word, "unknown")
    reason = _reason(state, word, found.get("Reason", ""))
    code, _, signal = found.get("ExitCode", "").partition(":")
    known = state in ("done", "failed") and code.isdigit() and signal in ("", "0")
    nodes = found.get("NodeList", "")
    return Condition(state, reason, None if nodes in ("", "(null)") else nodes, int(code) if known else None)


def _reason(state: State, word: str, reason: str) -> str | None:
    given = None if reason in _NOTHING else reason
    if state == "queued":
        # A reason may go on in details, such as ReqNodeNotAvail,_UnavailableNodes:h2.
        meaning = PENDING_REASONS.get(reason.split(",")[0].strip("()"))
        return f"{reason}: {meaning}" if meaning else given
    if state == "unknown":
        return f"SLURM says {word or 'nothing'}"
    if word in ("PREEMPTED", "DEADLINE", "BOOT_FAIL", "SUSPENDED"):
        return word.lower().replace("_", " ")
    return END_REASONS.get(state, given)
