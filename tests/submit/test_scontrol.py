"""What SLURM says of a job, in lines of a real one (22.05)."""

from __future__ import annotations

import pytest

from llmbench.submit.jobs import Condition
from llmbench.submit.scontrol import STATES, condition, fields

LINE = (
    "JobId=2 JobName=a.sh UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901758 Nice=0 Account=(null) "
    "QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode={code} RunTime=00:00:00 TimeLimit=01:00:00 TimeMin=N/A SubmitTime=2026-11-23T13:34:04 "
    "EndTime=2026-11-23T14:34:05 Deadline=N/A Partition=debug NodeList={nodes} BatchHost=h0 NumNodes=2 NumCPUs=8 "
    "CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=8,node=2,billing=8 Command=/tmp/a JobState=LIE b.sh "
    "WorkDir=/tmp/x StdErr=/tmp/a.out StdIn=/dev/null StdOut=/tmp/a.out Power= TresPerNode=gres:gpu:2 "
)


def line(state: str, reason: str = "None", code: str = "0:0", nodes: str = "h[0-1]") -> str:
    return LINE.format(state=state, reason=reason, code=code, nodes=nodes)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (line("PENDING", nodes=""), Condition("queued")),
        (line("PENDING", "Resources", nodes=""), Condition("queued", "Resources: waits for nodes to be free")),
        (
            line("PENDING", "PartitionNodeLimit", nodes=""),
            Condition("queued", "PartitionNodeLimit: asks for more nodes than the partition has or allows"),
        ),
        (
            line("PENDING", "ReqNodeNotAvail,_UnavailableNodes:h2", nodes=""),
            Condition(
                "queued", "ReqNodeNotAvail,_UnavailableNodes:h2: a node that it needs is down or reserved"
            ),
        ),
        (line("PENDING", "SomethingNew", nodes="(null)"), Condition("queued", "SomethingNew")),
        (line("RUNNING"), Condition("running", None, "h[0-1]")),
        (line("COMPLETED"), Condition("done", None, "h[0-1]", 0)),
        (line("FAILED", "NonZeroExitCode", "3:0"), Condition("failed", None, "h[0-1]", 3)),
        (line("FAILED", "RaisedSignal:9(Killed)", "0:9"), Condition("failed", "RaisedSignal:9(Killed)", "h[0-1]")),
        (line("TIMEOUT", "TimeLimit", "0:15"), Condition("timeout", "the wall limit was reached", "h[0-1]")),
        (line("CANCELLED", code="0:15"), Condition("cancelled", None, "h[0-1]")),
        (line("NODE_FAIL", "NodeDown", "1:0"), Condition("node_failed", "a node of the job failed", "h[0-1]")),
        (
            line("OUT_OF_MEMORY", "OutOfMemory", "0:125"),
            Condition("out_of_memory", "it used more memory than the job has", "h[0-1]"),
        ),
        (line("PREEMPTED", code="0:15"), Condition("cancelled", "preempted", "h[0-1]")),
        (line("NEW_STATE"), Condition("unknown", "SLURM says NEW_STATE", "h[0-1]")),
        ("", Condition("unknown", "SLURM says nothing")),
    ],
)  # fmt: skip
def test_conditions(said: str, found: Condition) -> None:
    assert condition(said) == found


def test_fields_with_unusual_names() -> None:
    found = fields(line("RUNNING"))
    assert found["CPUs/Task"] == "1"
    assert found["ReqB:S:C:T"] == "0:0:*:*"
    assert found["Power"] == ""
    assert found["TimeLimit"] == "01:00:00"


def test_only_what_is_over_has_ended() -> None:
    assert {word for word in STATES if Condition(STATES[word]).ended}.isdisjoint({"PENDING", "RUNNING", "COMPLETING"})


def test_a_condition_in_words() -> None:
    assert str(condition(line("TIMEOUT"))) == "timeout (on h[0-1], the wall limit was reached)"
    assert str(Condition("out_of_memory")) == "out of memory"
