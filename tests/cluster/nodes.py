"""``llmbench …`` started once per node: on hosts of their own, or as plain processes that meet at 127.0.0.1."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .hosts import Hosts, llmbench_command, with_checkout


@dataclass
class Node:
    """The process of one node; its output goes to files, so that none waits for a reader."""

    rank: int
    process: subprocess.Popen[str]
    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")


class Nodes:
    """The nodes of one command."""

    def __init__(self, members: list[Node]) -> None:
        self.members = members

    def __getitem__(self, rank: int) -> Node:
        return self.members[rank]

    def wait(self, seconds: float = 240) -> list[subprocess.CompletedProcess[str]]:
        """How each node ended, by node rank.

        Raises:
            TimeoutError: some have not; what all had printed is in the message.
        """
        end = time.monotonic() + seconds
        for node in self.members:
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(max(0.0, end - time.monotonic()))
        running = [node.rank for node in self.members if node.process.poll() is None]
        if running:
            raise TimeoutError(f"nodes {running} still run after {seconds:g} s\n{self.printed()}")
        return [
            subprocess.CompletedProcess(node.process.args, node.process.returncode, node.stdout, node.stderr)
            for node in self.members
        ]

    def printed(self) -> str:
        """All that the nodes printed, for whoever reads why a test failed."""
        return "\n".join(f"node {node.rank}:\n{node.stdout}{node.stderr}" for node in self.members)

    def kill(self) -> None:
        """Ends what still runs, with all that it started in its session."""
        for node in self.members:
            with suppress(ProcessLookupError):
                os.killpg(node.process.pid, signal.SIGKILL)
            node.process.wait()


@contextmanager
def started_nodes(
    count: int,
    arguments: Sequence[object],
    folder: Path,
    hosts: Hosts | None = None,
    environment: Mapping[str, str] | None = None,
    of_node: Mapping[int, Mapping[str, str]] | None = None,
    only: Sequence[int] | None = None,
) -> Iterator[Nodes]:
    """``llmbench ARGUMENTS --nnodes N --node-rank I --master-addr … --master-port …`` for each node.

    Args:
        folder: each node works in a folder ``node{rank}`` of it.
        hosts: node ``i`` runs on host ``i``; None: all are processes of this machine.
        of_node: further variables of single nodes, by node rank.
        only: node ranks to start; the others never come.
    """
    address, port = (hosts.name(0) if hosts else "127.0.0.1"), free_port()
    nodes = Nodes([])
    try:
        for rank in range(count) if only is None else only:
            place = ["--nnodes", count, "--node-rank", rank, "--master-addr", address, "--master-port", port]
            own = folder / f"node{rank}"
            own.mkdir(parents=True, exist_ok=True)
            variables = with_checkout(environment) | dict((of_node or {}).get(rank, {}))
            with (own / "stdout").open("w") as stdout, (own / "stderr").open("w") as stderr:
                command = llmbench_command(*arguments, *place)
                process = _start(hosts, rank, command, variables, own, stdout, stderr)
            nodes.members.append(Node(rank, process, own))
        yield nodes
    finally:
        nodes.kill()


def run_nodes(
    count: int,
    arguments: Sequence[object],
    folder: Path,
    hosts: Hosts | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 240,
    of_node: Mapping[int, Mapping[str, str]] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """Starts the nodes and waits for all; how each ended, by node rank."""
    with started_nodes(count, arguments, folder, hosts, environment, of_node) as nodes:
        return nodes.wait(seconds)


def free_port() -> int:
    """A port that is free on this machine now; on fresh hosts any is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: int = server.getsockname()[1]
    return found


def _start(
    hosts: Hosts | None,
    rank: int,
    command: list[str],
    environment: Mapping[str, str],
    cwd: Path,
    stdout: IO[str],
    stderr: IO[str],
) -> subprocess.Popen[str]:
    if hosts is not None:
        return hosts.start(rank, command, environment, cwd, stdout, stderr)
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
