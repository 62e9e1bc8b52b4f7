"""A process group that stays: ranks that call functions when they are asked, so that one launch serves many tests."""

from __future__ import annotations

import multiprocessing
import os
import traceback
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from llmbench.worker.process import die_with

FORK = multiprocessing.get_context("fork")
SECONDS = 300.0


class Ranks:
    """Ranks on gloo, launched by torch's elastic launcher in a process of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._asked = [FORK.SimpleQueue() for _ in range(size)]
        self._told = FORK.Queue()
        self._launcher = FORK.Process(target=_launch, args=(size, self._asked, self._told, os.getpid()))
        self._launcher.start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function returns on each rank. All of them call it at the same time."""
        for queue in self._asked:
            queue.put((function, arguments))
        answers = dict(self._answer() for _ in range(self.size))
        return [answers[rank] for rank in range(self.size)]

    def _answer(self) -> tuple[int, Any]:
        rank, value, error = self._told.get(timeout=SECONDS)
        if error:
            self.close()
            raise RuntimeError(f"rank {rank}: {error}")
        return rank, value

    @property
    def alive(self) -> bool:
        return self._launcher.is_alive()

    def close(self) -> None:
        self._launcher.kill()  # the ranks die with it
        self._launcher.join()


def _launch(size: int, asked: list[Any], told: Any, parent: int) -> None:
    die_with(parent)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, _serve)(asked, told, os.getpid())


def _serve(asked: list[Any], told: Any, launcher: int) -> None:
    die_with(launcher)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
    rank = dist.get_rank()
    while True:
        function, arguments = asked[rank].get()
        try:
            told.put((rank, function(*arguments), None))
        except Exception:
            told.put((rank, None, traceback.format_exc()))
