"""``docs/clusters.md`` word by word: every command in it is run here, or listed with the reason why it is not."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import pytest

from llmbench.results.store import RunFolder

from .hosts import CHECKOUT, Hosts, llmbench_command
from .nodes import Node, Nodes

Start = Callable[[tuple[str, str], Set[int]], str]
PAGE = CHECKOUT / "docs" / "clusters.md"

# Each pair is started on two hosts at once. Which exit codes are right, and what node 0 prints.
DOCTOR = (
    "llmbench doctor --nodes 2 --node-rank 0 --master-addr h0 --html nodes.html",
    "llmbench doctor --nodes 2 --node-rank 1 --master-addr h0",
)
TRAIN = (
    "llmbench run smoke-ddp --nnodes 2 --node-rank 0 --master-addr h0",
    "llmbench run smoke-ddp --nnodes 2 --node-rank 1 --master-addr h0",
)
RESUME = (
    "llmbench run --resume RUN --nnodes 2 --node-rank 0 --master-addr h0",
    "llmbench run --resume RUN --nnodes 2 --node-rank 1 --master-addr h0",
)
SCAN = (
    "llmbench scan --nnodes 2 --node-rank 0 --master-addr h0 --html scan.html",
    "llmbench scan --nnodes 2 --node-rank 1 --master-addr h0",
)

# Run as they stand, without a cluster. What they print, and their exit code.
ANYWHERE: dict[str, tuple[int, str]] = {
    "llmbench run smoke-ddp --nnodes 2 --node-rank 0 --master-addr h0 --plan": (0, "gpt-tiny/ddp/ws2"),
    "llmbench scan --simulate nodes=1024,slow=3,slowdown=0.1:0.3,noise=0.015,seed=1": (1, "slow"),
    "llmbench submit slurm smoke-ddp --nodes 2 --plan": (0, "#SBATCH --nodes=2"),
    "llmbench submit slurm smoke-ddp --nodes 2 --gpus-per-node 8 --partition gpu --time 30 "
    '--setup "module load cuda" --plan -- --qos=low': (0, "module load cuda"),
    "llmbench submit kubernetes smoke-ddp --nodes 2 --gpus-per-node 8 --image ghcr.io/me/llmbench:1 --plan": (
        0,
        "completionMode: Indexed",
    ),
    "llmbench submit status": (0, ""),
}

NOT_RUN: dict[str, str] = {
    "llmbench submit kubernetes smoke-ddp --nodes 2 --gpus-per-node 8 --image ghcr.io/me/llmbench:1 --time 30m": (
        "needs a Kubernetes cluster; its options are parsed in tests/submit, which submits to a stand-in for one"
    ),
    "llmbench submit kubernetes smoke-ddp --nodes 2 --image ghcr.io/me/llmbench:1 --volume results --detach": (
        "needs a Kubernetes cluster; its options are parsed in tests/submit, which submits to a stand-in for one"
    ),
    "llmbench submit slurm smoke-ddp --nodes 2": "tests/cluster/test_slurm.py runs it",
    "llmbench submit slurm smoke-ddp --nodes 2 --detach": "tests/cluster/test_slurm.py runs it",
    "llmbench submit slurm --nodes 2 --resume RUN": "tests/cluster/test_slurm.py runs it",
    "llmbench submit fetch ID": "tests/cluster/test_slurm.py runs it",
    "llmbench submit cancel ID": "tests/cluster/test_slurm.py runs it",
    "srun --ntasks-per-node=1 llmbench doctor --nodes": "tests/cluster/test_docs_slurm.py runs it",
    "srun --ntasks-per-node=1 llmbench scan": "tests/cluster/test_docs_slurm.py runs it",
    "llmbench run smoke-ddp --nnodes 2": "stands in a script of sbatch; tests/cluster/test_docs_slurm.py runs it",
}


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Each command of the page: lines of a console behind ``$``, and those of a script that start something."""
    found = []
    for language, text in blocks():
        for line in text.splitlines():
            if language == "console":
                assert line.startswith("$ "), f"output is not shown on this page: {line}"
                found.append(line[2:])
            elif language == "bash" and line and not line.startswith("#"):
                found.append(line)
    return found


def test_each_command_is_run_or_has_a_reason_not_to() -> None:
    known = [*ANYWHERE, *NOT_RUN, *DOCTOR, *TRAIN, *RESUME, *SCAN]
    assert sorted(known) == sorted(set(known))
    assert sorted(set(commands())) == sorted(known)


def test_each_block_says_what_it_is() -> None:
    """That of an image is not built: it begins with one of several GB from a registry."""
    assert {language for language, _ in blocks()} == {"console", "bash", "dockerfile"}


@pytest.mark.parametrize("command", ANYWHERE)
def test_a_command_without_a_cluster(command: str, llmbench: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code, text = ANYWHERE[command]
    done = llmbench(*shlex.split(command)[1:])
    assert (done.returncode, done.stderr if done.returncode == 2 else "") == (code, "")
    assert text in done.stdout


def on_two_hosts(made: Hosts, pair: tuple[str, str], folder: Path, environment: Mapping[str, str]) -> list[Node]:
    """Starts both commands, each on its host and in a folder of its own, and waits for them."""
    nodes = Nodes([])
    for rank, command in enumerate(pair):
        own = folder / f"node{rank}"
        own.mkdir(exist_ok=True)
        words = shlex.split(command)
        assert words[0] == "llmbench"
        if "RUN" in words:  # the run that was begun there
            words[words.index("RUN")] = str(next((folder / "node0" / "reports" / "runs").glob("2*")))
        variables = {**environment, "LLMBENCH_CACHE": str(folder / f"cache{rank}")}
        with (own / "stdout").open("w") as stdout, (own / "stderr").open("w") as stderr:
            process = made.start(rank, llmbench_command(*words[1:]), variables, own, stdout, stderr)
        nodes.members.append(Node(rank, process, own))
    nodes.wait(400)
    return nodes.members


@pytest.mark.hosts
@pytest.mark.slow
@pytest.mark.timeout(600)
class TestOnTwoHosts:
    @pytest.fixture
    def start(self, hosts2: Hosts, tmp_path: Path, environment: dict[str, str]) -> Start:
        """Starts a pair, and gives what node 0 printed; the other node must have ended well, and no traceback."""

        def run(pair: tuple[str, str], codes: Set[int]) -> str:
            first, second = on_two_hosts(hosts2, pair, tmp_path, environment)
            said = f"{pair}\n{first.stdout}\n{first.stderr}\n{second.stdout}\n{second.stderr}"
            assert first.process.returncode in codes, said
            assert second.process.returncode == 0, said
            assert "Traceback" not in said
            return first.stdout

        return run

    def test_doctor(self, start: Start, tmp_path: Path) -> None:
        assert "h1" in start(DOCTOR, {0, 1})
        assert (tmp_path / "node0" / "nodes.html").exists()

    def test_run_and_resume(self, start: Start, tmp_path: Path) -> None:
        assert "5 of 5 cases trained right" in start(TRAIN, {0})
        assert "5 of 5 cases trained right" in start(RESUME, {0})
        (path,) = (tmp_path / "node0" / "reports" / "runs").glob("2*")
        run = RunFolder(path).recorded_run()
        assert [node.host for node in run.nodes] == ["h0", "h1"]
        assert run.resumed == 1
        assert not (tmp_path / "node1" / "reports").exists()

    def test_scan(self, start: Start, tmp_path: Path) -> None:
        assert "among 2 nodes" in start(SCAN, {0, 1})
        assert (tmp_path / "node0" / "scan.html").exists()
