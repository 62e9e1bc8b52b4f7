"""``llmbench doctor --nodes`` on one of the nodes: node 0 asks and tells, the others answer."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llmbench.cluster.channel import JOIN_SECONDS, Follower, Leader, LeaderLost
from llmbench.cluster.place import Place, find_place
from llmbench.doctor.checks import all_checks
from llmbench.doctor.checks.nodes_ports import TAKEN
from llmbench.doctor.model import Answer
from llmbench.doctor.network import OWN_PORTS
from llmbench.doctor.nodes.ask import Gathered, gather
from llmbench.doctor.nodes.cluster import Cluster
from llmbench.doctor.nodes.document import document
from llmbench.doctor.nodes.serve import Asked, Node, ordinary
from llmbench.doctor.runner import find_interpreter
from llmbench.errors import UserError
from llmbench.start import complain

if TYPE_CHECKING:
    from llmbench.doctor.command import Options

FROM_ENVIRONMENT = "environment"
"""What stands for ``--nodes`` without a number."""
_WAIT_SECONDS = 15.0


def where(options: Options) -> Place:
    """Which node this is.

    Raises:
        UserError: neither the options nor the environment say it.
    """
    given = options.nodes or FROM_ENVIRONMENT
    if given != FROM_ENVIRONMENT and not (given.isascii() and given.isdigit() and int(given) > 0):
        raise UserError(f"--nodes {given}: not a number of nodes", "--nodes 4, the same on every node")
    try:
        return find_place(
            os.environ,
            None if given == FROM_ENVIRONMENT else int(given),
            options.node_rank,
            options.nproc_per_node,
            options.master_addr,
            options.master_port,
        )
    except UserError as error:  # here the option has another name
        words = [text and text.replace("--nnodes", "--nodes") for text in (error.message, error.hint)]
        raise UserError(words[0] or "", words[1]) from None


def diagnose_nodes(options: Options, asked: Asked) -> dict[str, Any] | int:
    """Does this node's part.

    Returns:
        the document on node 0, on the others the exit code.

    Raises:
        UserError: the nodes cannot meet, or an option names what there is not.
    """
    place, python = where(options), find_interpreter(options.python)
    ordinary(asked)
    join_seconds = JOIN_SECONDS if options.join_seconds is None else options.join_seconds
    with Node(python, place.node_rank) as node, contextlib.redirect_stdout(io.StringIO()):
        if place.leads:
            return _lead(place, node, asked, join_seconds)
        return _follow(place, node, join_seconds)


def _lead(place: Place, node: Node, asked: Asked, join_seconds: float) -> dict[str, Any]:
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def told(found: Gathered, hosts: dict[int, str], addresses: dict[int, str], lost: dict[int, str]) -> dict[str, Any]:
        seconds = time.monotonic() - started
        return document(
            found,
            hosts,
            addresses,
            lost,
            nnodes=place.nnodes,
            deep=asked.deep,
            started_at=started_at,
            seconds=seconds,
        )

    try:
        leader = Leader(place, {}, node.handlers(), join_seconds, _waiting(place))
    except UserError as error:
        if "in use" not in error.message:
            raise
        return told(_port_taken(place, error.message), {0: os.uname().nodename}, {}, {})
    OWN_PORTS.add(place.master_port)
    with leader, _Status() as status:
        missing: list[int] = []
        try:
            leader.join()
        except UserError:  # who came is checked all the same
            missing = leader.missing()
        cluster = Cluster(leader, asked.patience)
        found = gather(cluster, place, asked, join_seconds, missing, status)
        return told(found, leader.hosts, leader.addresses, leader.lost)


def _port_taken(place: Place, reason: str) -> Gathered:
    check = next(check for check in all_checks() if check.id == TAKEN.check)
    finding = TAKEN.found(f"{os.uname().nodename}: {reason}; nothing was checked", port=place.master_port)
    return Gathered(answers=[Answer(check, (finding,), 0.0)])


def _follow(place: Place, node: Node, join_seconds: float) -> int:
    with Follower(place, {}, join_seconds) as follower:
        try:
            reason = follower.serve(node.handlers())
        except LeaderLost as lost:
            raise UserError(str(lost), "it tells there why; what was found is lost with it") from None
    if reason:
        complain(f"llmbench: node 0 was {reason}")
        return 130
    complain(f"node {place.node_rank} of {place.nnodes} ({os.uname().nodename}): {node.summary}; node 0 tells the rest")
    return 0


def _waiting(place: Place) -> Callable[[list[int]], None]:
    """Says now and then for whom it waits, and where they are expected."""
    last = time.monotonic()

    def wait(missing: list[int]) -> None:
        nonlocal last
        if time.monotonic() - last > _WAIT_SECONDS:
            last = time.monotonic()
            shown = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
            complain(f"waiting for node {shown} of {place.nnodes} at {place.master_addr}:{place.master_port}")

    return wait


class _Status:
    """In a terminal one line that says what is being done, gone at the end."""

    def __enter__(self) -> _Status:
        self._stream = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
        return self

    def __exit__(self, *_: object) -> None:
        self("")

    def __call__(self, what: str) -> None:
        if self._stream is not None:
            self._stream.write(f"\r\x1b[K{what}")
            self._stream.flush()
