"""Is this machine as another one, that is known to be right? Answered from the findings of all other checks."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, skipped
from llmbench.doctor.runner import Context

DIFFERS = fault(
    "baseline.same.differs",
    "warn",
    "Something is not as on the machine of the baseline",
    cause="two machines of one job that differ in it differ in speed or results, or do not work together",
    fix="make it as on the other machine, or record a new baseline: llmbench doctor --json > golden.json",
)
MISSING = fault(
    "baseline.same.missing",
    "warn",
    "Something that the machine of the baseline has is not here",
    cause="what runs there may not run here",
    fix="install or attach what is missing, or record a new baseline: llmbench doctor --json > golden.json",
)
WORSE = fault(
    "baseline.same.worse",
    "fail",
    "A check that passed on the machine of the baseline fails here",
    cause="this machine is broken where the other one is not",
    fix="mend what <check> found",
)


@check("baseline.same", "This machine is as the one of the baseline")
def same(context: Context) -> Iterator[Finding]:
    """Compares facts and faults with the JSON of another run, given by --baseline, after all other checks."""
    yield skipped("no other machine was named: --baseline FILE")
