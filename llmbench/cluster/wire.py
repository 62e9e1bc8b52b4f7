"""A connection between the control sides of two nodes: JSON lines over TCP, that notices when the other is gone."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

BEAT_SECONDS = 1.0
SILENT_SECONDS = 10.0
LONGEST_LINE = 2**28

Message = dict[str, Any]


class Wire:
    """One end of a connection.

    Args:
        on_message: told of each message but beats, in a thread of the wire.
        on_lost: told once, with the reason, when the other end is gone; not after ``close``.
    """

    def __init__(
        self, connection: socket.socket, on_message: Callable[[Message], None], on_lost: Callable[[str], None]
    ) -> None:
        self._socket = connection
        self._on_message, self._on_lost = on_message, on_lost
        self._sending = threading.Lock()
        self._ending = threading.Lock()
        self._closed = threading.Event()
        self._heard = time.monotonic()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # neither reading nor writing waits longer for a pulled cable
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * SILENT_SECONDS))

    @property
    def own_address(self) -> str:
        return _plain(self._socket.getsockname()[0])

    @property
    def peer_address(self) -> str:
        return _plain(self._socket.getpeername()[0])

    def start(self) -> None:
        """Begins to listen and to beat."""
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message. To one that is gone it sends nothing: ``on_lost`` tells."""
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as error:
            self._lose(_why(error))

    def close(self) -> None:
        """Ends the connection from this side. What was sent before still arrives."""
        with self._ending:
            self._closed.set()
        with suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                while line := lines.readline(LONGEST_LINE):
                    self._heard = time.monotonic()
                    message = json.loads(line)
                    if "beat" not in message:
                        self._on_message(message)
            self._lose("connection closed")
        except OSError as error:
            self._lose(_why(error))
        except ValueError:
            self._lose("it sent what is no message")

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            self.send({"beat": True})
            if time.monotonic() - self._heard > SILENT_SECONDS:
                self._lose(f"silent for {SILENT_SECONDS:.0f} s")

    def _lose(self, reason: str) -> None:
        with self._ending:
            if self._closed.is_set():
                return
            self._closed.set()
        self._socket.close()
        self._on_lost(reason)


def read_line(connection: socket.socket, seconds: float) -> Message:
    """The first message of a connection, before it becomes a wire. Nothing beyond its line is read.

    Raises:
        OSError: it did not come in time.
        ValueError: it is no message.
    """
    connection.settimeout(seconds)
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > LONGEST_LINE:
            raise ValueError("the connection ended within a message")
        line += byte
    connection.settimeout(None)
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def _plain(address: str) -> str:
    """IPv4 addresses as such, where a socket serves both kinds."""
    return address.removeprefix("::ffff:")


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"silent for {SILENT_SECONDS:.0f} s"
    return (error.strerror or str(error) or type(error).__name__).lower()
