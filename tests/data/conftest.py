from pathlib import Path

import pytest

from llmbench import paths


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMBENCH_CACHE", str(folder))
    paths.cache_folder.cache_clear()
    yield folder
    paths.cache_folder.cache_clear()
