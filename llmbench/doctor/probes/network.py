"""Loopback and host name, with nothing but the standard library. Each answer is reported before the next is asked."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    yield {"loopback": loopback()}
    name = socket.gethostname()
    yield {"host": name}
    yield {"name": resolve(name)}
    if arguments.get("master"):
        yield {"master": resolve(arguments["master"])}


def loopback() -> str | None:
    """Sends a byte to itself on 127.0.0.1. None if it came, else why not."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5)
            with socket.create_connection(server.getsockname(), timeout=5) as client:
                connection, _ = server.accept()
                with connection:
                    client.sendall(b"x")
                    connection.settimeout(5)
                    return None if connection.recv(1) == b"x" else "a byte was lost"
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def resolve(name: str) -> dict:
    started = time.perf_counter()
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)})
        error = None
    except (OSError, UnicodeError) as failure:
        addresses, error = [], str(failure)
    return {"name": name, "addresses": addresses, "error": error, "seconds": time.perf_counter() - started}
