"""Whether the clocks of the nodes agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.nodes.words import Labels
from llmbench.doctor.runner import Context

WARN_SECONDS = 1.0
FAIL_SECONDS = 60.0

OFF = fault(
    "nodes.clock.off",
    "warn",
    "The clock of a node is off",
    cause="logs and events of the nodes cannot be put in order; from minutes on, logins, certificates, object stores "
    "and munge (SLURM) refuse what seems old or from the future",
    fix="on <node>: timedatectl set-ntp true, or chronyc makestep; then timedatectl shows whether it is synchronised",
)


@check("nodes.clock", "The clocks agree", deadline=60)
def clock(context: Context) -> Iterator[Finding]:
    """Each against that of node 0, by round trips, of which the shortest counts. A failure from a minute on."""
    yield skipped("asked with --nodes N, by a command on each node")


@dataclass(frozen=True)
class Offset:
    """Seconds by which a clock is ahead of node 0's, and how far that can be from the truth."""

    seconds: float
    within: float


def offset(trips: list[tuple[float, float, float]]) -> Offset:
    """From round trips: sent, received there, received back, each by the clock of where it was (RFC 5905, section 8).

    The trip with the least delay counts: the answer lies within half of it, however long the others waited.
    """
    sent, there, back = min(trips, key=lambda trip: trip[2] - trip[0])
    return Offset(there - (sent + back) / 2, (back - sent) / 2)


def judge(known: Labels, offsets: Mapping[int, Offset]) -> Iterator[Finding]:
    """Who is off, against what most agree on; where there is no majority, against node 0.

    Args:
        known: the nodes.
        offsets: by rank; node 0 has the offset zero.
    """
    right, agree = _right(offsets)
    off = {
        rank: found.seconds - right
        for rank, found in offsets.items()
        if abs(found.seconds - right) - found.within > WARN_SECONDS
    }
    for rank, seconds in off.items():
        ahead = "ahead of" if seconds > 0 else "behind"
        whom = f"that of {agree} of the {len(offsets)} nodes" if 2 * agree > len(offsets) else f"that of {known[0]}"
        finding = OFF.found(
            f"the clock of {known[rank]} is {_time(abs(seconds))} {ahead} {whom} (± {_time(offsets[rank].within)})",
            verdict="fail" if abs(seconds) - offsets[rank].within > FAIL_SECONDS else None,
            node=known[rank],
        )
        yield replace(finding, nodes=(rank,))
    if not off:
        worst = max(abs(found.seconds - right) for found in offsets.values())
        sure = max(found.within for found in offsets.values())
        yield passed(f"within {_time(max(worst, sure))} of each other")


def _right(offsets: Mapping[int, Offset]) -> tuple[float, int]:
    """The offset around which most clocks agree, and how many do; without a majority that of node 0."""

    def near(seconds: float) -> list[float]:
        return [o.seconds for o in offsets.values() if abs(o.seconds - seconds) - o.within <= WARN_SECONDS / 2]

    groups = [near(found.seconds) for found in offsets.values()]
    best = max(groups, key=len)
    if 2 * len(best) <= len(offsets):
        return 0.0, len(near(0.0))
    return sorted(best)[len(best) // 2], len(best)


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
