"""Hosts that a module's tests share: ``hosts2``, ``hosts3``, ``hosts4``. From elsewhere: ``with hosts(n) as …``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hosts import Hosts, hosts


@pytest.fixture(scope="module")
def hosts2() -> Iterator[Hosts]:
    with hosts(2) as made:
        yield made


@pytest.fixture(scope="module")
def hosts3() -> Iterator[Hosts]:
    with hosts(3) as made:
        yield made


@pytest.fixture(scope="module")
def hosts4() -> Iterator[Hosts]:
    with hosts(4) as made:
        yield made
