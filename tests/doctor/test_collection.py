"""Doctor inside a collection of real broken environments, if one lies beside this repository.

The collection brings its own script (``score.sh``): it runs a command in each environment, and says of each whether the
cause was named. Asked here is the quick half: the environments without a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .conftest import needs_root

COLLECTION = Path(__file__).resolve().parents[3] / "shared" / "faults"
ROW = re.compile(r"^(?P<case>\d{3}_\w+) +(?P<expected>\w+) +(?P<letter>[\w!-]+) +rc=")
LEAST_NAMED = 0.95

pytestmark = [
    pytest.mark.slow,
    pytest.mark.compiler,
    needs_root,
    pytest.mark.skipif(not (COLLECTION / "score.sh").exists(), reason="no collection of broken environments here"),
    pytest.mark.skipif(not Path(sys.prefix, "bin", "llmbench").exists(), reason="llmbench is not installed here"),
]


def quick_half() -> list[str]:
    cases = sorted((COLLECTION / "cases").glob("[1-9]*.sh"))
    return [case.stem for case in cases if "#@ base=cpu\n" in case.read_text(encoding="utf-8")]


@pytest.mark.timeout(1200)
def test_the_quick_half_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "VENV": sys.prefix, "SIDE": str(tmp_path / "side"), "SCORES": str(tmp_path / "scores")}
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"} | {"TO": "90"}
    subprocess.run(["bash", str(COLLECTION / "build.sh")], check=True, env=environment, stdout=subprocess.DEVNULL)
    environment["ONLY"] = ",".join(quick_half())
    command = ["bash", str(COLLECTION / "score.sh"), "doctor", "llmbench", "doctor", "--json"]
    printed = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, cwd=tmp_path).stdout
    print(printed)  # the table, for whoever reads why it failed
    rows = [match for line in printed.splitlines() if (match := ROW.match(line))]
    assert len(rows) == len(quick_half())
    letters = Counter(row["letter"] for row in rows)
    # No crash, no hang, no false alarm, no secret. Cn: the cause is named, and there is a traceback, which is Python's
    # own where a .pth file raises at the start of any program.
    assert set(letters) <= {"N", "Cn", "S", "-", "ok"}, letters
    named = letters["N"] + letters["Cn"]
    assert named >= LEAST_NAMED * (named + letters["S"] + letters["-"]), letters
