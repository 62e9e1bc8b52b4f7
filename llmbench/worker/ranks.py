"""The processes of a parallel case, started and watched over by torch's elastic launcher.

The child of the server becomes the launcher's agent and forks the ranks: they have torch imported, and CUDA untouched.
Every rank does the job by itself and writes what came out; what it wrote, or how it died, becomes one result here.
Of a case on several nodes every node has an agent, for its share of the ranks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from llmbench.worker import evidence
from llmbench.worker.events import Events, OfRank
from llmbench.worker.faults import Unavailable
from llmbench.worker.process import die_with, write_json

Job = dict[str, Any]
MONITOR_SECONDS = 0.1
# A rank that raised waits before it leaves: it may only have missed one that died, which the launcher is to see first.
STAY_SECONDS = 10 * MONITOR_SECONDS
FORK_SECONDS = 300.0
GATE_SECONDS = 0.02  # between looks at whether the gate is open


def run_ranks(job: Job, events: Events, work: Callable[[Job, Events], dict[str, Any]]) -> dict[str, Any]:
    """Does a job in ``job["world_size"]`` processes, or this node's share of it.

    Args:
        job: with ``share`` where several nodes do it together: ``node`` of ``nodes``, ``first_rank`` and ``ranks``
            (how many are here), ``endpoint`` (HOST:PORT on the first node, where they meet), ``address`` (of this
            node), ``interface`` (of the network for gloo, or None), ``join_seconds``, ``run_id``, and ``gate``: a file
            for which the ranks wait, or None.
        work: what every rank does; its result is a dictionary, and may be an ``error`` or ``unavailable``.

    Returns:
        The result of the first rank here, with ``ranks``: the part ``rank`` of each one's; or the error of the rank
        that failed first, with ``rank`` and ``host``.

    Raises:
        Unavailable: there are fewer devices than ranks.
    """
    share = job.get("share")
    ranks = _ranks_here(job)
    size = len(ranks)
    if job["device"] == "cuda" and torch.cuda.device_count() < size:
        found = torch.cuda.device_count()
        here = f" on {socket.gethostname()}" if share else ""
        raise Unavailable(f"{size} ranks{here} need {size} CUDA devices, there are {found}: a smaller --world-size")
    died = None
    try:
        with evidence.exits_of(job.get("evidence"), size):
            if share:
                launch_share(share, _rank, job, events, work)
            else:
                launch_on_this_host(size, _rank, job, events, work)
    except ChildFailedError as error:
        died = error.get_first_failure()
    results = {rank: _read(job, rank) for rank in ranks}
    return _merge(results, died and (died[0], died[1].exitcode))


def _ranks_here(job: Job) -> range:
    share = job.get("share")
    return range(share["first_rank"], share["first_rank"] + share["ranks"]) if share else range(job["world_size"])


def launch_on_this_host(size: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in so many processes here, forked from this one. If one fails, or this one dies, all end.

    Raises:
        ChildFailedError: one failed.
    """
    if sys.platform.startswith("linux"):
        # All ranks are on this host, whose name need not lead anywhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=MONITOR_SECONDS,
        start_method="fork",
    )
    _launch(config, None, function, arguments)


def launch_share(share: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in this node's processes of a job that several nodes do together.

    Args:
        share: see ``run_ranks``. The order of the nodes is the order of their ranks.

    Raises:
        ChildFailedError: one of this node's failed. What happens on other nodes is not seen here.
        DistError: the nodes did not meet in time.
    """
    if share["interface"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", share["interface"])
    config = LaunchConfig(
        min_nodes=share["nodes"],
        max_nodes=share["nodes"],
        nproc_per_node=share["ranks"],
        run_id=share["run_id"],
        rdzv_backend="static",  # the node's rank is the one it is given
        rdzv_endpoint=share["endpoint"],
        rdzv_configs={"rank": share["node"], "timeout": share["join_seconds"]},
        local_addr=share["address"],
        max_restarts=0,
        monitor_interval=MONITOR_SECONDS,
        start_method="fork",
    )
    _launch(config, share["gate"], function, arguments)


def _launch(config: LaunchConfig, gate: str | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    all_forked = multiprocessing.get_context("fork").Barrier(config.nproc_per_node)
    elastic_launch(config, _when_all_are_forked)(os.getpid(), all_forked, gate, function, arguments)


def _when_all_are_forked(
    agent: int, all_forked: Barrier, gate: str | None, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Keeps a rank from the launcher's store until the launcher has forked the last one.

    The store looks the name of each peer up in a thread of the launcher: a rank forked at that moment has a copy of the
    resolver's lock that nobody will ever release, and hangs in its first getaddrinfo. The store is on the first node:
    the ranks of others wait at their gate, which is opened when those of the first are forked.
    """
    die_with(agent)
    all_forked.wait(FORK_SECONDS)
    if gate:
        _wait_for(gate)
    function(*arguments)


def _wait_for(gate: str) -> None:
    end = time.monotonic() + FORK_SECONDS
    while not os.path.exists(gate):
        if time.monotonic() > end:
            raise TimeoutError(f"the ranks of the first node did not start within {FORK_SECONDS:.0f} s")
        time.sleep(GATE_SECONDS)


def _rank(job: Job, events: Events, work: Callable[[Job, Events], dict[str, Any]]) -> None:
    """What runs in each rank's process."""
    # The agent's own handler would turn its goodbye into an exception, which one who waits in C++ never sees.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rank = int(os.environ["RANK"])
    log = os.open(_log_of(job["log"], rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    events = OfRank(events, rank)
    events.send("rank", pid=os.getpid(), host=socket.gethostname())
    with evidence.open_for(job, rank) as kept:
        result = work(job, kept.follow(events))
        if "error" in result:
            kept.error(result["error"])
        write_json(_result_of(job, rank), result)
        kept.end(1 if _failed(result) else 0)
    if _failed(result):
        sys.stderr.flush()
        time.sleep(STAY_SECONDS)
        os._exit(1)


def _failed(result: dict[str, Any]) -> bool:
    return "error" in result or "unavailable" in result


def _log_of(log: str, rank: int) -> str:
    stem, extension = os.path.splitext(log)
    return f"{stem}.rank{rank}{extension}"


def _result_of(job: Job, rank: int) -> str:
    return f"{job['result']}.{rank}"


def _read(job: Job, rank: int) -> dict[str, Any]:
    try:
        with open(_result_of(job, rank), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}  # it died before it could write


def _merge(results: dict[int, dict[str, Any]], died: tuple[int, int] | None) -> dict[str, Any]:
    """All results of this node as one.

    Args:
        results: by rank.
        died: rank and exit code (negative for a signal) of the one that ended badly first; it stopped all others.
    """
    host = socket.gethostname()
    if died and not _failed(results[died[0]]):
        rank, code = died
        return {"error": ({"signal": -code} if code < 0 else {"exit": code}) | {"rank": rank, "host": host}}
    unavailable = next((result for result in results.values() if "unavailable" in result), None)
    if unavailable:
        return unavailable
    raised = [(result["error"]["at"], rank) for rank, result in results.items() if "error" in result]
    if raised:
        rank = min(raised)[1]
        return {"error": results[rank]["error"] | {"rank": rank, "host": host}}
    return results[min(results)] | {"ranks": [result["rank"] for result in results.values()]}
