"""What every node, node 0 too, does when it is asked: check itself, tell what it is, look up, connect, all-reduce."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmbench import __version__
from llmbench.doctor import gpus, system
from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Diagnosis, clean
from llmbench.doctor.nodes import clocks
from llmbench.doctor.process import Outcome, Processes
from llmbench.doctor.runner import Context, diagnose, select
from llmbench.results import redact

LOOKUP_SECONDS = 10.0
CONNECT_SECONDS = 8.0
_VERSIONS_SECONDS = 120.0
_TICK = 0.2
AREA = "nodes"

Request = Mapping[str, Any]
Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Asked:
    """What is to be asked of every node, from the options of node 0."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    deep: bool = False
    patience: float = 1.0


class Node:
    """One node's answers. Use as a context manager: what it started ends with it.

    Args:
        python: the interpreter of this node that is judged.
        rank: this node's; what others read who connect to it.
    """

    def __init__(self, python: str, rank: int) -> None:
        self._python, self._rank = python, rank
        self._started: list[Processes] = []
        self._server: socket.socket | None = None
        self.summary = "no check of its own"

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._server is not None:
            self._server.close()

    def handlers(self) -> dict[str, Callable[[dict[str, Any], Send], dict[str, Any]]]:
        """By the name that node 0 asks for."""
        return {
            "check": self.check,
            "facts": self.facts,
            "clock": self.clock,
            "look up": self.look_up,
            "connect": self.connect,
            "all-reduce": self.all_reduce,
            "stop": self.stop,
        }

    def check(self, request: Request, send: Send) -> dict[str, Any]:
        """The findings of the ordinary checks: the document of ``doctor --json``, without what is fine."""
        asked = Asked(tuple(request["only"]), tuple(request["skip"]), request["deep"], request["patience"])
        wanted = ordinary(asked)
        if not wanted:
            return {}
        with self._processes(request) as processes:
            diagnosis = diagnose(self._python, wanted, (), asked.deep, asked.patience, processes=processes)
        counts = diagnosis.counts
        self.summary = f"{len(wanted)} checks, {counts['fail'] + counts['incomplete']} fail, {counts['warn']} warn"
        return brief(diagnosis)

    def facts(self, request: Request, send: Send) -> dict[str, Any]:
        """What this node is, and where in the network. Opens the port to which the others will connect."""
        patience = request["patience"]
        versions: dict[str, Any] = {}
        if request["versions"]:  # it imports torch
            versions = self._probe(request, "nodes_versions", {}, _VERSIONS_SECONDS * patience).answer
        network = self._probe(request, "network", {"names": [], "ports": [], "limit": 0.1}, 30.0 * patience).answer
        cpus, memory = system.usable_cpus(), system.memory().get("MemTotal")
        limit = system.cgroup_memory()
        devices = versions.get("devices") or gpus.nvidia_models()
        told = {
            "python": versions.get("python"),
            "torch": versions.get("torch"),
            "cuda": versions.get("cuda"),
            "nccl": versions.get("nccl"),
            "driver": gpus.nvidia_driver(),
            "gpus": _counted(devices),
            "llmbench": __version__,
            "kernel": os.uname().release,
            "os": _distribution(),
            "cpu": f"{cpus} x {system.cpu_info().get('model name') or os.uname().machine}",
            "memory": min(memory, limit) if memory and limit else memory,
            "variables": {name: value for name, value in redact.environment(os.environ).items() if _is_compared(name)},
        }
        return {
            "same": clean(told),
            "host": socket.gethostname(),
            "machine": f"{(system.read('/proc/sys/kernel/random/boot_id') or '').strip()} {_namespace()}",
            "interfaces": network.get("interfaces") or [],
            "routes": system.read("/proc/net/route") or "",
            "ifname": {name: os.environ[name] for name in _IFNAMES if os.environ.get(name)},
            "gloo": bool(versions.get("gloo")),
            "devices": len(versions.get("devices") or ()) if versions.get("nccl") else 0,
            "port": self._open(),
        }

    def clock(self, request: Request, send: Send) -> dict[str, Any]:
        """The time here."""
        return {"at": clocks.now()}

    def look_up(self, request: Request, send: Send) -> dict[str, Any]:
        """The addresses of names, and who answers there. ``names`` has name and port by node rank."""

        def ask(name: str, port: int, addresses: list[str]) -> dict[str, Any]:
            found = _resolve(name)
            strange = [address for address in found["addresses"] if address not in addresses]
            return found | {"answered": _who_answers(strange[0], port) if strange else None}

        questions = {rank: partial(ask, *one) for rank, one in request["names"].items()}
        late: dict[str, Any] = {"addresses": [], "error": f"no answer within {LOOKUP_SECONDS:g} s", "answered": None}
        return _side_by_side(questions, request["patience"] * (LOOKUP_SECONDS + CONNECT_SECONDS), late)

    def connect(self, request: Request, send: Send) -> dict[str, Any]:
        """Why connections fail, by node rank; None for those that work. ``to`` has address and port by node rank."""
        seconds = CONNECT_SECONDS * request["patience"]

        def ask(address: str, port: int) -> dict[str, Any]:
            return {"error": _try(address, port, seconds)}

        questions = {rank: partial(ask, *one) for rank, one in request["to"].items()}
        return _side_by_side(questions, 3 * seconds, {"error": f"no answer within {3 * seconds:g} s"})

    def all_reduce(self, request: Request, send: Send) -> dict[str, Any]:
        """This node's ranks of an all-reduce over all nodes."""
        outcome = self._probe(request, "nodes_allreduce", request["job"], request["seconds"])
        return {
            "ranks": outcome.answer.get("ranks", {}),
            "ok": outcome.ok,
            "ending": outcome.ending,
            "words": outcome.last_words,
            "signal": outcome.signal,
            "timed_out": outcome.timed_out,
        }

    def stop(self, request: Request, send: Send) -> dict[str, Any]:
        """Ends what runs here; it answers with what it knows by then."""
        self._end()
        return {}

    @contextmanager
    def _processes(self, request: Request) -> Iterator[Processes]:
        """For one request, ended if it is cancelled: those that were ended start nothing more."""
        processes, over = Processes(), threading.Event()
        self._started.append(processes)

        def watch(cancelled: threading.Event) -> None:
            while not over.is_set():
                if cancelled.wait(_TICK):
                    processes.stop()
                    return

        threading.Thread(target=watch, args=(request["cancelled"],), daemon=True).start()
        try:
            yield processes
        finally:
            over.set()

    def _end(self) -> None:
        for processes in self._started:
            processes.stop()

    def _probe(self, request: Request, name: str, arguments: Mapping[str, Any], seconds: float) -> Outcome:
        with self._processes(request) as processes:
            context = Context(self._python, _environ(), False, processes, deadline=seconds)
            return context.probe(name, arguments, deadline=seconds)

    def _open(self) -> int:
        """A port of the system's choice, that tells this node's rank to whoever connects."""
        if self._server is None:
            both = socket.has_dualstack_ipv6()
            try:
                self._server = socket.create_server(
                    ("", 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
                )
            except OSError:  # the kernel has no IPv6, whatever Python was built with
                self._server = socket.create_server(("", 0), backlog=1024)
            threading.Thread(target=_answer, args=(self._server, self._rank), daemon=True).start()
        port: int = self._server.getsockname()[1]
        return port


_JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "TORCHELASTIC_RUN_ID")
_IFNAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_COMPARED = (
    "NCCL_", "GLOO_", "TP_", "OMP_", "MKL_", "KMP_", "GOMP_", "TORCH", "PYTORCH_", "UCX_", "FI_", "CUDA_", "LD_",
)  # fmt: skip
_OWN = ("SOCKET_IFNAME", "OOB_NET_IFNAME", "VISIBLE_DEVICES", "IB_HCA", "NET_DEVICES")
"""Ends of variables that may rightly differ: interfaces are judged by where they lead, schedulers give devices."""


