"""A torch that imports at once and trains nothing, so that the faults of many real processes can be tested in seconds.

Lies in front of the import path of the side's processes. Everything of llmbench that is about processes, sockets and
files is the real thing; what would import torch is replaced at the end. ``QUICK_TORCH`` says what each side does, at a
step or at ``build`` or ``losses``, and ``QUICK_IMPORT`` what happens while torch is imported::

    {"folder": F, "cand": {"at": 5, "does": "raise"}}

The folder gets ``SIDE.pid``; with ``steps`` also ``SIDE.steps``, the monotonic times of each step's begin and end.
"""

import fcntl
import json
import os
import signal
import sys
import time
import types

__version__ = "2.13.0"
SECONDS = 0.0002  # of a step


class OutOfMemoryError(RuntimeError):
    pass


def set_num_threads(number):
    return


def plan_of(side):
    plan = json.loads(os.environ.get("QUICK_TORCH", "{}"))
    return {"folder": plan.get("folder"), "side": side} | plan.get(side, {})


def act(plan, at):
    """Does what the plan says for this point of the training."""
    if plan.get("at") != at:
        return
    does = plan["does"]
    if does == "raise":
        raise ValueError("the sample is torn")
    if does == "leave":
        os._exit(3)
    if does == "hang":
        hang()
    if does == "out of memory":
        raise OutOfMemoryError("allocation of 7 GB failed")
    if does == "allocate":
        held.append(bytearray(os.urandom(1)) * (plan["megabytes"] << 20))
    if does == "out of memory beside another":
        held.append(open(os.path.join(plan["folder"], "memory"), "w"))  # noqa: SIM115
        try:
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutOfMemoryError("allocation of 7 GB failed") from None
    if does in ("wait", "kill"):
        with open(os.path.join(plan["folder"], f"{plan['side']}.reached.tmp"), "w") as file:
            file.write(str(os.getpid()))
        os.replace(file.name, file.name.removesuffix(".tmp"))
        if does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while not os.path.exists(os.path.join(plan["folder"], f"{plan['side']}.go")):
            time.sleep(0.005)


held = []


def hang():
    time.sleep(3600)


class Device:
    def __init__(self, kind):
        self.kind = "cpu"

    def mark(self):
        return time.perf_counter()

    def between(self, begin, end):
        return end - begin

    def synchronize(self):
        return


class Trainer:
    def __init__(self, plan, heartbeat):
        from llmbench.worker.events import Heartbeat

        self.plan, self.done, self.heartbeat = plan, 0, Heartbeat(heartbeat, 0)
        self.told = None
        if plan.get("steps"):
            self.told = open(os.path.join(plan["folder"], f"{plan['side']}.steps"), "a")  # noqa: SIM115

    def step(self):
        begin = time.monotonic()
        act(self.plan, self.done)
        # By the clock, not by the work: what runs beside it shall not decide about a test.
        while time.monotonic() < begin + SECONDS * self.plan.get("slowdown", 1.0):
            pass
        self.done += 1
        self.heartbeat.beat(self.done)
        if self.told:
            self.told.write(f"{begin} {time.monotonic()}\n")


class Case:
    def __init__(self, job):
        self.plan = plan_of(job["side"])
        if self.plan["folder"]:
            with open(os.path.join(self.plan["folder"], f"{job['side']}.pid"), "w") as file:
                file.write(str(os.getpid()))
        act(self.plan, "build")
        self.trainer, self.facts = Trainer(self.plan, job["heartbeat"]), {"weights_sha256": "1", "batches_sha256": "2"}
        if self.plan.get("facts"):
            self.facts |= {"folder": os.getcwd(), "environ": dict(os.environ), "modules": sorted(sys.modules)}
            self.facts |= {"cpus": sorted(os.sched_getaffinity(0)), "path": sys.path}
        self.seed = job["config"]["seed"]

    def losses(self):
        act(self.plan, "losses")
        return [1.0 / (self.seed + step) for step in range(12)]


class Memory:
    def __init__(self, device):
        self.facts = {}

    def reset(self):
        return

    def read(self):
        return {"peak_rss_bytes": 10**8, "start_rss_bytes": None}


class Load:
    def start(self):
        return

    def stop(self):
        return {"preempted": 1.0}


class World:
    rank = 0

    def leave(self):
        return


def describe_machine(job, events):
    return {
        "device": "cpu",
        "python": {"version": sys.version.split()[0]},
        "torch": {"version": __version__, "threads": 1, "cuda": None},
        "devices": [{"kind": "cpu", "name": "quick"}],
        "packages": {"torch": __version__} | json.loads(os.environ.get("QUICK_PACKAGES", "{}")),
    }


def replace(name, **values):
    module = sys.modules[f"llmbench.worker.{name}"] = types.ModuleType(name)
    module.__dict__.update(values)


if "llmbench" in sys.modules:  # in the processes of a side
    if os.environ.get("QUICK_IMPORT"):
        act(json.loads(os.environ["QUICK_IMPORT"]), "import")
    replace("case", compile_again=None, run_case=None, train_base=None)
    replace("assemble", assemble=lambda job, device, world: Case(job))
    replace("device", Device=Device)
    replace("world", join=lambda mode, config, device: World())
    replace("measure.load", LoadMeter=Load)
    replace("measure.memory", MemoryMeter=Memory)
    replace("measure.machine", describe_machine=describe_machine)
    replace("measure.parity", measure_reference=None)
    replace("measure.peaks", measure_peaks=None)
