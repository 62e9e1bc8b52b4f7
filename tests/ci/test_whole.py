"""The action with the real llmbench, on a project whose pull request makes its own training slower."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.ci import actions, programs
from tests.ci.conftest import git

# What is added to each step; its result is not used.
_WORK = "        for _ in range(12):\n            (xy @ xy.T).softmax(-1)\n"


@pytest.mark.slow
def test_a_slower_pull_request_is_caught_in_the_code_of_the_project(tmp_path: Path) -> None:
    page = (actions.CHECKOUT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = re.search(r"`waves.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    assert found
    before, loss, after = found[1].partition("        return nn.functional.mse_loss")
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "--quiet", "--initial-branch=main")
    for text in (found[1], before + _WORK + loss + after):
        (origin / "waves.py").write_text(text, encoding="utf-8")
        git(origin, "add", ".")
        git(origin, "commit", "--quiet", "-m", "waves")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{origin}", str(tmp_path / "project"))
    installed = tmp_path / "temp" / "llmbench-environment" / "bin" / "llmbench"
    installed.parent.mkdir(parents=True)
    installed.write_text(f'#!/bin/sh\nPYTHONPATH={actions.CHECKOUT} exec {sys.executable} -m llmbench "$@"\n')
    installed.chmod(0o755)
    programs.install(tmp_path / "stand-ins")
    (tmp_path / "bin").mkdir()
    (tmp_path / "stand-ins" / "gh").rename(tmp_path / "bin" / "gh")
    (tmp_path / "comments.json").write_text("[]")
    passed_on = ("OMP_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR")

    done = actions.run(
        actions.load(),
        {
            "suite": "smoke",
            "python": sys.executable,
            "args": "--workload=waves:Waves\n--mode=eager\n--set=threads=1",
            "comment": "true",
        },
        folder=tmp_path / "project",
        temporary=tmp_path / "temp",
        github={
            "action_path": str(actions.CHECKOUT),
            "run_attempt": "1",
            "job": "gate",
            "event": {"pull_request": {"number": 1, "base": {"sha": git(origin, "rev-parse", "HEAD~1")}}},
        },
        variables={
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "LLMBENCH_CACHE": str(tmp_path / "cache"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "COMMENTS": str(tmp_path / "comments.json"),
            "SEEN": str(tmp_path / "seen.jsonl"),
        }
        | {name: os.environ[name] for name in passed_on if name in os.environ},
    )
    assert (done.outputs["exit-code"], done.outputs["verdict"], done.failed) == ("1", "failed", True), done.log
    report = Path(done.outputs["report"])
    assert "<svg" in report.read_text(encoding="utf-8")
    junit = ElementTree.parse(report.with_name("junit.xml"))
    assert [case.find("failure") is not None for case in junit.iter("testcase")].count(True) >= 1
    [comment] = json.loads((tmp_path / "comments.json").read_text())
    assert "waves:Waves/eager/ws1" in comment["body"]
    assert "slower" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "::error title=llmbench" in done.log
