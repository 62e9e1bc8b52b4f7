"""One side of a lock-step comparison: a case that is built and warmed up, and then trains in turns with another."""

from __future__ import annotations

import os
from typing import Any

from llmbench.worker.assemble import assemble
from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter
from llmbench.worker.layout import is_fixed, place
from llmbench.worker.measure.load import LoadMeter
from llmbench.worker.measure.memory import MemoryMeter
from llmbench.worker.turns import Turns
from llmbench.worker.world import join

WARM_UP_STEPS = 6


def run_turns(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Trains a case whenever it is its turn; of a parallel case, what one rank does.

    Args:
        job: as for ``run_case``, with ``turns`` (path of the socket), ``side``, ``cpus`` (to be pinned to, or None)
            and ``shift`` (pages by which what is allocated moves).

    Returns:
        ``losses`` of all training steps, ``memory``, ``facts``, ``load`` and ``rank``.
    """
    if job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    place(job["shift"])
    device = Device(job["device"])
    world = join(job["mode"], job["config"], device)
    turns = Turns(job["turns"], job["side"], world.rank)
    memory, load = MemoryMeter(device), LoadMeter()
    enter(events, "build")
    case = assemble(job, device, world)
    trainer = case.trainer

    enter(events, "warmup")
    warm_up = []
    for step in range(WARM_UP_STEPS):
        begin = device.mark()
        trainer.step()
        end = device.mark()
        device.synchronize()
        warm_up.append(device.between(begin, end))
        if step == 0:
            memory.reset()

    enter(events, "timed")
    load.start()
    turns.serve(trainer.step, device, warm_up)
    found = {
        "load": load.stop(),
        "memory": memory.read(),
        "losses": case.losses()[: trainer.done],
        "facts": case.facts | {"same_layout": is_fixed()},
    }
    world.leave()
    return found | {"rank": {"rank": world.rank, "memory": found["memory"]}}
