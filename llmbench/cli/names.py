"""Names for shell completion."""

from __future__ import annotations


def complete_suite(incomplete: str) -> list[str]:
    from llmbench.suite.load import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def complete_workload(incomplete: str) -> list[str]:
    from llmbench.suite.workloads import FAMILIES, WORKLOADS

    return [name for name in [*FAMILIES, *WORKLOADS] if name.startswith(incomplete)]


def complete_mode(incomplete: str) -> list[str]:
    """The next ingredient, after the last ``+``."""
    from llmbench.suite.modes import EAGER, MODES

    before, plus, last = incomplete.rpartition("+")
    names = MODES if plus else [EAGER, *MODES]
    return [before + plus + name for name in names if name.startswith(last)]


def complete_check(incomplete: str) -> list[str]:
    """Areas and checks of doctor, after the last comma."""
    from llmbench.doctor.checks import all_checks

    before, comma, last = incomplete.rpartition(",")
    checks = all_checks()
    names = [*dict.fromkeys(check.area for check in checks), *(check.id for check in checks)]
    return [before + comma + name for name in names if name.startswith(last)]


def complete_explained(incomplete: str) -> list[str]:
    """Areas, checks and faults of doctor."""
    from llmbench.doctor.checks import all_faults

    faults = [fault.id for fault in all_faults() if fault.id.startswith(incomplete)]
    return complete_check(incomplete) + faults if "," not in incomplete else []
