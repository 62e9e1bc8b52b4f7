"""The pytest of one side of a marked test (``pytest_plugin.py``): its ``lockstep(step)`` takes turns with the other's.

Standard library, pytest, and torch where the test has imported it. llmbench need not be installed here.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator
from importlib import metadata
from typing import Any

import pytest

from llmbench.worker.process import die_with, write_json
from llmbench.worker.turns import Clock, Turns, Wall

Step = Callable[[], object]

NAME = "llmbench-side"  # by which the fixture finds it
# One test in one process, without anything beside it that costs its steps time, or that is written for the user.
_ALONE: dict[str, object] = {
    "dist": "no", "tx": [], "numprocesses": None, "markexpr": "", "keyword": "", "deselect": None, "lf": False,
    "failedfirst": False, "newfirst": False, "stepwise": False, "usepdb": False, "trace": False, "no_cov": True,
    "cov_source": [], "xmlpath": None, "htmlpath": None, "report_log": None, "json_report": False, "durations": None,
    "benchmark_only": False, "benchmark_skip": False, "collectonly": False, "reruns": 0, "randomly_seed": 0,
}  # fmt: skip


def run(job: str, arguments: list[str]) -> int:
    """Runs one test of one side; pytest's exit code.

    Args:
        job: JSON file: ``socket`` ``side`` ``parent`` ``result``, the steps of the ``warmup``, how many
            ``losses`` to tell, ``cpus`` to be pinned to or None, whether to ``describe`` the
            environment, the folders that are its ``own``, and that of the ``other`` side or None.
        arguments: for pytest.
    """
    with open(job, encoding="utf-8") as file:
        told = json.load(file)
    die_with(told["parent"])
    if told["cpus"]:
        os.sched_setaffinity(0, told["cpus"])
    # Who gives up waiting asks for the stacks before it kills.
    faulthandler.register(signal.SIGUSR1, file=os.dup(2), all_threads=True)
    # Where llmbench is installed, its entry point would load the plugin a second time.
    return int(pytest.main(arguments, plugins=["no:llmbench", "llmbench.pytest_plugin", Side(told)]))


class Side:
    """A plugin that serves the turns, and tells what became of the test."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.__name__ = NAME
        self._job = job
        self._found: dict[str, Any] = {"passed": False}

    def lockstep(self, step: Step) -> None:
        """Warms up, and takes turns until there are no more."""
        losses: list[Any] = []

        def one() -> None:
            losses.append(_kept(step()))

        one()
        meter, clock = _measuring()
        warm_up = []
        for _ in range(self._job["warmup"] - 1):
            begin = time.perf_counter()
            one()
            clock.synchronize()
            warm_up.append(time.perf_counter() - begin)
        self._found["facts"] = meter.facts
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        turns = Turns(self._job["socket"], self._job["side"])
        turns.serve(one, clock, warm_up)
        self._found["preempted"] = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preempted
        self._found["memory"] = meter.read()
        self._found["losses"] = [] if losses[0] is None else [_number(loss) for loss in losses[: self._job["losses"]]]
        if self._job["describe"]:
            self._found["machine"] = _machine()

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        _alone(early_config.known_args_namespace)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        _alone(config.option)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            why = lines[-1].removeprefix("E").strip() if lines else "see its log"
            self._fail("CollectError", f"the test could not be collected: {why}")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        outcome = yield
        report: pytest.TestReport = outcome.get_result()
        if call.excinfo is None:
            self._found["passed"] |= report.when == "call" and report.passed
        elif call.excinfo.errisinstance(pytest.skip.Exception):
            self._found.setdefault("skipped", str(call.excinfo.value))
        else:
            kind, place = call.excinfo.typename, call.excinfo.traceback[-1]
            first = next(iter(str(call.excinfo.value).strip().splitlines()), "")
            where = "" if kind == "Failed" else f" ({os.path.basename(str(place.path))}:{place.lineno + 1})"
            told = first if kind == "Failed" else f"{kind}: {first}{where}"
            self._fail(kind, told if report.when == "call" else f"in {report.when}: {told}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if foreign := self._foreign():
            self._fail("MixedSides", f"it imported what is not its own: {foreign}")
        if self._found["passed"] or "error" in self._found or "skipped" in self._found:
            write_json(self._job["result"], self._found)

    def _fail(self, kind: str, message: str) -> None:
        self._found.setdefault("error", {"type": kind, "message": message})

    def _foreign(self) -> str | None:
        """A module that was imported from the other side's files: then both sides are partly the same."""
        other = self._job["other"]
        if other is None:
            return None
        ours = [*self._job["own"], sys.prefix, os.path.dirname(os.path.dirname(os.path.dirname(__file__)))]
        for name, module in sorted(sys.modules.items()):
            file = getattr(module, "__file__", None)
            path = os.path.realpath(file) if isinstance(file, str) else ""
            if path.startswith(f"{other}{os.sep}") and not any(path.startswith(f"{one}{os.sep}") for one in ours):
                return f"{name} ({path})"
        return None


class _Resident:
    """The peak of the resident memory, in a process without torch."""

    facts: dict[str, str] = {"peak_rss_since": "the start of the process"}  # noqa: RUF012

    def read(self) -> dict[str, int | None]:
        # Not that of getrusage: a process inherits the peak of the one that started it.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
        return {"peak_rss_bytes": peak}


class _Silent:
    """Nobody is told of events."""

    def send(self, event: str, **values: Any) -> None:
        return


def _measuring() -> tuple[Any, Clock]:
    """What measures memory and time of a step that was done once: by then it has imported torch, if it ever does."""
    torch = sys.modules.get("torch")
    if torch is None:
        return _Resident(), Wall()
    from llmbench.worker.device import Device
    from llmbench.worker.measure.memory import MemoryMeter

    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    device = Device("cuda", torch.cuda.current_device()) if on_gpu else Device("cpu")
    meter = MemoryMeter(device)
    meter.reset()
    return meter, device


def _kept(value: Any) -> Any:
    """A loss as it is kept while nobody may wait for the device.

    Raises:
        TypeError: it is none.
    """
    if value is None or isinstance(value, int | float):
        return value
    if hasattr(value, "detach") and value.numel() == 1:
        return value.detach().clone()
    if not hasattr(value, "detach") and hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"step returned a {type(value).__name__}; the loss is a number, a tensor of one element, or None")


def _number(loss: Any) -> float | None:
    number = float(loss)
    return number if math.isfinite(number) else None


def _machine() -> dict[str, Any]:
    """As ``measure/machine.py`` tells it; without torch what is left of it."""
    if "torch" in sys.modules:
        import torch

        from llmbench.worker.measure.machine import describe_machine

        device = "cuda" if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu"
        return describe_machine({"device": device, "every_package": True}, _Silent())
    found = {"version": platform.python_version(), "implementation": platform.python_implementation()}
    packages = {one.metadata["Name"]: one.version for one in metadata.distributions() if one.metadata["Name"]}
    return {
        "device": "cpu",
        "python": found | {"executable": sys.executable},
        "torch": {},
        "devices": [{"kind": "cpu", "name": platform.processor() or platform.machine()}],
        "packages": dict(sorted(packages.items())),
    }


def _alone(options: Any) -> None:
    for name, value in _ALONE.items():
        if hasattr(options, name):
            setattr(options, name, value)
