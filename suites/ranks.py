"""Ranks that run all-reduces on request, and the clock that waits for them.

``Ranks`` starts them with torch's elastic launcher; this file is also what each of them runs. An all-reduce is asked
for as a CUDA kernel is launched: ``all_reduce`` only counts, and reading ``clock`` sends the count to every rank and
waits until all have ended. So a round of many all-reduces costs one message.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

DEADLINE = 120.0  # seconds for the ranks to start, and for each of their answers
LEAVE = 60.0  # seconds for the launcher to end them: it kills who has not gone after 30

# Sums grow by the world size with each all-reduce. Scaled back by a power of two, they neither overflow nor change.
_SCALED_BACK_AFTER = 32


class RanksError(RuntimeError):
    """The ranks did not start, ended, or did not answer in time. The message ends with what they wrote last."""


class Ranks:
    """The asking side.

    Args:
        world_size: how many ranks, all on this machine; a power of two up to 8.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._connections: list[tuple[socket.socket, IO[str]]] = []
        self._asked = 0

    @property
    def threads(self) -> int:
        """CPU threads of each rank: what the user set, or one, the launcher's own default."""
        return int(os.environ.get("OMP_NUM_THREADS", "1"))

    @contextmanager
    def start(self, backend: str) -> Iterator[None]:
        """Ranks with a process group of this backend (``gloo`` on the CPU, ``nccl`` on CUDA), while the context lasts.

        Raises:
            RanksError: they did not start.
        """
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmbench-")))
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(folder / "ranks"))
            server.listen()
            server.settimeout(0.2)
            self._log = folder / "log"
            self._launcher = stack.enter_context(self._launched(backend, folder / "ranks"))
            end = time.monotonic() + DEADLINE
            self._connections = []
            while len(self._connections) < self.world_size:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    if self._launcher.poll() is not None or time.monotonic() > end:
                        raise self._lost("did not start") from None
                    continue
                stack.enter_context(connection).settimeout(DEADLINE)
                answers = stack.enter_context(connection.makefile("r", encoding="ascii"))
                self._connections.append((connection, answers))
            yield

    @contextmanager
    def _launched(self, backend: str, address: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=localhost"]
        command += [f"--nproc-per-node={self.world_size}", __file__, str(address), backend]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        with (
            open(self._log, "wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
        ):
            try:
                yield process
                process.wait(DEADLINE)  # the connections are closed by now: the ranks end by themselves
            finally:
                process.terminate()  # the launcher ends its ranks
                try:
                    process.wait(LEAVE)
                except subprocess.TimeoutExpired:
                    process.kill()

    def prepare(self, elements: int, dtype: str) -> None:
        """Gives every rank a random tensor; ``dtype`` is torch's name, e.g. ``float32``."""
        self._ask(f"prepare {elements} {dtype}")

    def all_reduce(self) -> None:
        """One more all-reduce of the tensor, before the clock is next read."""
        self._asked += 1

    def clock(self) -> float:
        """Seconds by a monotonic clock, read when every rank has ended all that was asked for.

        Raises:
            RanksError: a rank ended, or did not answer.
        """
        if self._asked:
            asked, self._asked = self._asked, 0
            self._ask(f"all_reduce {asked}")
        return time.perf_counter()

    def _ask(self, request: str) -> None:
        try:
            for connection, _ in self._connections:
                connection.sendall(f"{request}\n".encode())  # no buffer, which would be flushed again at the end
            answers = [answers.readline() for _, answers in self._connections]
        except TimeoutError:
            raise self._lost(f"did not answer to {request!r} in {DEADLINE:.0f} s") from None
        except OSError:
            raise self._ended(request) from None
        if any(answer != "done\n" for answer in answers):
            raise self._ended(request)

    def _ended(self, request: str) -> RanksError:
        # The launcher sees it too, ends the others, and writes which rank it was.
        with suppress(subprocess.TimeoutExpired):
            self._launcher.wait(10)
        return self._lost(f"ended during {request!r}")

    def _lost(self, what: str) -> RanksError:
        written = self._log.read_text(encoding="utf-8", errors="replace")
        return RanksError(f"the ranks {what}\n{written[-4000:]}")


def serve(address: str, backend: str) -> None:
    """One rank: answers to requests until the connection is closed."""
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    device = torch.device("cuda" if backend == "nccl" else "cpu")
    dist.init_process_group(backend)
    _check(device)
    torch.manual_seed(dist.get_rank())
    scale = 1 / dist.get_world_size() ** _SCALED_BACK_AFTER
    tensor = torch.empty(0)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw", encoding="ascii") as requests:
            for request in requests:
                match request.split():
                    case ["prepare", elements, dtype]:
                        tensor = torch.randn(int(elements), device=device, dtype=getattr(torch, dtype))
                    case ["all_reduce", times]:
                        for index in range(int(times)):
                            dist.all_reduce(tensor)
                            if index % _SCALED_BACK_AFTER == _SCALED_BACK_AFTER - 1:
                                tensor *= scale
                if device.type == "cuda":
                    torch.cuda.synchronize()
                print("done", file=requests, flush=True)
    dist.destroy_process_group()


def _check(device: torch.device) -> None:
    """Ranks that each believe to be alone would be very fast."""
    ones = torch.ones(1, device=device)
    dist.all_reduce(ones)
    if ones.item() != int(os.environ["WORLD_SIZE"]):
        raise RuntimeError(f"the sum of ones over {os.environ['WORLD_SIZE']} ranks was {ones.item():g}")


if __name__ == "__main__":
    serve(*sys.argv[1:])
