"""Compiled code of cases: a cache folder for each, so that a cold start and a warm one can be told apart."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.paths import cache_folder
from llmbench.results.files import write_atomically
from llmbench.suite.cases import Case

_DONE = "llmbench.json"


@dataclass(frozen=True)
class CompiledCode:
    """The folder in which inductor keeps what it has compiled for one case in one environment.

    Args:
        folder: not shared with other cases: what they have in common would otherwise be compiled by the first alone.
    """

    folder: Path

    @classmethod
    def of(cls, case: Case, device: str, torch: str) -> CompiledCode:
        root = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        key = json.dumps([case.id, case.config, device, torch], sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return cls((Path(root) if root else cache_folder() / "inductor") / f"llmbench-{name}")

    def begin(self) -> None:
        """What was left half done is thrown away: it would be neither cold nor warm."""
        if self.cold() is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def cold(self) -> dict[str, Any] | None:
        """``seconds`` of the first step when nothing was compiled, and ``at``, when that was; None before."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def remember(self, seconds: float, at: str) -> None:
        write_atomically(self.folder / _DONE, json.dumps({"seconds": seconds, "at": at}))
