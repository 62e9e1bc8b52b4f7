"""Hosts that vanish while a step is under way. SLURM itself looks for them only every few minutes.

A host is lost when none of its ranks writes any more *and* its slurmd takes no connection. Each alone is no proof: a
rank may be stopped, a network disk may be late, a slurmd may be begun anew while all ranks go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from llmbench.cluster.allocation import Address, answers, slurmd_address
from llmbench.launch.step_ranks import StepRanks

SILENT_SECONDS = 8.0  # without a beat of any rank of a host, until its slurmd is asked for a sign of life
OWED_SECONDS = 2.0  # without a sign of life until the host is lost
LOOK_SECONDS = 1.0  # between looks
WHY = "neither its ranks nor its slurmd give a sign of life"


class Vanished:
    """Looks for hosts of a step that are gone.

    Args:
        answers: whether somebody takes a connection at an address.
    """

    def __init__(self, ranks: StepRanks, answers: Callable[[Address], bool] = answers) -> None:
        self._ranks, self._answers = ranks, answers
        self._addresses: dict[str, Address | None] = {}
        self._since: dict[str, float] = {}  # by host, the first time that it gave no answer
        self._next = 0.0

    def look(self) -> dict[str, str]:
        """Why a host is lost, by host."""
        now = time.monotonic()
        if now < self._next:
            return {}
        dead = {host for host in self._ranks.silent_hosts(SILENT_SECONDS) if not self._alive(host)}
        self._since = {host: self._since.get(host, now) for host in dead}
        self._next = time.monotonic() + LOOK_SECONDS
        return {host: WHY for host, since in self._since.items() if now - since >= OWED_SECONDS}

    def among(self, hosts: Iterable[str]) -> dict[str, str]:
        """Which of these are gone, that owe SLURM an answer since a rank of another host failed."""
        return {host: WHY for host in hosts if not self._alive(host)}

    def _alive(self, host: str) -> bool:
        """True, too, where nobody knows how to reach it."""
        if host not in self._addresses:
            self._addresses[host] = slurmd_address(host)
        address = self._addresses[host]
        return address is None or self._answers(address)