def _is_compared(name: str) -> bool:
    return name.startswith(_COMPARED) and not name.endswith(_OWN) and not name.startswith("TORCHELASTIC_")


def _environ() -> dict[str, str]:
    """Without what a launcher says of ranks: these are others."""
    return {name: value for name, value in os.environ.items() if name not in _JOB}


def ordinary(asked: Asked) -> list[str]:
    """Ids of the checks of each node by itself that are asked for.

    Raises:
        UserError: there is no such area or check.
    """
    checks = select(all_checks(), asked.only, asked.skip, asked.deep)
    return [check.id for check in checks if check.area != AREA]


def brief(diagnosis: Diagnosis) -> dict[str, Any]:
    """Its document, of which only the checks with something to tell are kept: it goes over the network."""
    document = diagnosis.to_json()
    telling = [check for check in document["checks"] if any(_tells(finding) for finding in check["findings"])]
    kept = ("headline", "verdict", "counts", "python", "started_at", "seconds")
    return {key: document[key] for key in kept} | {"asked": len(document["checks"]), "checks": telling}


def _tells(finding: Mapping[str, Any]) -> bool:
    return finding["verdict"] in ("fail", "incomplete", "warn") or bool(finding["root"])


def _counted(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "no GPU"


def _distribution() -> str | None:
    for line in (system.read("/etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return None


def _namespace() -> str:
    """Of the network: nodes that share it are one, whatever they are called."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/net")
    return ""


def _answer(server: socket.socket, rank: int) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # closed: it is over
        with connection, suppress(OSError):
            connection.sendall(b"%d\n" % rank)


def _resolve(name: str) -> dict[str, Any]:
    try:
        found = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        return {"addresses": [], "error": getattr(error, "strerror", None) or str(error)}
    return {"addresses": sorted({str(entry[4][0]) for entry in found}), "error": None}


def _who_answers(address: str, port: int) -> int | None:
    """The rank that the node at this port tells; None if nobody does."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT_SECONDS) as connection:
            word = connection.recv(16).strip()
    except OSError:
        return None
    return int(word) if word.isdigit() else None


def _try(address: str, port: int, seconds: float) -> str | None:
    """Why a connection fails, twice; None if it does not. That it is made is enough: the kernel does it at any load."""
    error = None
    for _ in range(2):
        try:
            socket.create_connection((address, port), timeout=seconds).close()
        except TimeoutError:
            error = f"no answer within {seconds:g} s"
        except OSError as failure:
            error = failure.strerror or str(failure)
        else:
            return None
        time.sleep(0.2)
    return error


def _side_by_side(
    questions: Mapping[str, Callable[[], dict[str, Any]]], seconds: float, late: dict[str, Any]
) -> dict[str, Any]:
    """The answers by key; ``late`` for those that do not come in time."""
    answers: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    for key, question in questions.items():
        threading.Thread(target=lambda k=key, q=question: answers.put((k, q())), daemon=True).start()
    found: dict[str, Any] = {}
    until = time.monotonic() + seconds
    while len(found) < len(questions):
        try:
            key, answer = answers.get(timeout=max(0.01, until - time.monotonic()))
        except queue.Empty:
            break
        found[key] = answer
    return {key: found.get(key, late) for key in questions}
