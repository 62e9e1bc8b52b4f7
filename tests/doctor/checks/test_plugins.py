"""Checks of other packages: tiny distributions, as pip would install them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

GOOD = '''
"""Checks of a cluster."""
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import passed

FULL = fault("cluster.scratch.full", "warn", "The scratch disk is full",
             cause="nothing can be written there", fix="clean")

@check("cluster.scratch", "The scratch disk has room", needs=("python.starts",))
def scratch(context):
    """Looks at it."""
    print("blah of a plug-in")
    if "SCRATCH_FULL" in context.environ:
        yield FULL.found("0 bytes left")
    else:
        yield passed("12 TB left")

print("blah at import")
'''

Doctor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def installed(tmp_path: Path) -> Doctor:
    """Runs llmbench beside distributions that have one module each."""

    def run(modules: dict[str, str], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        for name, source in modules.items():
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[llmbench.checks]\n{name} = {name}\n")
            (tmp_path / f"{name}.py").write_text(source)
        environ = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"} | variables
        command = [sys.executable, "-m", "llmbench", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)

    return run


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, Any]]]:
    return {check["id"]: check["findings"] for check in json.loads(done.stdout)["checks"]}


def test_a_check_is_asked(installed: Doctor) -> None:
    done = installed({"goodcheck": GOOD}, "doctor", "--json", "--only", "cluster,plugins")
    assert done.returncode == 0, done.stderr
    found = answers(done)
    assert list(found) == ["python.starts", "plugins.own", "plugins.load", "cluster.scratch"]
    assert found["cluster.scratch"][0]["evidence"] == "12 TB left"
    assert found["plugins.load"][0]["evidence"] == "1 package brings checks: goodcheck (goodcheck)"


def test_its_fault_is_told(installed: Doctor) -> None:
    done = installed({"goodcheck": GOOD}, "doctor", "--only", "cluster", SCRATCH_FULL="1")
    assert "WARN  cluster.scratch.full" in done.stdout
    assert "blah" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("list", "checks"), "cluster.scratch"),
        (("list", "faults"), "cluster.scratch.full"),
        (("doctor", "--explain", "cluster"), "The scratch disk has room"),
        (("doctor", "--explain", "cluster.scratch"), "Looks at it."),
        (("doctor", "--explain", "cluster.scratch.full"), "nothing can be written there"),
    ],
)
def test_it_is_listed_and_explained(installed: Doctor, arguments: tuple[str, ...], shown: str) -> None:
    done = installed({"goodcheck": GOOD}, *arguments)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert "blah" not in done.stdout


HEAD = GOOD.partition("@check")[0]
BROKEN = {
    "raises": ("raise RuntimeError('not today')", "RuntimeError: not today"),
    "absent": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
    "syntax": ("def", "SyntaxError"),
    "twice": (GOOD.replace("cluster.scratch", "python.starts"), "two checks are called python.starts"),
    "needy": (GOOD.replace("python.starts", "no.such"), "cluster.scratch needs no.such, which does not exist"),
    "circular": (GOOD.replace("python.starts", "cluster.scratch"), "cluster.scratch needs itself"),
    "orphan": (HEAD, "there is no check cluster.scratch that could find cluster.scratch.full"),
    "shapeless": (GOOD.replace("cluster.scratch", "scratch"), "scratch is no area.name"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_one_is_a_finding_and_breaks_nothing(installed: Doctor, kind: str) -> None:
    source, reason = BROKEN[kind]
    done = installed({"brokencheck": source}, "doctor", "--json", "--only", "plugins,python.starts")
    assert done.returncode == 0, done.stderr
    found = answers(done)
    assert list(found) == ["python.starts", "plugins.own", "plugins.load"]
    (finding,) = found["plugins.load"]
    assert (finding["verdict"], finding["fault"]) == ("warn", "plugins.load.broken")
    assert "brokencheck (brokencheck)" in finding["evidence"]
    assert reason in finding["evidence"]


@pytest.mark.slow
def test_one_that_hangs(installed: Doctor) -> None:
    done = installed({"brokencheck": "import time; time.sleep(600)"}, "doctor", "--json", "--only", "plugins")
    assert "its import gave no answer within" in answers(done)["plugins.load"][0]["evidence"]


def test_one_that_is_broken_keeps_no_other_from_being_asked(installed: Doctor) -> None:
    half = GOOD.replace("cluster", "half") + "raise RuntimeError('after its checks')"
    done = installed({"brokencheck": half, "goodcheck": GOOD}, "doctor", "--json", "--only", "plugins,cluster")
    found = answers(done)
    assert found["cluster.scratch"][0]["verdict"] == "pass"
    assert "half.scratch" not in found
    assert "after its checks" in found["plugins.load"][0]["evidence"]


def test_none(installed: Doctor) -> None:
    found = answers(installed({}, "doctor", "--json", "--only", "plugins"))
    assert found["plugins.load"][0]["evidence"] == "no other package brings checks"
