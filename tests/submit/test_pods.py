"""What the objects of Kubernetes mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmbench.submit.pods import condition, pods
from tests.submit.api_server import Object, ended, pod, running

JOB: Object = {"kind": "Job", "metadata": {"name": "j", "namespace": "bench", "labels": {}}, "status": {}}
WAITS = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x/y:1"'}}
NO_PLACE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes have 8 GPUs"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "deleting"}


def job(**status: Any) -> Object:
    return JOB | {"status": status}


def failed(reason: str, message: str = "", kind: str = "Job") -> Object:
    one = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    return JOB | {"kind": kind, "status": {"conditions": [one]}}


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        ([JOB], "queued (no pod yet)"),
        ([job(conditions=[{"type": "Suspended", "status": "True"}])], "queued (suspended: it waits to be let in)"),
        ([JOB, pod(JOB, 0, "Pending"), pod(JOB, 1, "Pending")], "queued (0 of 2 pods run)"),
        (
            [JOB, pod(JOB, 0, "Pending", state=WAITS)],
            'queued (node 0 (j-0-abcde on machine-0): ImagePullBackOff: Back-off pulling image "x/y:1")',
        ),
        (
            [JOB, running(JOB, 0), pod(JOB, 1, "Pending", conditions=[NO_PLACE])],
            "running (on 1 of 2 pods, node 1 (j-1-abcde on machine-1): Unschedulable: 0/3 nodes have 8 GPUs)",
        ),
        ([JOB, pod(JOB, 0, "Pending", state={"waiting": {"reason": "ContainerCreating"}}), running(JOB, 1)],
         "queued (1 of 2 pods run)"),
        ([JOB, running(JOB, 0), running(JOB, 1)], "running (on 2 of 2 pods)"),
        ([JOB, running(JOB, 0), ended(JOB, 1, 137, "OOMKilled")],
         "running (on 1 of 2 pods, node 1 (j-1-abcde on machine-1): OOMKilled)"),
        ([failed("DeadlineExceeded", "Job was active longer than specified deadline")],
         "timeout (DeadlineExceeded: Job was active longer than specified deadline)"),
        ([failed("FailedJobs", "jobset failed", "JobSet")], "failed (FailedJobs: jobset failed)"),
    ],
)  # fmt: skip
def test_under_way(objects: list[Object], told: str) -> None:
    assert str(condition(objects, 2)) == told


@pytest.mark.parametrize(
    ("first", "state", "code", "names"),
    [
        (ended(JOB, 0, 0), "done", 0, ""),
        (ended(JOB, 0, 3), "failed", 3, "exit code 3"),
        (ended(JOB, 0, 137, "OOMKilled"), "out_of_memory", 137, "OOMKilled"),
        (ended(JOB, 0, 143, reason="Error") | {}, "failed", 143, "exit code 143"),
        (
            pod(JOB, 0, "Failed", reason="DeadlineExceeded", message="Pod was active too long"),
            "timeout",
            None,
            "Pod was",
        ),
        (pod(JOB, 0, "Failed", reason="Evicted", message="low on resource: memory"), "failed", None, "Evicted: low on"),
        (ended(JOB, 0, 143, conditions=[DISRUPTED]), "node_failed", 143, "DeletionByTaintManager"),
        (ended(JOB, 0, 128, "StartError"), "failed", 128, "StartError"),
    ],
)
def test_the_end_of_node_0(first: Object, state: str, code: int | None, names: str) -> None:
    found = condition([JOB, first, ended(JOB, 1, 0)], 2)
    assert found is not None
    assert (found.state, found.code) == (state, code)
    assert names in (found.reason or "")


def test_the_code_that_a_pod_left_in_its_status_counts() -> None:
    """Where an operator would begin it again, the pod itself ends with 0."""
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": json.dumps({"llmbench": {"code": 3}})}}
    found = condition([pod(JOB, 0, "Succeeded", state=state)], 1)
    assert found is not None
    assert (found.state, found.code) == ("failed", 3)


@pytest.mark.parametrize("message", [None, "", "text", "[]", '{"llmbench": 3}', '{"llmbench": {"code": "3"}}'])
def test_other_words_in_the_status_are_no_code(message: str | None) -> None:
    state = {"terminated": {"exitCode": 5, "reason": "Error", "message": message}}
    (found,) = pods([pod(JOB, 0, "Failed", state=state)])
    assert found.code == 5


def test_nodes_that_failed_stand_beside_the_end() -> None:
    found = condition([JOB, ended(JOB, 0, 3), ended(JOB, 1, 137, "OOMKilled")], 2)
    assert "node 1 (j-1-abcde on machine-1): OOMKilled" in str(found)


def test_of_two_pods_of_one_node_the_first_counts() -> None:
    again = running(JOB, 0)
    again["metadata"] |= {"name": "j-0-again", "creationTimestamp": "2026-01-01T00:00:09Z"}
    (found,) = pods([again, ended(JOB, 0, 3)])
    assert found.code == 3


def test_many_that_wait_are_counted() -> None:
    waiting = [pod(JOB, rank, "Pending", state=WAITS) for rank in range(5)]
    assert str(condition([JOB, *waiting], 5)).endswith("; and 3 more)")


def test_nothing_is_left() -> None:
    assert condition([], 2) is None
