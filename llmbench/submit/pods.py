"""What Kubernetes says of a job and its pods, and what that means. Pure: it reads the objects that kubectl returned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.submit.jobs import Condition, State

INDEX = "batch.kubernetes.io/job-completion-index"
COMPONENT = "app.kubernetes.io/component"
_JOBS = ("Job", "JobSet", "TrainJob")
_GOOD, _BAD = ("Complete", "Completed"), ("Failed",)
# What a pod passes through on its way, if nothing is wrong.
_ORDINARY = ("ContainerCreating", "PodInitializing")
_STATES: dict[str, State] = {"OOMKilled": "out_of_memory", "DeadlineExceeded": "timeout"}
_LOST_NODE = ("NodeLost", "DeletionByTaintManager", "DeletionByPodGC", "TerminationByKubelet")


@dataclass(frozen=True)
class Pod:
    """One node of a job.

    Attributes:
        waiting: why it does not run yet; empty if it is only on its way.
        code: exit code of ``llmbench``, where it has ended and is known.
        reason: why it ended so, in Kubernetes' words.
    """

    name: str
    rank: int
    phase: str
    created: str
    node: str | None = None
    waiting: str = ""
    running: bool = False
    ended: bool = False
    code: int | None = None
    reason: str | None = None
    state: State = "failed"

    def __str__(self) -> str:
        return f"node {self.rank} ({self.name}{f' on {self.node}' if self.node else ''})"


def pods(objects: Iterable[dict[str, Any]]) -> list[Pod]:
    """The nodes of a job by rank. Of several pods of one rank the first one that did something counts: what an
    operator begins again is another run.
    """
    found: dict[int, Pod] = {}
    made = [_pod(one) for one in objects if one.get("kind") == "Pod" and not _is_reader(one)]
    for pod in sorted(made, key=lambda pod: (not pod.ended, pod.created)):
        found.setdefault(pod.rank, pod)
    return [found[rank] for rank in sorted(found)]


def condition(objects: Sequence[dict[str, Any]], nodes: int) -> Condition | None:
    """How a job is; None if there is nothing of it. Node 0 leads: its end is the end of the run."""
    jobs = [one for one in objects if one.get("kind") in _JOBS]
    all_pods = pods(objects)
    first = next((pod for pod in all_pods if pod.rank == 0), None)
    if first is not None and first.ended:
        return _end(first, all_pods)
    for job in jobs:
        ended = _job_end(job)
        if ended is not None:
            return ended
    if not jobs and not all_pods:
        return None
    return _under_way(jobs, all_pods, first, nodes)


def _under_way(jobs: Sequence[dict[str, Any]], all_pods: Sequence[Pod], first: Pod | None, nodes: int) -> Condition:
    lost = [f"{pod}: {pod.reason}" for pod in all_pods if pod.ended and pod.reason]
    waiting = [f"{pod}: {pod.waiting}" for pod in all_pods if pod.waiting]
    reason = "; ".join([*lost[:2], *waiting[:2]]) or None
    more = len(lost) + len(waiting) - min(2, len(lost)) - min(2, len(waiting))
    if more:
        reason = f"{reason}; and {more} more"
    running = sum(pod.running for pod in all_pods)
    if first is not None and first.running:
        return Condition("running", reason, f"{running} of {nodes} pods")
    if any(_true(job, "Suspended") for job in jobs):
        return Condition("queued", "suspended: it waits to be let in")
    if not all_pods:
        return Condition("queued", "no pod yet")
    return Condition("queued", reason or f"{running} of {nodes} pods run")


def _end(first: Pod, all_pods: Sequence[Pod]) -> Condition:
    """The end of node 0 is that of the run; which other nodes failed is told beside."""
    place = f"{len(all_pods)} pods" if len(all_pods) > 1 else first.name
    if first.code == 0 and first.reason is None:
        return Condition("done", None, place, 0)
    others = [f"{pod}: {pod.reason}" for pod in all_pods[1:] if pod.ended and pod.reason]
    reason = "; ".join([f"{first}: {first.reason}" if first.reason else "", *others[:3]]).strip("; ")
    return Condition(first.state, reason or None, place, first.code)


def _job_end(job: dict[str, Any]) -> Condition | None:
    for one in _conditions(job):
        if one.get("status") != "True":
            continue
        words = ": ".join(filter(None, [one.get("reason"), one.get("message")])) or None
        if one.get("type") in _BAD:
            return Condition(_STATES.get(str(one.get("reason")), "failed"), words)
        if one.get("type") in _GOOD:
            return Condition("failed", "it has ended, and the pod of node 0 is not there any more")
    return None


def _pod(one: dict[str, Any]) -> Pod:
    metadata, status = one.get("metadata", {}), one.get("status", {})
    phase = status.get("phase", "Pending")
    container: dict[str, Any] = next(iter(status.get("containerStatuses") or []), {})
    state = container.get("state") or {}
    terminated = state.get("terminated")
    ended = phase in ("Succeeded", "Failed")
    code = _code(terminated or {})
    known = {
        "name": metadata.get("name", "?"),
        "rank": _rank(metadata),
        "phase": phase,
        "created": metadata.get("creationTimestamp") or "",
        "node": one.get("spec", {}).get("nodeName"),
    }
    if not ended:
        running = phase == "Running" and terminated is None
        return Pod(**known, running=running, waiting="" if running else _waiting(status, container))
    word, reason = _why(status, terminated or {}, code)
    lost = word in _LOST_NODE or "node" in (word or "").lower()
    state_: State = "done" if code == 0 and reason is None else "node_failed" if lost else _STATES.get(word, "failed")
    return Pod(**known, ended=True, code=code, reason=reason, state=state_)


def _why(status: dict[str, Any], terminated: dict[str, Any], code: int | None) -> tuple[str, str | None]:
    """A word and a sentence: why a pod ended as it did; no sentence if it ended well."""
    if status.get("reason"):  # the kubelet ended it: Evicted, DeadlineExceeded, NodeLost
        return status["reason"], _words(status["reason"], status.get("message"))
    for one in status.get("conditions") or []:
        if one.get("type") == "DisruptionTarget" and one.get("status") == "True":
            return str(one.get("reason")), _words(one.get("reason"), one.get("message"))
    word = str(terminated.get("reason") or "")
    if code == 0:
        return word, None
    if word not in ("", "Error", "Completed"):  # OOMKilled, ContainerCannotRun, StartError
        text = terminated.get("message")
        return word, _words(word, None if _own_report(text) else text)
    return word, f"exit code {code}" if code is not None else "it ended without an exit code"


def _waiting(status: dict[str, Any], container: dict[str, Any]) -> str:
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") and waiting["reason"] not in _ORDINARY:
        return _words(waiting["reason"], waiting.get("message"))
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return _words(one.get("reason"), one.get("message"))
    return ""


def _words(reason: Any, message: Any) -> str:
    text = " ".join(str(message or "").split())
    return f"{reason}: {text}" if text else str(reason)


def _own_report(message: Any) -> dict[str, Any] | None:
    """What ``llmbench submit pod`` left in the status of its pod."""
    try:
        told = json.loads(message)["llmbench"]
        return told if isinstance(told["code"], int) else None
    except (TypeError, ValueError, KeyError):
        return None


def _code(terminated: dict[str, Any]) -> int | None:
    told = _own_report(terminated.get("message"))
    return told["code"] if told else terminated.get("exitCode")


def _rank(metadata: dict[str, Any]) -> int:
    text = (metadata.get("annotations") or {}).get(INDEX) or (metadata.get("labels") or {}).get(INDEX) or "0"
    return int(text) if str(text).isdigit() else 0


def _is_reader(one: dict[str, Any]) -> bool:
    return bool((one.get("metadata", {}).get("labels") or {}).get(COMPONENT) == "reader")


def _conditions(one: dict[str, Any]) -> list[dict[str, Any]]:
    return (one.get("status") or {}).get("conditions") or []


def _true(one: dict[str, Any], type_: str) -> bool:
    return any(each.get("type") == type_ and each.get("status") == "True" for each in _conditions(one))
