"""The script that sbatch is given: what it asks for, and that no name breaks out of it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.submit.passed_on import RunOptions
from llmbench.submit.sbatch import SlurmOptions, Work, command, script

PLAN = """\
#!/bin/bash
#SBATCH --job-name=llmbench-smoke-ddp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --time=30
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60

rm -f /jobs/1/exit_code
keep() { echo $? > /jobs/1/exit_code.tmp && mv /jobs/1/exit_code.tmp /jobs/1/exit_code; }
trap keep EXIT
cd /home/me || exit 2
module load cuda

# Started once, on the first node; each parallel case becomes one srun step on all of them.
# In the background: a signal of SLURM (wall limit, scancel) reaches bash, which passes it on at once.
llmbench=(python -m llmbench run smoke-ddp)
# Submitted or begun again, it goes on with its run.
[ -e /runs/1/run.json ] && llmbench=(python -m llmbench run --resume /runs/1)
"${llmbench[@]}" &
"""


def run(*command: str, resume: Sequence[str] = (), begun: Path = Path("/nowhere")) -> Work:
    return Work(command, resume, begun)


def test_a_script_as_it_is_written() -> None:
    options = SlurmOptions(2, 8, None, "gpu", "30", "lab", ["module load cuda"])
    llmbench = ["python", "-m", "llmbench", "run"]
    work = Work([*llmbench, "smoke-ddp"], [*llmbench, "--resume", "/runs/1"], Path("/runs/1/run.json"))
    text = script(options, work, "smoke-ddp", Path("/jobs/1"), Path("/home/me"))
    assert text.startswith(PLAN)
    assert_bash_takes(text)


def assert_bash_takes(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


HOSTILE = ["a b", "a'b", 'a"b', "$(touch pwned)", "`touch pwned`", "a;touch pwned", "--x", "a\\", "ä…", "%j %t", "*"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(name: str, tmp_path: Path) -> None:
    """The script is run: what it starts gets each word as it was given."""
    work, jobs = tmp_path / f"work {name}", tmp_path / f"jobs {name}"
    work.mkdir()
    jobs.mkdir()
    words = RunOptions(f"./{name}", workloads=[name], changes=[f"a={name}"], data=name).arguments(f"/runs/{name}")
    prints = ["bash", "-c", 'printf "%s\\n" "$PWD" "$@"; exit 3', "me"]
    begun = tmp_path / f"run {name}"
    doing = run(*prints, *words, resume=[*prints, f"again {name}"], begun=begun)
    text = script(SlurmOptions(1), doing, name, jobs, work)
    assert_bash_takes(text)
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout.splitlines() == [str(work), *words]
    assert (jobs / "exit_code").read_text() == "3\n"
    assert sorted(file.name for file in jobs.iterdir()) == ["exit_code"]
    assert not list(tmp_path.rglob("pwned"))
    begun.touch()
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [str(work), f"again {name}"]
    assert all(" " not in line.partition("=")[2] for line in text.splitlines() if line.startswith("#SBATCH"))


def test_a_goodbye_is_passed_on_and_the_code_is_kept(tmp_path: Path) -> None:
    """SLURM signals the shell only; whoever works in it takes its time to close."""
    waits = "trap 'sleep 0.2; echo closed; exit 143' TERM; echo ready; while :; do sleep 0.05; done"
    text = script(SlurmOptions(1), run("bash", "-c", waits), "s", tmp_path, tmp_path)
    process = subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=60)[0] == "closed\n"
    assert process.returncode == 143
    assert (tmp_path / "exit_code").read_text() == "143\n"


def test_a_setup_that_fails_leaves_its_code(tmp_path: Path) -> None:
    text = script(SlurmOptions(1, setup=["exit 9"]), run("true"), "s", tmp_path, tmp_path)
    assert subprocess.run(["bash", "-c", text]).returncode == 9
    assert (tmp_path / "exit_code").read_text() == "9\n"


def test_arguments_of_sbatch_come_last_and_paths_have_no_patterns() -> None:
    options = SlurmOptions(2, more=["--qos=low", "--comment=a b"])
    found = command(options, Path("/jobs/100%/job.sh"), Path("/jobs/100%"))
    assert found == ["sbatch", "--parsable", "--output=/jobs/100%%/slurm.out", "--qos=low", "--comment=a b",
                     "/jobs/100%/job.sh"]  # fmt: skip
    assert shlex.split(shlex.join(found)) == found


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (SlurmOptions(1, partition="a b"), "--partition"),
        (SlurmOptions(1, account="x\n#SBATCH --uid=0"), "--account"),
        (SlurmOptions(1, time="soon"), "--time"),
        (SlurmOptions(1, setup=["a\nb"]), "--setup"),
    ],
)
def test_what_can_only_be_a_mistake_is_named(options: SlurmOptions, named: str) -> None:
    with pytest.raises(UserError, match=named):
        options.check()


@pytest.mark.parametrize("time", ["30", "30:00", "2:00:00", "1-12", "1-12:30", "1-12:30:00", "UNLIMITED"])
def test_times_of_slurm(time: str) -> None:
    SlurmOptions(1, time=time).check()


@pytest.mark.parametrize(("gpus", "given", "ranks"), [(None, None, 1), (8, None, 8), (8, 4, 4), (None, 2, 2)])
def test_ranks_of_a_node(gpus: int | None, given: int | None, ranks: int) -> None:
    assert SlurmOptions(1, gpus, given).ranks_per_node == ranks
