"""What the network of this machine is like: interfaces, names, ports. Standard library only.

What may wait for somebody else (a name server, a proxy, another machine) has a thread of its own and a limit, and
whatever is known is reported before the next question is asked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFMTU = 0x8913, 0x8915, 0x8921
_UP, _RUNNING = 0x1, 0x40


def probe(arguments: dict) -> Iterator[dict]:
    """Yields what is known, piece by piece.

    Args:
        arguments: ``names``, to be looked up; ``ports``, that should be free; ``reach``, an address and port that
            should answer, or None; ``limit``, seconds for each lookup.
    """
    yield {"loopback": loopback()}
    yield {"loopback6": loopback("::1")}
    links = interfaces()
    yield {"interfaces": links}
    name = socket.gethostname()
    yield {"host": name, "resolver": resolver(), "routes": default_routes()}
    yield {"port_range": port_range()}
    yield {"ports": {str(port): occupied(port) for port in arguments["ports"]}}
    questions: dict[tuple[str, str], Callable[[], object]] = {
        ("own", link["name"]): connect_to_own(link) for link in links
    }
    for asked in dict.fromkeys([name, "localhost", *arguments["names"]]):
        questions["names", asked] = partial(resolve, asked)
    for server in resolver()["servers"]:
        questions["servers", server] = partial(ask_server, server, name)
    if arguments.get("reach"):
        address, port = arguments["reach"]
        questions["reach", address] = partial(reach, address, port)
    yield from ask_all(questions, arguments["limit"])


def ask_all(questions: dict, limit: float) -> Iterator[dict]:
    """The answers by kind and subject, all of a kind again with each new one; what did not end in time is missing."""
    answers: queue.Queue = queue.Queue()
    for key, question in questions.items():
        threading.Thread(target=lambda k=key, q=question: answers.put((k, q())), daemon=True).start()
    known: dict[str, dict] = {}
    end = time.monotonic() + limit
    for _ in questions:
        try:
            (kind, subject), answer = answers.get(timeout=max(0.01, end - time.monotonic()))
        except queue.Empty:
            break
        known.setdefault(kind, {})[subject] = answer
        yield {kind: known[kind]}


def loopback(address: str = "127.0.0.1") -> str | None:
    """Sends a byte to itself. None if it came, else why not."""
    return connect_to_self(address, 5.0)


def connect_to_self(address: str, limit: float) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as server:
            server.settimeout(limit)
            server.bind((address, 0))
            server.listen(1)
            with socket.socket(family) as client:
                client.settimeout(limit)
                client.connect(server.getsockname())
                connection, _ = server.accept()
                with connection:
                    client.sendall(b"x")
                    connection.settimeout(limit)
                    return None if connection.recv(1) == b"x" else "a byte was lost"
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def connect_to_own(link: dict) -> Callable[[], str | None]:
    return lambda: connect_to_self(link["address"], 1.5) if link["address"] and link["up"] else None


def interfaces() -> list:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            flags = asked_of(asker, _SIOCGIFFLAGS, name)
            address = asked_of(asker, _SIOCGIFADDR, name)
            mtu = asked_of(asker, _SIOCGIFMTU, name)
            bits = struct.unpack_from("H", flags, 16)[0] if flags else 0
            found.append(
                {
                    "name": name,
                    "up": bool(bits & _UP),
                    "running": bool(bits & _RUNNING),
                    "address": socket.inet_ntoa(address[20:24]) if address else None,
                    "addresses6": addresses6(name),
                    "mtu": struct.unpack_from("i", mtu, 16)[0] if mtu else None,
                    "speed": number(f"/sys/class/net/{name}/speed"),
                    "physical": os.path.exists(f"/sys/class/net/{name}/device"),
                }
            )
    return found


def asked_of(asker: socket.socket, request: int, name: str) -> bytes | None:
    try:
        return fcntl.ioctl(asker.fileno(), request, struct.pack("256s", os.fsencode(name)[:15]))
    except OSError:
        return None


def addresses6(name: str) -> list:
    """Addresses of version 6, but for those that hold on one link only."""
    return [
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
        for words in map(str.split, lines("/proc/net/if_inet6"))
        if len(words) == 6 and words[5] == name and words[3] != "20"
    ]


def default_routes() -> list:
    """Interface and metric of each default route."""
    routes = [line.split() for line in lines("/proc/net/route")[1:]]
    return [[words[0], int(words[6])] for words in routes if len(words) > 7 and words[1] == words[7] == "00000000"]


def resolver() -> dict:
    """What /etc/resolv.conf says."""
    path = "/etc/resolv.conf"
    found: dict = {"servers": [], "search": [], "options": [], "exists": os.path.exists(path)}
    if os.path.islink(path):
        found["link"] = os.path.realpath(path)
    for line in lines(path):
        words = line.partition("#")[0].split()
        if words[:1] == ["nameserver"] and len(words) > 1 and len(found["servers"]) < 3:
            found["servers"].append(words[1])
        elif words[:1] in (["search"], ["options"]):
            found[words[0]] = words[1:]
    return found


def resolve(name: str) -> dict:
    """Its addresses, and those of them that are of this machine: to which a socket can be bound."""
    started = time.perf_counter()
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)})
        error = None
    except (OSError, UnicodeError) as failure:
        addresses, error = [], str(failure)
    seconds = time.perf_counter() - started
    ours = [address for address in addresses if is_ours(address)]
    return {"name": name, "addresses": addresses, "ours": ours, "error": error, "seconds": seconds}


def is_ours(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as asker:
            asker.bind((address, 0))
    except OSError:
        return False
    return True


def ask_server(server: str, name: str) -> str | None:
    """Asks a name server for an address. None if it answers, whatever it says, else why it does not."""
    label = name.split(".")[0].encode("ascii", "ignore")[:63] or b"localhost"
    question = struct.pack(">6H", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + bytes([len(label)]) + label
    question += b"\0" + struct.pack(">2H", 1, 1)
    try:
        where = socket.getaddrinfo(server, 53, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        with socket.socket(where[0], socket.SOCK_DGRAM) as asker:
            asker.settimeout(1.0)
            asker.connect(where[4])
            for _ in range(2):
                asker.send(question)
                try:
                    asker.recv(512)
                except TimeoutError:
                    continue
                return None
            return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return "unreachable" if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH) else str(error)


def reach(address: str, port: int) -> str | None:
    """None if something answers there, even if it refuses, else why not."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except ConnectionRefusedError:
        return None
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return None


def port_range() -> list | None:
    """First and last port that the system gives to connections."""
    words = " ".join(lines("/proc/sys/net/ipv4/ip_local_port_range")).split()
    return [int(word) for word in words] if len(words) == 2 and all(map(str.isdigit, words)) else None


def occupied(port: int) -> dict | None:
    """None if a server could listen on this port, else why not, and which process does."""
    for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                server.bind((address, port))
                server.listen(1)
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None)
            if code in (errno.EADDRINUSE, errno.EACCES, errno.EPERM):
                return {"error": os.strerror(code), "errno": code, "process": listener(port)}
    return None


def listener(port: int) -> str | None:
    """Name and number of the process that listens on a port, as far as we may know."""
    inodes = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for words in map(str.split, lines(file)[1:]):
            if len(words) > 9 and words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int) if inodes else []:
        try:
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") in inodes:
                    return f"{' '.join(lines(f'/proc/{pid}/comm'))} (pid {pid})"
        except OSError:
            continue
    return None


def number(path: str) -> int | None:
    try:
        return int(" ".join(lines(path)))
    except ValueError:
        return None


def lines(path: str) -> list:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
