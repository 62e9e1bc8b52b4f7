"""The nodes that joined, as node 0 asks them; what a node does not answer is kept, and no reason to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmbench.cluster.channel import Asking, Reply
from llmbench.doctor.nodes.words import labels


class Lead(Protocol):
    """What is used of ``llmbench.cluster.channel.Leader``."""

    hosts: dict[int, str]
    addresses: dict[int, str]
    lost: dict[int, str]

    def ask(self, requests: Mapping[int, Mapping[str, Any]], seconds: float) -> dict[int, Reply]: ...

    def start(self, requests: Mapping[int, Mapping[str, Any]]) -> Asking: ...


@dataclass
class Cluster:
    """The nodes that joined.

    Attributes:
        leader: through which they are asked.
        patience: factor of all deadlines.
        troubles: by node rank, why it did not answer last, though its connection holds.
    """

    leader: Lead
    patience: float = 1.0
    troubles: dict[int, str] = field(default_factory=dict)

    @property
    def known(self) -> dict[int, str]:
        """What the nodes are called, by rank."""
        return labels(self.leader.hosts)

    @property
    def there(self) -> list[int]:
        """Ranks of those that are not lost."""
        return [rank for rank in sorted(self.leader.hosts) if rank not in self.leader.lost]

    def ask(self, do: str, seconds: float, requests: Mapping[int, Mapping[str, Any]] | None = None) -> dict[int, Any]:
        """What the nodes answer, by rank; who does not is left out, and in ``troubles`` if it is not lost.

        Args:
            do: name of what they shall do.
            seconds: until they are given up, before ``patience``.
            requests: what more to tell each; without it, all nodes are asked the same.
        """
        told: Mapping[int, Mapping[str, Any]] = {rank: {} for rank in self.there} if requests is None else requests
        return self.values(do, self.leader.ask(self._whole(do, told), seconds * self.patience))

    def start(self, do: str, requests: Mapping[int, Mapping[str, Any]]) -> Asking:
        """The same without waiting; ``values`` then takes the replies."""
        return self.leader.start(self._whole(do, requests))

    def _whole(self, do: str, requests: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
        return {
            rank: {"do": do, "patience": self.patience} | dict(request)
            for rank, request in requests.items()
            if rank not in self.leader.lost
        }

    def values(self, do: str, replies: Mapping[int, Reply]) -> dict[int, Any]:
        """What was answered, by rank; keeps why others did not."""
        for rank, reply in replies.items():
            if reply.value is None and rank not in self.leader.lost:
                self.troubles[rank] = f"{do}: {reply.reason or 'no answer'}"
        return {rank: reply.value for rank, reply in replies.items() if reply.value is not None}
