from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.suite.load import SuiteFile

Load = Callable[[str], SuiteFile]


@pytest.fixture
def load(suite: Callable[..., Path]) -> Load:
    """Reads a suite of the given text, from a file ``mine.toml``."""
    return lambda text: SuiteFile(suite(text))
