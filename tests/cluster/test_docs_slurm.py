"""The commands of ``docs/clusters.md`` that want SLURM, in a script of their own on a real one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llmbench.results.store import RunFolder

from .hosts import with_checkout
from .slurm import Slurm, slurm
from .test_docs import blocks, commands

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm(2) as made:
        yield made


def sbatch(cluster: Slurm, folder: Path, script: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Submits a script in a folder and waits for it; its exit code, and all that it printed.

    ``llmbench`` is found on PATH there, as that of this checkout.
    """
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "llmbench").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llmbench "$@"\n')
    (bin_ / "llmbench").chmod(0o755)
    (folder / "job.sh").write_text(script)
    variables = with_checkout(environment) | cluster.variables | {"PATH": f"{bin_}{os.pathsep}{environment['PATH']}"}
    done = subprocess.run(
        ["sbatch", "--wait", "--output=out", "job.sh"],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, (folder / "out").read_text() + done.stderr


@pytest.mark.parametrize(
    ("command", "codes", "text"),
    [
        ("srun --ntasks-per-node=1 llmbench doctor --nodes", {0, 1}, "h1"),
        ("srun --ntasks-per-node=1 llmbench scan", {0, 1}, "among 2 nodes"),
    ],
)
def test_a_command_in_an_allocation(
    cluster: Slurm, tmp_path: Path, environment: dict[str, str], command: str, codes: set[int], text: str
) -> None:
    assert command in commands()
    code, said = sbatch(cluster, tmp_path, f"#!/bin/bash\n#SBATCH --nodes=2\n{command}\n", environment)
    assert code in codes, said
    assert text in said
    assert "Traceback" not in said


def test_the_script(cluster: Slurm, tmp_path: Path, environment: dict[str, str]) -> None:
    (script,) = [text for language, text in blocks() if language == "bash"]
    code, said = sbatch(cluster, tmp_path, script, environment)
    assert code == 0, said
    assert "5 of 5 cases trained right" in said
    (path,) = (tmp_path / "reports" / "runs").glob("2*")
    assert [node.host for node in RunFolder(path).recorded_run().nodes] == ["h0", "h1"]
