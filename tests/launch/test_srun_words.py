"""What srun says of a step, in words of a real one (22.05)."""

from __future__ import annotations

import pytest

from llmbench.launch.srun_words import TaskEnd, Told


def told(words: str) -> Told:
    found = Told()
    for line in words.splitlines(keepends=True):
        found.hear(line)
    return found


RAISED = """\
srun: cluster configuration lacks support for cpu binding
srun: error: h1: task 1: Exited with exit code 7
srun: launch/slurm: _step_signal: Terminating StepId=13.0
0: slurmstepd-h0: error: *** STEP 13.0 ON h0 CANCELLED AT 2026-11-23T13:51:20 ***
srun: error: h0: task 0: Terminated
srun: Force Terminated StepId=13.0
"""
KILLED = """\
srun: error: h1: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=2.0
slurmstepd-h0: error: *** STEP 2.0 ON h0 CANCELLED AT 2026-11-23T13:34:06 ***
srun: error: h1: task 2: Terminated
srun: error: h0: tasks 0-1: Terminated
"""
NODE = """\
srun: error: Node failure on h1
srun: error: h0: task 0: Killed
srun: launch/slurm: _step_signal: Terminating StepId=13.6
srun: Force Terminated StepId=13.6
"""
ENDED_BY_US = """\
srun: forcing job termination
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
0: slurmstepd-h0: error: *** STEP 13.2 ON h0 CANCELLED AT 2026-11-23T13:51:26 ***
srun: error: h0: task 0: Killed
srun: launch/slurm: _step_signal: Terminating StepId=13.2
srun: error: h1: task 1: Killed
"""


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (RAISED, TaskEnd(1, "h1", 7, False)),
        (KILLED, TaskEnd(3, "h1", -9, False)),
        (ENDED_BY_US, None),
        ("srun: error: h1: task 1: Segmentation fault (core dumped)\n", TaskEnd(1, "h1", -11, False)),
        ("srun: error: n-07.cluster: tasks 4,6-7: Aborted\n", TaskEnd(4, "n-07.cluster", -6, False)),
        ("1: srun: error: h1: task 1: Killed\n", None),  # a rank said it
        ("srun: error: h1: task 1: Broken in a new way\n", None),
        ("", None),
    ],
)
def test_the_rank_that_ended_first(words: str, first: TaskEnd | None) -> None:
    assert told(words).first == first


def test_all_ranks_of_a_list() -> None:
    found = told("srun: error: h1: tasks 4,6-7: Exited with exit code 1\n")
    assert [end.rank for end in found.ends] == [4, 6, 7]


def test_who_was_stopped_is_known() -> None:
    assert [(end.rank, end.by_us) for end in told(KILLED).ends] == [(3, False), (2, True), (0, True), (1, True)]


def test_a_node_that_failed() -> None:
    assert told(NODE).lost == {"h1": "SLURM says that the node failed"}
    unreached = "srun: error: Task launch for StepId=2.1 failed on node h2: Communication connection failure\n"
    assert "Communication connection failure" in told(unreached).lost["h2"]


@pytest.mark.parametrize(
    "why", ["More processors requested than permitted", "Requested node configuration is not available"]
)
def test_a_step_that_cannot_be(why: str) -> None:
    assert told(f"srun: error: Unable to create step for job 13: {why}\n").refused == why


def test_a_node_that_gives_no_answer() -> None:
    assert told("srun: error: Timed out waiting for job step to complete\n").unanswered


def test_limits() -> None:
    late = "slurmstepd-h0: error: *** STEP 2.0 ON h0 CANCELLED AT 2026-11-23T13:34:06 DUE TO TIME LIMIT ***\n"
    assert told(late).limit == "TIME LIMIT"
    oom = told(
        "slurmstepd-h1: error: Detected 1 oom-kill event(s) in StepId=2.0.\nsrun: error: h1: task 1: Out Of Memory\n"
    )
    assert oom.out_of_memory == {"h1"}
    assert oom.first == TaskEnd(1, "h1", -9, False)
