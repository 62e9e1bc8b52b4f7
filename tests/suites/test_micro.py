"""The micro suite as a user starts it, and the ranks of its all-reduce."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from llmbench.report.benchmarks import benchmarks_page
from llmbench.report.format import si
from tests.conftest import wait_for
from tests.report.html_reader import Page

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--benchmark-max-time=0.01", "--benchmark-warmup-iterations=1")


def pytest_in(environment: dict[str, str], *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """As from a shell in the checkout: what xdist tells its workers is not for the pytest inside."""
    inherited = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_measures_as_spelled_in_the_docs_and_its_json_has_a_page(environment: dict[str, str], tmp_path: Path) -> None:
    written = tmp_path / "micro.json"
    chosen = "test_matmul and fp32-256 or test_adamw_step or test_attention_backward and fp32-128 or gpt-tiny-cpu-bf16"
    command = ("suites/", "--benchmark-only", f"--benchmark-json={written}", "-k", f"cpu and ({chosen})", *QUICK)
    done = pytest_in(environment, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["name"]: one for one in json.loads(written.read_text(encoding="utf-8"))["benchmarks"]}
    assert len(found) == 6

    matmul = found["test_matmul[cpu-fp32-256]"]
    assert matmul["group"] == "matmul"
    assert matmul["stats"]["rounds"] >= 5
    assert matmul["options"]["timer"] == "clock"
    threads = int(environment["OMP_NUM_THREADS"])
    assert matmul["extra_info"] == {
        "device": "cpu",
        "dtype": "fp32",
        "shape": [256, 256, 256],
        "threads": threads,
        "flops": 2 * 256**3,
    }
    step = found["test_training_step[gpt-tiny-cpu-bf16]"]["extra_info"]
    assert (step["tokens"], step["shape"], step["dtype"]) == (8 * 128, [8, 128], "bf16")
    # "6 N" for each token, N being the parameters in products (tied head included), and attention beside.
    assert 1 < step["flops"] / (6 * (2 * 12 * 128**2 + 1024 * 128) * 1024) < 1.5

    page = Page(benchmarks_page(written))
    assert "6 benchmarks in 4 groups" in page.one("h1").text
    rate = si(2 * 256**3 / matmul["stats"]["median"])
    assert page.all("desc")[0].text.startswith(f"matmul[cpu-fp32-256]: {rate}")


@pytest.mark.slow
def test_the_whole_suite_is_collected(environment: dict[str, str]) -> None:
    done = pytest_in(environment, "suites/", "--collect-only", "--benchmark-only")
    assert done.returncode == 0, done.stdout + done.stderr
    for operator in ("matmul", "attention_forward", "attention_backward", "layer_norm", "cross_entropy", "adamw_step"):
        assert f"test_operators.py::test_{operator}[cpu-" in done.stdout
    for backend in ("gloo", "nccl"):
        assert f"test_operators.py::test_all_reduce[{backend}-" in done.stdout
    for workload in ("gpt-tiny", "bert-tiny", "lora-tiny", "regression-mlp"):
        for mode in ("eager", "bf16", "compile"):
            assert f"test_training.py::test_training_step[{workload}-cpu-{mode}]" in done.stdout


def test_a_plain_pytest_collects_none_of_it(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "suites", tmp_path / "suites")
    done = pytest_in(environment, "--collect-only", "-n", "0", folder=tmp_path)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout + done.stderr


def module_of_the_suite(name: str) -> ModuleType:
    """A file of ``suites/``, which is no package."""
    specification = importlib.util.spec_from_file_location(f"suites_{name}", ROOT / "suites" / f"{name}.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_clock_is_read_after_the_device_has_ended_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = module_of_the_suite("devices")
    happened = []
    monkeypatch.setattr(devices.Device, "synchronize", lambda device: happened.append("synchronized"))
    monkeypatch.setattr(devices.time, "perf_counter", lambda: happened.append("read") or 7.0)
    assert devices.clock() == 7.0
    assert happened == ["synchronized", "read"]


@pytest.fixture
def ranks(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("OMP_NUM_THREADS", environment["OMP_NUM_THREADS"])
    return module_of_the_suite("ranks")


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("gone", [False, True], ids=["dying", "gone"])
def test_reading_the_clock_waits_for_all_reduces_and_a_killed_rank_is_told(ranks: ModuleType, gone: bool) -> None:
    before = set(family())
    asking = ranks.Ranks(world_size=2)
    with asking.start("gloo"):
        asking.prepare(1024, "float32")
        begin = asking.clock()
        for _ in range(100):  # more than there can be before sums are scaled back
            asking.all_reduce()
        assert asking.clock() > begin
        started = [process for process in family() if process not in before]
        both = [process for process in started if process.cmdline()[-1:] == ["gloo"] and not process.children()]
        assert len(both) == 2
        both[0].kill()
        if gone:
            wait_for(lambda: not any(alive(process) for process in both))
        asking.all_reduce()
        with pytest.raises(ranks.RanksError, match=r"(?s)ended during 'all_reduce 1'.*exitcode.*-9"):
            asking.clock()
    assert wait_for(lambda: not [process for process in started if process.is_running()])


@pytest.mark.slow
def test_a_launcher_that_does_not_leave_is_killed(ranks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "LEAVE", 0.5)
    before, asking = set(family()), ranks.Ranks(world_size=2)

    def ask() -> None:
        with asking.start("gloo"):
            launcher = min(set(family()) - before, key=lambda process: process.create_time())
            launcher.suspend()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask()
    assert wait_for(lambda: not set(family()) - before)


@pytest.mark.slow
def test_ranks_that_do_not_start_say_why(ranks: ModuleType) -> None:
    with pytest.raises(ranks.RanksError, match=r"(?s)did not start.*nonsense"), ranks.Ranks(2).start("nonsense"):
        pass
