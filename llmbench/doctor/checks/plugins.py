"""llmbench's own libraries, and the checks that other packages bring along."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context

OWN = fault(
    "plugins.own.broken",
    "warn",
    "llmbench's own libraries cannot be imported",
    cause="a package that llmbench needs is missing or unsuitable in its environment: doctor works, run and report "
    "do not",
    fix="install llmbench into an environment of its own, and point it at this one: llmbench doctor --python <python>",
)


@check("plugins.own", "llmbench's own libraries can be imported", follows=("python.requirements",))
def own(context: Context) -> Iterator[Finding]:
    if context.own_fault:
        yield OWN.found(f"importing the command line raised {context.own_fault}")
    else:
        yield passed("typer and what it needs")


BROKEN = fault(
    "plugins.load.broken",
    "warn",
    "A plug-in of doctor cannot be imported",
    cause="a package that brings checks of its own (entry point group llmbench.checks) is broken: they are not asked",
    fix="mend or uninstall the package that has this entry point",
)


@check("plugins.load", "Checks of other packages can be imported")
def plugins(context: Context) -> Iterator[Finding]:
    """Tells of what happened when they were imported, at the start."""
    from llmbench.doctor.checks import PLUGINS, load

    reasons = load()
    for name, reason in reasons.items():
        if reason:
            yield BROKEN.found(f"entry point {name} of group {PLUGINS}: {reason}")
    if not any(reasons.values()):
        count = f"{len(reasons)} package{'s bring' if len(reasons) > 1 else ' brings'} checks"
        yield passed(f"{count}: {', '.join(reasons)}" if reasons else "no other package brings checks")
