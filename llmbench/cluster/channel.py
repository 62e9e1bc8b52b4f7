"""Node 0 asks, the others answer: how the control sides of several nodes work on one thing.

Every node runs the same command. Node 0 leads: it waits until all have joined, and then asks nodes to do what they have
handlers for, all at once. A node whose connection ends, or that is silent for ten seconds, is lost, with the reason.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from llmbench import __version__
from llmbench.cluster.place import Place
from llmbench.cluster.wire import BEAT_SECONDS, Message, Wire, read_line
from llmbench.errors import UserError

PROTOCOL = 1
JOIN_SECONDS = 300.0
HELLO_SECONDS = 10.0
LEAVE_SECONDS = 10.0

Send = Callable[[dict[str, Any]], None]
Handler = Callable[[dict[str, Any], Send], dict[str, Any]]
"""Does what is asked: (request, send event) -> value. ``request["cancelled"]`` is an event to heed."""
OnEvent = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True)
class Reply:
    """What a node answered, or why there is no answer."""

    value: dict[str, Any] | None = None
    reason: str | None = None


class LeaderLost(Exception):  # noqa: N818  it is what happened to another
    """Node 0 is gone, and with it what it was to lead."""


class _Work:
    """Runs handlers, each request in a thread of its own."""

    def __init__(self, handlers: Mapping[str, Handler], send: Callable[[Message], None]) -> None:
        self._handlers, self._send = handlers, send
        self._running: dict[int, tuple[threading.Thread, threading.Event]] = {}
        self._lock = threading.Lock()

    def begin(self, number: int, request: Mapping[str, Any]) -> None:
        cancelled = threading.Event()
        thread = threading.Thread(target=self._do, args=(number, dict(request), cancelled), daemon=True)
        with self._lock:
            self._running[number] = (thread, cancelled)
        thread.start()

    def cancel(self, number: int) -> None:
        with self._lock:
            if number in self._running:
                self._running[number][1].set()

    def end(self, seconds: float = LEAVE_SECONDS) -> None:
        """Cancels all, and waits for it."""
        with self._lock:
            running = list(self._running.values())
        for _, cancelled in running:
            cancelled.set()
        until = time.monotonic() + seconds
        for thread, _ in running:
            thread.join(max(0.0, until - time.monotonic()))

    def _do(self, number: int, request: dict[str, Any], cancelled: threading.Event) -> None:
        try:
            handler = self._handlers.get(request["do"])
            if handler is None:
                raise UserError(f"it cannot {request['do']}: another command runs there", "the same command everywhere")
            value = handler(
                request | {"cancelled": cancelled}, lambda event: self._send({"event": event, "id": number})
            )
            self._send({"reply": value, "id": number})
        except Exception as error:  # whatever it is, the leader is to hear of it and not to wait
            reason = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._send({"failed": reason, "id": number})
        finally:
            with self._lock:
                del self._running[number]


class Asking:
    """Requests under way, one for each node. Events are told in the thread that waits."""

    def __init__(self, leader: Leader, nodes: Sequence[int], number: int, on_event: OnEvent) -> None:
        self._leader, self._number, self._on_event = leader, number, on_event
        self._open = set(nodes)
        self._events: deque[tuple[int, dict[str, Any]]] = deque()
        self._changed = threading.Condition()
        self.replies: dict[int, Reply] = {}

    def poll(self, seconds: float = 0.0) -> bool:
        """Waits so long for something to happen, and tells the events; whether all have answered."""
        with self._changed:
            if self._open and not self._events:
                self._changed.wait(seconds)
            events = [self._events.popleft() for _ in range(len(self._events))]
            done = not self._open
        for node, event in events:
            self._on_event(node, event)
        return done and not self._events

    def wait(self, seconds: float) -> dict[int, Reply]:
        """All replies; after so many seconds those that are missing are given up, with the reason."""
        until = time.monotonic() + seconds
        while not self.poll(max(0.0, min(BEAT_SECONDS, until - time.monotonic()))):
            if time.monotonic() >= until:
                self.cancel(f"no answer within {seconds:g} s")
        return self.replies

    def cancel(self, reason: str) -> None:
        """Gives up what has not been answered, and asks those nodes to stop."""
        with self._changed:
            late = sorted(self._open)
        for node in late:  # first what is kept of it: an answer to being cancelled is none
            self._settle(node, Reply(reason=reason))
            self._leader.tell(node, {"cancel": self._number})

    def _happened(self, node: int, event: dict[str, Any]) -> None:
        with self._changed:
            self._events.append((node, event))
            self._changed.notify_all()

    def _settle(self, node: int, reply: Reply) -> None:
        with self._changed:
            if node in self._open:
                self._open.remove(node)
                self.replies[node] = reply
                self._changed.notify_all()
            if not self._open:
                self._leader._asked.pop(self._number, None)  # who asked has it; a long suite asks for very much


class Leader:
    """Node 0. Use as a context manager: on leaving, the other nodes are told to go.

    Args:
        hello: what this node says of itself, as the others do when they join.
        serve: what this node does itself when it is asked.
        join_seconds: to wait for the others.
        on_wait: told about every second who has not joined yet.

    Raises:
        UserError: the port cannot be used.
    """

    def __init__(
        self,
        place: Place,
        hello: Mapping[str, Any],
        serve: Mapping[str, Handler] | None = None,
        join_seconds: float = JOIN_SECONDS,
        on_wait: Callable[[list[int]], None] = lambda missing: None,
    ) -> None:
        self.place = place
        self.hosts = {0: socket.gethostname()}
        self.addresses: dict[int, str] = {}
        self.lost: dict[int, str] = {}
        self._hellos: dict[int, dict[str, Any]] = {0: dict(hello)}
        self._join_seconds, self._on_wait = join_seconds, on_wait
        self._work = _Work(serve or {}, lambda message: self._heard(0, message))
        self._wires: dict[int, Wire] = {}
        self._asked: dict[int, Asking] = {}
        self._number = 0
        self._numbering = threading.Lock()
        self._joined = threading.Condition()
        self._ended = False
        self._server = _listen(place.master_port)

    def __enter__(self) -> Leader:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        self._server.close()
        for wire in self._wires.values():
            wire.send({"bye": "interrupted" if kind is not None and issubclass(kind, KeyboardInterrupt) else None})
        self._work.end()
        for wire in self._wires.values():
            wire.close()

    def join(self) -> dict[int, dict[str, Any]]:
        """Waits for all nodes; what each said of itself, by node rank.

        Raises:
            UserError: some did not join in time; they are named by rank.
        """
        until = time.monotonic() + self._join_seconds
        while True:
            with self._joined:
                if self.missing() and time.monotonic() < until:
                    self._joined.wait(BEAT_SECONDS)
                missing = self.missing()
            if not missing:
                return dict(self._hellos)
            if time.monotonic() >= until:
                raise UserError(self._absent(missing), self._join_hint())
            self._on_wait(missing)

    def hellos(self) -> dict[int, dict[str, Any]]:
        """What those that have joined so far said of themselves, by node rank; this node included."""
        with self._joined:
            return dict(self._hellos)

    def missing(self) -> list[int]:
        """Node ranks that have not joined yet."""
        return [rank for rank in range(self.place.nnodes) if rank not in self._hellos]

    def ask(
        self,
        requests: Mapping[int, Mapping[str, Any]],
        seconds: float,
        on_event: OnEvent = lambda node, event: None,
    ) -> dict[int, Reply]:
        """Asks nodes, all at once, and waits for all of them; no exception, whatever happens to them.

        Args:
            requests: by node rank, ``{"do": name of a handler, …}``.
            seconds: until what is not answered is given up.
            on_event: told of what they send meanwhile, in this thread.
        """
        return self.start(requests, on_event).wait(seconds)

    def start(self, requests: Mapping[int, Mapping[str, Any]], on_event: OnEvent = lambda node, event: None) -> Asking:
        """The same without waiting."""
        with self._numbering:
            self._number += 1
            number = self._number
        asking = Asking(self, list(requests), number, on_event)
        self._asked[number] = asking
        for node, request in requests.items():
            if node == 0:
                self._work.begin(number, request)
            elif node in self.lost:
                asking._settle(node, Reply(reason=self.lost[node]))
            else:
                self._wires[node].send({"ask": dict(request), "id": number})
                if node in self.lost:  # meanwhile
                    asking._settle(node, Reply(reason=self.lost[node]))
        return asking

    def tell(self, node: int, message: Mapping[str, Any]) -> None:
        """Sends a message that needs no answer."""
        if node == 0:
            self._work.cancel(message["cancel"])
        elif node not in self.lost:
            self._wires[node].send(message)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed: it is over
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        try:
            hello = read_line(connection, HELLO_SECONDS)
        except (OSError, ValueError):
            connection.close()  # somebody else, who looked whether the port is open
            return
        with self._joined:
            reason = self._refusal(hello)
            rank: int = hello.get("node_rank", 0)
            wire = Wire(connection, lambda message: self._heard(rank, message), lambda why: self._lose(rank, why))
            wire.send({"refused": reason} if reason else {"welcome": True})
            if reason:
                wire.close()
                return
            self._wires[rank] = wire
            self._hellos[rank] = hello["says"]
            self.hosts[rank] = hello["host"]
            self.addresses[rank] = wire.peer_address
            self.addresses.setdefault(0, wire.own_address)
            wire.start()
            self._joined.notify_all()

    def _refusal(self, hello: Message) -> str | None:
        rank = hello.get("node_rank")
        if hello.get("protocol") != PROTOCOL:
            return f"llmbench {__version__} leads, {hello.get('llmbench')} cannot follow it: install the same"
        if hello.get("nnodes") != self.place.nnodes:
            return f"node 0 was started with {self.place.nnodes} nodes, this one with {hello.get('nnodes')}"
        if not isinstance(rank, int) or not 0 < rank < self.place.nnodes:
            return f"there is no node {rank} of {self.place.nnodes}"
        if rank in self._hellos:
            return f"node {rank} has joined already, from {self.hosts[rank]}: two nodes have the same rank"
        return None

    def _heard(self, node: int, message: Message) -> None:
        asking = self._asked.get(message.get("id", 0))
        if asking is None:
            return
        if "event" in message:
            asking._happened(node, message["event"])
        elif "failed" in message:
            asking._settle(node, Reply(reason=message["failed"]))
        else:
            asking._settle(node, Reply(value=message["reply"]))

    def _lose(self, node: int, reason: str) -> None:
        if self._ended:
            return
        self.lost[node] = reason
        for asking in list(self._asked.values()):
            asking._settle(node, Reply(reason=reason))

    def _absent(self, missing: Sequence[int]) -> str:
        who = f"node {missing[0]}" if len(missing) == 1 else f"nodes {', '.join(map(str, missing[:8]))}"
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        there = ", ".join(f"{rank} ({host})" for rank, host in sorted(self.hosts.items())[:8])
        return f"{who}{more} of {self.place.nnodes} never joined within {self._join_seconds:g} s; there: {there}"

    def _join_hint(self) -> str:
        return (
            f"start it there too, with --master-addr {self.place.master_addr} --master-port {self.place.master_port}; "
            "is that port of this host open to them?"
        )


class Follower:
    """A node that is not the first. Use as a context manager; it joins on entering, and waits until node 0 is there.

    Raises:
        UserError: node 0 cannot be reached in time, or refuses this node.
    """

    def __init__(self, place: Place, hello: Mapping[str, Any], join_seconds: float = JOIN_SECONDS) -> None:
        self.place = place
        self._hello = dict(hello)
        self._join_seconds = join_seconds
        self._over = threading.Condition()
        self._bye: Message | None = None
        self._why_lost: str | None = None
        self._backlog: list[Message] = []
        self._work: _Work | None = None

    def __enter__(self) -> Follower:
        connection = self._connect()
        self.address = connection.getsockname()[0].removeprefix("::ffff:")
        self._wire = Wire(connection, self._heard, self._lost)
        self._wire.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._work is not None:
            self._work.end()
        self._wire.close()

    def serve(self, handlers: Mapping[str, Handler]) -> str | None:
        """Does what node 0 asks for, until it says goodbye.

        Returns:
            ``interrupted`` if node 0 was; None at its regular end.

        Raises:
            LeaderLost: it is gone without a word.
        """
        with self._over:
            self._work = _Work(handlers, self._wire.send)
            backlog, self._backlog = self._backlog, []
        for message in backlog:
            self._heard(message)
        with self._over:
            while self._bye is None and self._why_lost is None:
                self._over.wait(BEAT_SECONDS)
        if self._bye is None:
            raise LeaderLost(f"node 0 ({self.place.master_addr}) is gone: {self._why_lost}")
        reason: str | None = self._bye["bye"]
        return reason

    def _connect(self) -> socket.socket:
        until = time.monotonic() + self._join_seconds
        where = (self.place.master_addr, self.place.master_port)
        while True:
            try:
                connection = socket.create_connection(where, timeout=min(5.0, self._join_seconds))
                connection.sendall(_hello_line(self.place, self._hello))
                answer = read_line(connection, HELLO_SECONDS)
                break
            except (OSError, ValueError) as error:
                if time.monotonic() > until:
                    why = getattr(error, "strerror", None) or error
                    raise UserError(
                        f"node 0 at {where[0]}:{where[1]} did not answer within {self._join_seconds:g} s: {why}",
                        "does --master-addr lead to it, is its port open, and was the command started there?",
                    ) from None
                time.sleep(0.2)
        if "refused" in answer:
            connection.close()
            raise UserError(f"node 0 refused this node: {answer['refused']}", "the same command on each node, once")
        return connection

    def _heard(self, message: Message) -> None:
        with self._over:
            if "bye" in message:
                self._bye = message
                self._over.notify_all()
                return
            if self._work is None:
                self._backlog.append(message)
                return
        if "ask" in message:
            self._work.begin(message["id"], message["ask"])
        elif "cancel" in message:
            self._work.cancel(message["cancel"])

    def _lost(self, reason: str) -> None:
        with self._over:
            self._why_lost = reason
            self._over.notify_all()


def _hello_line(place: Place, says: Mapping[str, Any]) -> bytes:
    hello = {
        "protocol": PROTOCOL,
        "llmbench": __version__,
        "node_rank": place.node_rank,
        "nnodes": place.nnodes,
        "host": socket.gethostname(),
        "says": dict(says),
    }
    return json.dumps(hello).encode() + b"\n"


def _listen(port: int) -> socket.socket:
    """A listening socket, for both kinds of addresses where there are both."""
    both = socket.has_dualstack_ipv6()
    try:
        if both:
            with suppress(OSError):
                return _server(port, socket.AF_INET6, dual=True)
        return _server(port, socket.AF_INET, dual=False)
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        raise UserError(
            f"port {port} of this node {'is in use' if busy else f'cannot be used: {error.strerror}'}",
            "another --master-port, the same on every node",
        ) from None


def _server(port: int, family: socket.AddressFamily, *, dual: bool) -> socket.socket:
    return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
