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
