"""Two environments with different versions of a dependency, one of which does something that it should not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.planted import Planted, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
AB = ("ab", "smoke", "-w", "regression-linear", "-m", "eager", "--rounds", "8", "--budget", "400", "--json")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("clean") / "venv", "1.0")


@pytest.mark.parametrize(
    ("planted", "metric", "verdict"),
    [
        (Planted(slowdown=0.5), "step", "slower"),
        (Planted(memory=0.05), "memory", "more"),
        (Planted(loss=1e-4), "loss", "changed"),
    ],
    ids=["slowdown", "memory", "loss"],
)
def test_what_is_planted_is_caught_by_its_own_gate_and_named(
    tmp_path: Path, clean: Path, planted: Planted, metric: str, verdict: str
) -> None:
    python = environment(tmp_path / "venv", "1.1", planted)
    told, code = _ab(tmp_path / "ab", clean, python)
    assert code == told["exit_code"] == 1
    found = {row["metric"]: row for row in told["records"]}
    worse = {name for name, row in found.items() if row["worse"]}
    # Time has two gates; the comparison is over when one of them has seen it.
    assert worse
    assert worse <= ({"step", "total"} if metric == "step" else {metric})
    assert {found[name]["verdict"] for name in worse} == {verdict}
    assert ("dependency", "1.0", "1.1") in {
        (one["key"].removeprefix("packages."), one["base"], one["cand"]) for one in told["environment"]["differs"]
    }


def _ab(out: Path, base: Path, cand: Path) -> tuple[dict[str, Any], int]:
    command = [sys.executable, "-m", "llmbench", *AB, "--base", str(base), "--cand", str(cand), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout), done.returncode
