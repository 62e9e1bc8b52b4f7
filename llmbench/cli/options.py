"""Choices that options offer."""

from __future__ import annotations

from enum import StrEnum


class DeviceKind(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ProgressKind(StrEnum):
    """auto: live in a terminal, else a line a case."""

    auto = "auto"
    live = "live"
    plain = "plain"
    none = "none"
