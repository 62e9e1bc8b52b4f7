"""A process group that stays: ranks that call functions when they are asked, so that one launch serves many tests."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist

from llmbench.worker.process import die_with
from llmbench.worker.ranks import launch_on_this_host

SECONDS = 280.0  # an answer may have to be compiled


class Ranks:
    """Ranks on gloo, launched by torch's elastic launcher in a process of its own when they are first asked.

    Args:
        start: how that process starts. A fork is quick, but has no threads of its parent: whatever compiles needs a
            process that was spawned, as a compiler that others used before waits for its threads.
    """

    def __init__(self, size: int, start: Literal["fork", "spawn"] = "fork") -> None:
        self.size = size
        self._context: Any = multiprocessing.get_context(start)
        self._launcher: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function returns on each rank. All of them call it at the same time.

        Raises:
            RuntimeError: it raised on a rank; the others may wait for that one, so all are ended.
        """
        if self._launcher is None:
            self._start()
        for queue in self._asked:
            queue.put((function, arguments))
        answers: dict[int, Any] = {}
        while len(answers) < self.size:
            rank, answers[rank], error = self._told.get(timeout=SECONDS)
            if error:
                self.close()
                raise RuntimeError(f"rank {rank}: {error}")
        return [answers[rank] for rank in range(self.size)]

    def _start(self) -> None:
        self._asked = [self._context.SimpleQueue() for _ in range(self.size)]
        self._told = self._context.Queue()
        self._launcher = self._context.Process(target=_launch, args=(self.size, self._asked, self._told, os.getpid()))
        self._launcher.start()

    def close(self) -> None:
        if self._launcher is not None:
            self._launcher.kill()  # the ranks die with it
            self._launcher.join()
            self._launcher = None


def _launch(size: int, asked: list[Any], told: Any, parent: int) -> None:
    die_with(parent)
    launch_on_this_host(size, _serve, asked, told)


def _serve(asked: list[Any], told: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
    rank = dist.get_rank()
    while True:
        function, arguments = asked[rank].get()
        try:
            told.put((rank, function(*arguments), None))
        except Exception:
            told.put((rank, None, traceback.format_exc()))
