"""A text in two splits: what is trained on, and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Split:
    """One part of a text, as UTF-8 bytes.

    Args:
        size: in bytes.
        sha256: of the bytes.
        read: gives the bytes; for the generated corpus it generates them, so call it only when they are needed.
        origin: where they come from: files, or a part of them.
        nats: -ln P under the source of the text, where that is known.
    """

    size: int
    sha256: str
    read: Callable[[], bytes]
    origin: tuple[str, ...]
    nats: float | None = None

    @classmethod
    def of(cls, text: bytes, *origin: str) -> Split:
        """A split that lies in memory."""
        return cls(len(text), hashlib.sha256(text).hexdigest(), lambda: text, origin)

    def describe(self) -> dict[str, Any]:
        return {
            "bytes": self.size,
            "sha256": self.sha256,
            "origin": list(self.origin),
            "nats_per_byte": None if self.nats is None else self.nats / self.size,
        }


@dataclass(frozen=True)
class Text:
    """What a run trains on and evaluates on.

    Args:
        name: for people, e.g. ``generated`` or the name of the folder.
        path: as given with ``--data``; None for the generated corpus.
    """

    name: str
    path: str | None
    train: Split
    valid: Split

    @property
    def sha256(self) -> str:
        """Of both splits: equal exactly where both are equal."""
        return hashlib.sha256(f"{self.train.sha256} {self.valid.sha256}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For ``run.json``: name, path as given, size, sha256, origin and (where known) entropy of each split."""
        return {
            "name": self.name,
            "path": self.path,
            "sha256": self.sha256,
            "train": self.train.describe(),
            "valid": self.valid.describe(),
        }
