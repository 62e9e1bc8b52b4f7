"""The nodes of a SLURM allocation as one target: what needs one process runs here, each parallel case is one step.

This process is on the first node, in the script of the job. srun starts every rank by itself; what the ranks are about
is read from the evidence that they leave on the shared disk, and how they ended from srun's words.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbench.cluster.allocation import Allocation, down_hosts
from llmbench.errors import UserError
from llmbench.launch.first_node import FirstNode, described
from llmbench.launch.share import free_port
from llmbench.launch.shared_files import APPEAR_SECONDS, SharedFiles, appears
from llmbench.launch.srun_words import Told
from llmbench.launch.step import Layout, Step, command
from llmbench.launch.step_ranks import StepRanks, node_lost
from llmbench.launch.target import STACK_SECONDS, Outcome, Target
from llmbench.launch.trains import Needs, OnEvent, Waited
from llmbench.launch.vanished import Vanished
from llmbench.paths import PACKAGE
from llmbench.results.schema import Node

DESCRIBE_SECONDS = 600.0  # for all nodes to import torch, from a cold network disk
LOOK_SECONDS = 0.2
OTHERS_SECONDS = 5.0  # for srun to end the other ranks after one has ended badly


class Steps(FirstNode):
    """An allocation of SLURM.

    Args:
        local: the interpreter on this, the first node.
        per_node: ranks that each node takes.
        run: the folder of the run, on a disk that the nodes share.
        folder: in which the ranks work; by default that of this process.
    """

    def __init__(
        self, allocation: Allocation, local: Target, per_node: int, run: Path, folder: str | None = None
    ) -> None:
        super().__init__(local)
        self._allocation, self._per_node, self._run = allocation, per_node, run.absolute()
        self._folder = folder
        self._files = SharedFiles(run)
        self._lost: dict[str, str] = {}
        self._step: Step | None = None
        self._ranks: StepRanks | None = None
        self._number = 0

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_job()
        self._files.remove()

    def prepare(self, needs: Needs) -> list[Node]:
        """Asks every node what it is.

        Raises:
            UserError: a node cannot train, does not see the folder of the run, or is not what it was before.
        """
        folder = self._run / ".nodes"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            found = self._describe(needs.device, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return described(
            [each["host"] for each in found],
            [_address(host) for host in self._allocation.hosts],
            [self._per_node] * len(found),
            [each["environment"] for each in found],
            needs.nodes,
        )

    def _describe(self, device: str, folder: Path) -> list[dict[str, Any]]:
        module = [sys.executable, "-m", "llmbench.launch.describe_node", self.python, device, str(folder.resolve())]
        layout, log = Layout(self._allocation.hosts, 1), self._run / "logs" / "preparation.log"
        step = Step(command(layout, "llmbench-describe", DESCRIBE_SECONDS, module), os.environ, log)
        try:
            late = not step.wait(DESCRIBE_SECONDS)
        finally:
            step.end()
        found = []
        for node, host in enumerate(layout.hosts):
            file = folder / f"node{node}.json"
            if not appears(file, time.monotonic() + (APPEAR_SECONDS if step.code == 0 else 0.0)):
                why = step.told.lost.get(host) or step.told.refused or ("no answer" if late else "see " + str(log))
                raise UserError(
                    f"node {node} ({host}) did not tell what it is: {why}",
                    "every node must see this folder, this Python and llmbench at the same paths",
                )
            said = json.loads(file.read_text(encoding="utf-8"))
            if "error" in said:
                raise UserError(f"node {node} ({host}): {said['error']}", "every node needs what the first has")
            found.append(said)
        return found

    def run(
        self,
        job: dict[str, Any],
        log: Path,
        deadline: float,
        on_event: OnEvent = lambda event: None,
        waited: Waited = lambda: 0.0,
    ) -> Outcome:
        """Does one job: see ``Target.run``. One that fits on this node is done here alone."""
        if not job.get("distributed") or job["world_size"] <= self._per_node:
            return self._local.run(job, log, deadline, on_event, waited)
        layout = self._layout(job["world_size"])
        if isinstance(layout, str):
            return Outcome(result={"unavailable": layout}, code=0, log=log)
        gone = {host: why for host, why in self._lost.items() if host in layout.hosts}
        if gone:
            return Outcome(result=node_lost(layout, *next(iter(gone.items()))), code=1, log=log)
        self._number += 1
        folder = log.resolve().with_name(f".{log.stem}.step{self._number}")
        folder.mkdir(parents=True)
        try:
            return self._as_step(job, layout, folder, log, deadline, on_event, waited)
        finally:
            self._step = self._ranks = None
            shutil.rmtree(folder, ignore_errors=True)

    def _layout(self, size: int) -> Layout | str:
        """Where so many ranks go; why they go nowhere."""
        hosts = self._allocation.hosts
        if size > self._per_node * len(hosts):
            return (
                f"{size} ranks do not fit on {len(hosts)} nodes with {self._per_node} each: "
                "a smaller --world-size, or more with --nproc-per-node"
            )
        if size % self._per_node:
            return f"{size} ranks on nodes with {self._per_node} each: a --world-size that is a multiple of it"
        return Layout(hosts[: size // self._per_node], self._per_node)

    def _as_step(
        self,
        job: dict[str, Any],
        layout: Layout,
        folder: Path,
        log: Path,
        deadline: float,
        on_event: OnEvent,
        waited: Waited,
    ) -> Outcome:
        name = f"llmbench-{self._number}"
        evidence = Path(job.get("evidence") or folder / "evidence")
        told = {
            "job": self._files.of(job) | {"evidence": str(evidence)},
            "folder": str(folder),
            "log": str(log.resolve()),
            "master_addr": self._allocation.master_address(),
            "master_port": free_port(),
            "local_world_size": layout.per_host,
            "hosts": list(layout.hosts),
            "step": self._number,
        }
        file = folder / "job.json"
        file.write_text(json.dumps(told), encoding="utf-8")
        ranks = self._ranks = StepRanks(layout, evidence, folder, log, on_event)
        work = [self.python, str(PACKAGE / "worker" / "start.py"), "--rank", str(file)]
        begin = time.monotonic()
        step = self._step = Step(command(layout, name, deadline, work), self.environ, log, self._folder)
        try:
            timed_out = self._watch(step, layout, ranks, lambda: begin + deadline + waited())
        finally:
            step.end()
        step.told.lost |= _silent(step.told, layout) or (down_hosts(layout.hosts) if step.told.refused else {})
        outcome = ranks.outcome(step.told, timed_out)
        outcome.wall_seconds = time.monotonic() - begin
        if outcome.code is None:
            outcome.code = step.code
        self._lost |= {host: why for host, why in step.told.lost.items() if host in self._allocation.hosts}
        return outcome

    def _watch(self, step: Step, layout: Layout, ranks: StepRanks, deadline: Callable[[], float]) -> bool:
        """Waits for the end of a step; whether it has to be ended since its time is over."""
        failed_at = None
        vanished = Vanished(ranks)
        while not step.wait(LOOK_SECONDS):
            ranks.look()
            step.told.lost |= vanished.look()
            if step.told.lost:
                return False
            if step.told.first:
                failed_at = failed_at or time.monotonic()
                if time.monotonic() > failed_at + OTHERS_SECONDS:  # a node does not do what srun tells it to
                    step.told.lost |= vanished.among(_unheard(step.told, layout))
                    return False
            if time.monotonic() >= deadline():
                step.ask_for_stacks()
                step.wait(STACK_SECONDS)
                return True
        ranks.look()
        return False

    def steps_done(self) -> int | None:
        return self._ranks.steps_done() if self._ranks else self._local.steps_done()

    def kill_job(self) -> None:
        self._local.kill_job()
        if self._step is not None:
            self._step.end()


def _address(host: str) -> str | None:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None  # SLURM finds it, and nobody else needs to


def _silent(told: Told, layout: Layout) -> dict[str, str]:
    """Why a host is lost that did not even tell how its ranks ended, where srun waited for that in vain."""
    if not told.unanswered or not told.ends or told.lost:
        return {}
    return dict.fromkeys(_unheard(told, layout), "it gave SLURM no answer when the step was ended")


def _unheard(told: Told, layout: Layout) -> list[str]:
    """Hosts of which srun has not said how any rank ended."""
    heard = {end.rank for end in told.ends}
    return [host for host in layout.hosts if heard.isdisjoint(layout.ranks(host))]
