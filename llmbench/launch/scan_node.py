"""What every node does in a scan: its own tests and its half of pair tests, each in a fresh process, as node 0 asks."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from llmbench.cluster.channel import Handler, Send
from llmbench.errors import UserError
from llmbench.launch.target import Outcome, Target, signal_name

PRELOAD = (
    "torch.distributed",
    "llmbench.worker.case",
    "llmbench.worker.lockstep",
    "llmbench.worker.measure.alone",
    "llmbench.worker.measure.network",
    "llmbench.worker.measure.peaks",
)
LONGEST_REASON = 300  # characters
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """What is the same on all nodes that run on one machine, such as containers, and on no other."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def handlers(target: Target) -> dict[str, Handler]:
    """By what node 0 may ask for."""
    node = _Node(target)
    return {"ready": node.ready, "solo": node.solo, "port": node.port, "pair": node.pair}


class _Node:
    """Does one job at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._busy = threading.Lock()

    def ready(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        with self._busy:
            return self._target.ready()

    def port(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """A port that is free here now."""
        with socket.create_server(("", 0)) as server:
            return {"port": server.getsockname()[1]}

    def solo(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        return self._do(request, {"kind": "scan_solo"})

    def pair(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        return self._do(request, {"kind": "scan_pair", "interface": _interface_of(request["own_address"])})

    def _do(self, request: dict[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
        """Raises: UserError: there is no result; it says why."""
        deadline, cancelled = request["deadline"], request["cancelled"]
        with self._busy, tempfile.TemporaryDirectory(prefix="llmbench-scan-") as folder:
            if cancelled.is_set():
                raise UserError("it was cancelled")
            with _killed_when(cancelled, self._target):
                outcome = self._target.run(request["job"] | job, Path(folder) / "log", deadline)
            return _result(outcome, deadline)


@contextmanager
def _killed_when(cancelled: threading.Event, target: Target) -> Iterator[None]:
    """Within, the job in flight is killed once nobody waits for it any more."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if cancelled.is_set():
                target.kill_job()  # again and again: it may not have begun yet

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _interface_of(address: str) -> str | None:
    """The network interface that has an address; None if none is known to have it."""
    return next(
        (
            name
            for name, addresses in psutil.net_if_addrs().items()
            if any(address == known.address.split("%")[0] for known in addresses)
        ),
        None,
    )


def _result(outcome: Outcome, deadline: float) -> dict[str, Any]:
    result = outcome.result or {}
    if "error" in result:
        error = result["error"]
        lines = str(error["message"]).splitlines() or ["no message"]
        raise UserError(f"{error['type']}: {lines[0][:LONGEST_REASON]}")
    if "unavailable" in result:
        raise UserError(result["unavailable"])
    if outcome.timed_out:
        raise UserError(f"no end within {deadline:g} s, in phase {outcome.phase}")
    if outcome.code is None:
        raise UserError("its server process died")
    if outcome.code < 0:
        why = ", for want of memory" if outcome.oom_killed else ""
        raise UserError(f"its process was killed by {signal_name(-outcome.code)}{why}, in phase {outcome.phase}")
    if outcome.result is None:
        raise UserError(f"its process left with exit code {outcome.code}, without a result")
    return result
