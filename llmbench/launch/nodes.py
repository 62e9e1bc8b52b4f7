"""Several nodes as one target: node 0 trains what needs one process alone, and leads in what needs more.

The nodes of a case start their ranks at the same time. If one fails, those of all others are ended at once, and the
reason that is kept is that of the first.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench.cluster.channel import Asking, Leader
from llmbench.errors import UserError
from llmbench.launch.first_node import FirstNode, described
from llmbench.launch.share import fill, free_port, interface_of, unpacked
from llmbench.launch.target import Outcome, Target
from llmbench.launch.together import Part, is_consequence, together
from llmbench.launch.trains import Needs, OnEvent, Waited
from llmbench.results.schema import Node

PREPARE_SECONDS = 3600.0  # data may have to be fetched
MEET_SECONDS = 120.0  # for the launchers of all nodes to find each other
FILE_SECONDS = 600.0  # for each part of a file
PART_BYTES = 8 << 20
LATE_SECONDS = 15.0  # for a node to tell how its share ended, beyond its deadline
OWN_SECONDS = 3.0  # for a node to tell by itself what another only is a consequence of
LOOK_SECONDS = 0.2


class Nodes(FirstNode):
    """Node 0 and those that follow it.

    Args:
        leader: all have joined it.
        local: the interpreter of node 0.
        processes: by node, the ranks that it can take.
    """

    def __init__(self, leader: Leader, local: Target, processes: Sequence[int]) -> None:
        super().__init__(local)
        self._leader, self._processes = leader, list(processes)
        self._files: dict[tuple[str, int, int], str] = {}
        self._running: Asking | None = None
        self._number = 0

    def begin(self, preload: Sequence[str]) -> None:
        """Lets all start their interpreters."""
        self._leader.start({node: {"do": "begin", "preload": list(preload)} for node in self._others()})

    def prepare(self, needs: Needs) -> list[Node]:
        """Makes all nodes ready.

        Raises:
            UserError: one cannot have what the cases need, has other data, or is not what it was when the run began.
        """
        request = {
            "do": "prepare",
            "cases": [planned.model_dump(mode="json") for planned in needs.cases],
            "data": needs.data,
            "device": needs.device,
        }
        replies = self._leader.ask(dict.fromkeys(self._others(), request), PREPARE_SECONDS)
        for node, reply in replies.items():
            if reply.value is None:
                raise UserError(f"{self._name(node)}: {reply.reason}", "every node needs what node 0 has")
            for name, sha256 in needs.sha256.items():
                if reply.value["sha256"].get(name) != sha256:
                    raise UserError(
                        f"{self._name(node)} has other data than node 0: {name}",
                        "the same --data, llmbench and tokenizers on every node",
                    )
        others = [(replies[node].value or {})["environment"] for node in self._others()]
        nodes = range(self._leader.place.nnodes)
        return described(
            [self._leader.hosts[node] for node in nodes],
            [self._leader.addresses.get(node) for node in nodes],
            self._processes,
            [needs.environment, *others],
            needs.nodes,
        )

    def run(
        self,
        job: dict[str, Any],
        log: Path,
        deadline: float,
        on_event: OnEvent = lambda event: None,
        waited: Waited = lambda: 0.0,
    ) -> Outcome:
        """Does one job: see ``Target.run``. One that fits on node 0 is done there alone."""
        counts = fill(job["world_size"], self._processes) if job.get("distributed") else [1]
        if sum(counts) < job.get("world_size", 1):
            return Outcome(result={"unavailable": self._no_room(job["world_size"])}, code=0)
        if len(counts) == 1:
            return self._local.run(job, log, deadline, on_event, waited)
        job = job | {"files": self._files_of(job)}
        shares = self._shares(counts, job)
        reasons = {node: why for node, why in self._leader.lost.items() if node in shares}
        reasons = reasons or self._deliver(job["files"], [node for node in shares if node > 0])
        if reasons:
            return together([self._part(node, shares[node], None, why) for node, why in reasons.items()], log)
        return self._all_together(job, shares, log, deadline, on_event, waited)

    def steps_done(self) -> int | None:
        return self._local.steps_done()

    def kill_job(self) -> None:
        self._local.kill_job()
        self._stop()

    def _all_together(
        self,
        job: dict[str, Any],
        shares: Mapping[int, dict[str, Any]],
        log: Path,
        deadline: float,
        on_event: OnEvent,
        waited: Waited,
    ) -> Outcome:
        number = self._number = self._number + 1
        request = {"do": "run", "deadline": deadline, "name": log.stem, "number": number}
        others = {node: request | {"job": job | {"share": share}} for node, share in shares.items() if node > 0}
        forked: set[int] = set()

        def tell(event: dict[str, Any]) -> None:
            if event["event"] == "rank":
                forked.add(event["rank"])
                if len(forked) == shares[0]["ranks"]:
                    self._leader.start({node: {"do": "go", "number": number} for node in others})
            on_event(event)

        asking = self._running = self._leader.start(others)
        own = {key: value for key, value in job.items() if key != "files"} | {"share": shares[0]}
        try:
            with _Watch(asking, self._local.kill_job, self._stop) as watch:
                outcome = self._local.run(own, log, deadline, tell, waited)
            self._gather(asking, watch, outcome, deadline)
        except BaseException:  # an interrupt: it is to end there, too
            self._stop()
            raise
        finally:
            self._running = None
        evidence = Path(job["evidence"]) if job.get("evidence") else None
        parts = [self._part(0, shares[0], outcome, None, stopped=watch.killed)]
        for node, reply in sorted(asking.replies.items()):
            stopped = bool(reply.value and reply.value.pop("stopped"))
            found = unpacked(reply.value, log, node, evidence) if reply.value else None
            parts.append(self._part(node, shares[node], found, reply.reason, stopped=stopped))
        return together(parts, log)

    def _gather(self, asking: Asking, watch: _Watch, outcome: Outcome, deadline: float) -> None:
        """Waits for the others; if the job failed here or on one of them, no longer than they need to be stopped."""
        seconds = max(0.0, deadline - outcome.wall_seconds) + LATE_SECONDS
        if watch.killed:
            seconds = LATE_SECONDS
        elif failed(outcome) and not outcome.timed_out:
            if is_consequence(outcome):
                asking_until(asking, OWN_SECONDS, lambda: bool(bad(asking)))
            self._stop()
            seconds = LATE_SECONDS
        asking_until(asking, seconds, lambda: bool(bad(asking)))
        if bad(asking):
            self._stop()
        asking.wait(LATE_SECONDS)

    def _stop(self) -> None:
        """Ends the ranks of the other nodes."""
        if self._running is not None:
            self._leader.start({node: {"do": "stop", "number": self._number} for node in self._others()})

    def _shares(self, counts: Sequence[int], job: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        address = self._leader.addresses[0]
        host = address if ":" not in address else self._leader.place.master_addr
        compiled: str | None = job.get("inductor_cache")
        alike = {
            "nodes": len(counts),
            "endpoint": f"{host}:{free_port()}",
            "run_id": uuid.uuid4().hex,
            "join_seconds": MEET_SECONDS,
            "cold": compiled is not None and not any(Path(compiled).iterdir()),
        }
        own = {"address": address, "interface": interface_of(address), "gate": None}
        firsts = [sum(counts[:node]) for node in range(len(counts))]
        return {
            node: alike | {"node": node, "first_rank": firsts[node], "ranks": count} | (own if node == 0 else {})
            for node, count in enumerate(counts)
        }

    def _files_of(self, job: Mapping[str, Any]) -> dict[str, str]:
        """Files that node 0 made and all ranks read, with their sha256."""
        paths = [path for path in (job["data"].get("base"), job.get("gradients")) if path]
        return {path: self._sha256(Path(path)) for path in paths}

    def _sha256(self, file: Path) -> str:
        about = file.stat()
        key = (str(file), about.st_mtime_ns, about.st_size)
        if key not in self._files:
            with open(file, "rb") as data:
                self._files[key] = hashlib.file_digest(data, "sha256").hexdigest()
        return self._files[key]

    def _deliver(self, files: Mapping[str, str], nodes: Sequence[int]) -> dict[int, str]:
        """Sends files to the nodes that lack them; by node, why one cannot have them."""
        for path, sha256 in files.items():
            replies = self._leader.ask({node: {"do": "have", "sha256": sha256} for node in nodes}, FILE_SECONDS)
            missing = [node for node, reply in replies.items() if reply.value and not reply.value["have"]]
            reasons = {node: reply.reason for node, reply in replies.items() if reply.reason}
            reasons |= self._send(Path(path), sha256, missing) if missing and not reasons else {}
            if reasons:
                return reasons
        return {}

    def _send(self, file: Path, sha256: str, nodes: Sequence[int]) -> dict[int, str]:
        size, sent = file.stat().st_size, 0
        with open(file, "rb") as data:
            while part := data.read(PART_BYTES):
                request = {"do": "take", "sha256": sha256, "first": sent == 0}
                sent += len(part)
                request |= {"last": sent >= size, "part": base64.b64encode(part).decode()}
                replies = self._leader.ask(dict.fromkeys(nodes, request), FILE_SECONDS)
                reasons = {node: reply.reason for node, reply in replies.items() if reply.reason}
                if reasons:
                    return reasons
        return {}

    def _part(
        self, node: int, share: Mapping[str, Any], outcome: Outcome | None, reason: str | None, *, stopped: bool = False
    ) -> Part:
        lost = node in self._leader.lost
        return Part(node, self._leader.hosts[node], share["first_rank"], outcome, reason, lost=lost, stopped=stopped)

    def _others(self) -> range:
        return range(1, self._leader.place.nnodes)

    def _name(self, node: int) -> str:
        return f"node {node} ({self._leader.hosts[node]})"

    def _no_room(self, world_size: int) -> str:
        room = sum(self._processes)
        return (
            f"{world_size} ranks do not fit on {len(self._processes)} nodes with room for {room}: "
            "a smaller --world-size, or more with --nproc-per-node"
        )


class _Watch:
    """Looks after the other nodes while the job runs here; if one of them fails, it is ended here and everywhere."""

    def __init__(self, asking: Asking, kill: Callable[[], None], stop: Callable[[], None]) -> None:
        self._asking, self._kill, self._stop = asking, kill, stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.killed = False

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set() and not bad(self._asking):
            if self._asking.poll(LOOK_SECONDS):
                self._over.wait(LOOK_SECONDS)
        if self._over.is_set():
            return
        if not any(_is_cause(reply.value) for reply in self._asking.replies.values()):
            self._over.wait(OWN_SECONDS)  # the cause is likely to be here, and about to be told
        self._stop()
        while not self._over.wait(LOOK_SECONDS):  # it may be about to start only now
            self.killed = True
            self._kill()


def failed(outcome: Outcome) -> bool:
    return outcome.code != 0 or outcome.result is None or bool({"error", "unavailable"} & outcome.result.keys())


def bad(asking: Asking) -> list[int]:
    """Nodes whose share has failed, so far."""
    return [node for node, reply in list(asking.replies.items()) if reply.value is None or _failed(reply.value)]


def asking_until(asking: Asking, seconds: float, enough: Callable[[], bool]) -> None:
    """Waits until all have answered, or it is enough, or time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not enough():
        if asking.poll(LOOK_SECONDS):
            return


def _failed(message: Mapping[str, Any]) -> bool:
    result = message["result"]
    return message["code"] != 0 or result is None or bool({"error", "unavailable"} & result.keys())


def _is_cause(message: Mapping[str, Any] | None) -> bool:
    """Whether a node failed by itself, as far as can be told, and not since another did."""
    if message is None:
        return True  # it is lost
    return _failed(message) and not is_consequence(message["result"])
