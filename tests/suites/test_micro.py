"""The micro suite as a user starts it, and the ranks of its all-reduce."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from llmbench.report.benchmarks import benchmarks_page
from tests.conftest import wait_for
from tests.report.html_reader import Page

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--benchmark-max-time=0.01", "--benchmark-warmup-iterations=1")


def pytest_in(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """As from a shell in the checkout: what xdist tells its workers is not for the pytest inside."""
    inherited = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=280,
    )


def results(path: Path) -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]}


def test_operators_measure_as_spelled_in_the_readme_and_their_json_has_a_page(
    environment: dict[str, str], tmp_path: Path
) -> None:
    written = tmp_path / "micro.json"
    selected = "test_matmul and fp32-256 or test_adamw_step and cpu or test_attention_backward and fp32-128"
    done = pytest_in(environment, "suites/", "--benchmark-only", f"--benchmark-json={written}", "-k", selected, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(written)
    assert len(found) == 5
    matmul = found["test_matmul[cpu-fp32-256]"]
    assert matmul["group"] == "matmul"
    assert matmul["stats"]["rounds"] >= 5
    assert matmul["options"]["timer"] == "clock"
    assert matmul["extra_info"] == {
        "device": "cpu",
        "dtype": "fp32",
        "shape": [256, 256, 256],
        "threads": int(environment["OMP_NUM_THREADS"]),
        "flops": 2 * 256**3,
    }
    page = Page(benchmarks_page(written))
    rate = 2 * 256**3 / matmul["stats"]["median"]
    assert f"{rate / 1e9:.3g}"[:3] in page.all("desc")[0].text
    assert "5 benchmarks in 3 groups" in page.one("h1").text


def test_a_training_step_says_its_tokens_and_flops(environment: dict[str, str], tmp_path: Path) -> None:
    written = tmp_path / "micro.json"
    chosen = "suites/test_training.py::test_training_step[gpt-tiny-cpu-bf16]"
    done = pytest_in(environment, chosen, "--benchmark-only", f"--benchmark-json={written}", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    info = results(written)["test_training_step[gpt-tiny-cpu-bf16]"]["extra_info"]
    assert (info["tokens"], info["shape"], info["dtype"]) == (8 * 128, [8, 128], "bf16")
    # 6 N for each token and its attention, and here N is what is in products: 4.6e5 parameters without positions.
    assert 6 * 4.6e5 * 1024 < info["flops"] < 2 * 6 * 4.6e5 * 1024


def test_the_whole_suite_is_collected_there_and_none_of_it_by_default(environment: dict[str, str]) -> None:
    done = pytest_in(environment, "suites/", "--collect-only", "--benchmark-only")
    assert done.returncode == 0, done.stdout + done.stderr
    for operator in ("matmul", "attention_forward", "attention_backward", "layer_norm", "cross_entropy", "adamw_step"):
        assert f"test_operators.py::test_{operator}[cpu-" in done.stdout
    for backend in ("gloo", "nccl"):
        assert f"test_operators.py::test_all_reduce[{backend}-" in done.stdout
    for workload in ("gpt-tiny", "bert-tiny", "lora-tiny", "regression-mlp"):
        for mode in ("eager", "bf16", "compile"):
            assert f"test_training.py::test_training_step[{workload}-cpu-{mode}]" in done.stdout
    # Without the tests there is nothing left for a plain `pytest` to collect.
    plain = pytest_in(environment, "--collect-only", "-n", "0", "--ignore=tests")
    assert plain.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, plain.stdout


@pytest.fixture
def ranks(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``suites/ranks.py``, which is in no package."""
    monkeypatch.setenv("OMP_NUM_THREADS", environment["OMP_NUM_THREADS"])
    specification = importlib.util.spec_from_file_location("suites_ranks", ROOT / "suites" / "ranks.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_reading_the_clock_waits_for_all_reduces_and_a_killed_rank_is_told(ranks: ModuleType) -> None:
    before = set(family())
    asking = ranks.Ranks(world_size=2)
    with asking.start("gloo"):
        asking.prepare(1024, "float32")
        begin = asking.clock()
        for _ in range(100):  # more than there can be before sums are scaled back
            asking.all_reduce()
        assert asking.clock() > begin
        started = [process for process in family() if process not in before]
        victim = next(process for process in started if process.cmdline()[-1:] == ["gloo"] and not process.children())
        victim.kill()
        asking.all_reduce()
        with pytest.raises(ranks.RanksError, match="ended during 'all_reduce 1'"):
            asking.clock()
    assert wait_for(lambda: not [process for process in started if process.is_running()])


def test_ranks_that_do_not_start_say_why(ranks: ModuleType) -> None:
    with pytest.raises(ranks.RanksError, match=r"(?s)did not start.*nonsense"), ranks.Ranks(2).start("nonsense"):
        pass
