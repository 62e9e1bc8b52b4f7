"""The pytest plugin: a test that gates a training step of any project against a base, in lock-step.

    @pytest.mark.llmbench(base="git:origin/main", limit="5%")
    def test_step_is_not_slower(lockstep):
        lockstep(step)

It is loaded in every pytest run of every environment that has llmbench, so it imports the standard library and pytest
only. What it does with a marked test, ``llmbench/plugin/`` says. The same file is loaded in the processes of the two
sides (``worker/pytest_side.py``), also where llmbench is not installed; there nothing else of the control side is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import pytest

Step = Callable[[], object]

SIDE = "LLMBENCH_SIDE"
"""Set in the processes of a side, and so in all that they start: none of them starts sides itself."""
SESSION = "LLMBENCH_SESSION"
"""Beside it the number of the session, from 0: where the loss is meant to change, a test seeds by it."""
SIDE_PLUGIN = "llmbench-side"
GATES_PLUGIN = "llmbench-gates"
PROPERTY = "llmbench_"  # what reports tell of a marked test begins so
RUN = "llmbench_run"
RUN_KEY = pytest.StashKey[str]()
"""What names the comparison of this run of pytest; it sorts by time."""
STEPS_OF_A_PLAIN_TEST = 3

# What can be said on the command line (--llmbench-NAME) and in the configuration file (llmbench_NAME).
VALUES = {
    "base": ("SIDE", "what marked tests are held against: git:REV, PYTHON or SPEC; wins over the mark's"),
    "limit": ("PERCENT", "a slowdown so large must not pass; default: 5"),
    "tolerance": ("PERCENT", "a slowdown so small is none; default: 1"),
    "loss_may_change": ("PERCENT", "the loss is meant to change; the final one by so much at most"),
    "alpha": ("P", "chance of any false alarm, over all marked tests together; default: 0.01"),
    "budget": ("SECONDS", "for each marked test; then what is open stays so; default: 100"),
    "sessions": ("N", "most sessions of a marked test; default: 20"),
    "rounds": ("N", "rounds of turns in a session; default: 24"),
    "warmup": ("N", "steps before the first turn; default: 10"),
    "deadline": ("SECONDS", "of a side for a session, without the other's turns; default: 300"),
    "cpus": ("N", "pin both sides to the same N CPUs, the idlest; default: no pinning"),
    "out": ("DIR", "folder of the comparison; default: reports/ab/pytest-ID"),
    "args": ("ARGS", "more arguments for the pytest of both sides, such as '--device cuda'"),
}
FLAGS = {
    "strict": "a marked test fails also where nothing could be told",
    "skip": "run marked tests as ordinary ones, without a base",
}
MARK = (
    "llmbench(base, limit, tolerance, loss_may_change, budget, sessions, rounds, warmup, deadline, cpus, "
    "base_may_fail): the test is run beside the same one of BASE, in turns, and fails if its step got slower, takes "
    "more memory or has another loss"
)


class _Side(Protocol):
    def lockstep(self, step: Step) -> None: ...


_CALLED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llmbench", "llmbench: did a training step get worse than that of a base?")
    for name, (metavar, text) in VALUES.items():
        group.addoption(_flag(name), dest=f"llmbench_{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"llmbench_{name}", text, default=None)
    for name, text in FLAGS.items():
        group.addoption(_flag(name), dest=f"llmbench_{name}", action="store_true", default=False, help=text)
        parser.addini(f"llmbench_{name}", text, type="bool", default=False)


def _flag(name: str) -> str:
    return f"--llmbench-{name.replace('_', '-')}"


def chosen(config: pytest.Config, name: str, of_mark: Mapping[str, Any]) -> Any:
    """What is said of an option: on the command line, else in the mark, else in the configuration file, else None."""
    said = (config.getoption(f"llmbench_{name}"), of_mark.get(name), config.getini(f"llmbench_{name}"))
    return next((value for value in said if value is not None and value is not False and value != ""), None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)
    shared: str | None = getattr(config, "workerinput", {}).get(RUN)
    config.stash[RUN_KEY] = shared or f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: all workers write to one comparison."""
    node.workerinput[RUN] = node.config.stash[RUN_KEY]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("llmbench")]
    if not marked or config.option.collectonly or SIDE in os.environ or chosen(config, "skip", {}):
        return
    from llmbench.plugin.session import Gates

    config.pluginmanager.register(Gates(config, marked), GATES_PLUGIN)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("llmbench") and "lockstep" not in getattr(item, "fixturenames", ()):
        pytest.fail("a test with the mark llmbench takes the fixture lockstep, and calls lockstep(step)", pytrace=False)


@pytest.fixture
def lockstep(request: pytest.FixtureRequest) -> Callable[[Step], None]:
    """``lockstep(step)`` does the steps of a test that has the mark llmbench, in turns with those of the base.

    ``step`` takes nothing and does one training step; a number or a tensor of one element that it returns is the loss.
    It is called once, and returns when there are no more turns. Without a base it does a few steps.
    """
    item = request.node
    assert isinstance(item, pytest.Item)
    if not item.get_closest_marker("llmbench"):
        pytest.fail("the fixture lockstep is for tests with the mark: @pytest.mark.llmbench(base=...)", pytrace=False)
    item.stash[_CALLED] = False
    side: _Side | None = item.config.pluginmanager.get_plugin(SIDE_PLUGIN)

    def call(step: Step) -> None:
        if item.stash[_CALLED]:
            raise RuntimeError("lockstep(step) was called a second time; a test has one step")
        if not callable(step):
            raise TypeError(f"lockstep takes the step, a function; this is of type {type(step).__name__}")
        item.stash[_CALLED] = True
        if side is not None:
            side.lockstep(step)
        else:
            _plain(item, step)

    return call


def _plain(item: pytest.Item, step: Step) -> None:
    for _ in range(STEPS_OF_A_PLAIN_TEST):
        step()
    why = "within a side of another gate" if SIDE in os.environ else "--llmbench-skip"
    if SIDE not in os.environ and not chosen(item.config, "skip", {}):
        why = "no base: --llmbench-base, llmbench_base or the mark names one"
    item.user_properties += [
        (f"{PROPERTY}verdict", "not gated"),
        (
            f"{PROPERTY}line",
            f"· not gated     {item.nodeid}  {STEPS_OF_A_PLAIN_TEST} steps, as an ordinary test ({why})",
        ),
    ]


@pytest.hookimpl(hookwrapper=True)  # the new kind would break every run of an older pytest
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    if outcome.excinfo is None and item.stash.get(_CALLED, None) is False:
        pytest.fail("the test never called lockstep(step)", pytrace=False)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for group in terminalreporter.stats.values() for report in group]
    told = {
        report.nodeid: properties
        for report in reports
        if isinstance(report, pytest.TestReport) and (properties := dict(report.user_properties)).get(f"{PROPERTY}line")
    }
    if not told:
        return
    terminalreporter.section("llmbench")
    for properties in told.values():
        terminalreporter.write_line(properties[f"{PROPERTY}line"])
    for report in dict.fromkeys(filter(None, (properties.get(f"{PROPERTY}report") for properties in told.values()))):
        terminalreporter.write_line(f"report: {report}")
