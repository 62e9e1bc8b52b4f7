"""Files of pytest-benchmark as the sides of a comparison."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from llmbench.errors import UserError
from llmbench.report.compare.environment import environments
from llmbench.results.sides import load, load_side
from llmbench.stats.comparison import Comparison, Rules
from llmbench.stats.judge import compare_sides

MACHINE = {
    "node": "host-1",
    "processor": "",
    "machine": "x86_64",
    "python_implementation": "CPython",
    "python_implementation_version": "3.11.7",
    "python_version": "3.11.7",
    "python_build": ["main", "May  9 2026"],
    "release": "6.18",
    "system": "Linux",
    "cpu": {"brand_raw": "AMD EPYC", "count": 2, "hz_actual_friendly": "2.59 GHz"},
}


def one(name: str, seconds: float, *, spread: float = 0.002, rounds: int = 100, **more: Any) -> dict[str, Any]:
    """Steady, unless said otherwise."""
    noise = random.Random(name)
    data = [seconds * (1 + abs(noise.gauss(0, spread))) for _ in range(rounds)]
    mean = sum(data) / rounds
    deviation = (sum((value - mean) ** 2 for value in data) / max(1, rounds - 1)) ** 0.5
    stats = {"min": min(data), "mean": mean, "median": mean, "stddev": deviation, "rounds": rounds, "data": data}
    return {"name": name, "fullname": f"test_it.py::{name}", "stats": stats} | more


def write(path: Path, *benchmarks: dict[str, Any], machine: dict[str, Any] | None = None, **more: Any) -> Path:
    commit = {"id": "9c41e07b", "dirty": False}
    document = {"machine_info": machine or MACHINE, "commit_info": commit, "benchmarks": list(benchmarks)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | {"datetime": "2026-11-22T08:12:04+00:00", "version": "5.3.1"} | more))
    return path


def compared(base: Path, cand: Path, **rules: Any) -> Comparison:
    return compare_sides(*load(base, cand), Rules(**rules))


def outcomes(comparison: Comparison) -> dict[str, str]:
    return {row.case: row.outcome for row in comparison.rows}


def test_verdicts_follow_the_rules_for_stored_runs(tmp_path: Path) -> None:
    names = ("same", "slow", "fast", "noisy", "gone")
    base = write(tmp_path / "base.json", *(one(name, 0.01, spread=0.3 if name == "noisy" else 0.002) for name in names))
    factors = {"same": 1.0, "slow": 1.1, "fast": 0.9, "noisy": 1.1}
    cand = write(
        tmp_path / "cand.json",
        *(one(name, 0.01 * factor, spread=0.3 if name == "noisy" else 0.002) for name, factor in factors.items()),
        one("new", 0.01),
    )
    comparison = compared(base, cand)
    assert outcomes(comparison) == {
        "test_it.py::same": "same",
        "test_it.py::slow": "slower",
        "test_it.py::fast": "faster",
        "test_it.py::noisy": "inconclusive",
        "test_it.py::gone": "only base",
        "test_it.py::new": "only cand",
    }
    assert comparison.exit_code == 1
    assert [failure for _, failure in comparison.failures] == ["−9.1 % throughput"]
    slow = next(row for row in comparison.rows if row.case == "test_it.py::slow")
    assert slow.change is not None
    assert slow.change.ratio == pytest.approx(1 / 1.1)
    assert slow.change.low < 1 / 1.1 < slow.change.high
    assert (slow.memory, slow.loss) == (None, None)


def test_rounds_that_were_not_kept_leave_their_deviation(tmp_path: Path) -> None:
    def bare(seconds: float) -> dict[str, Any]:
        found = one("slow", seconds)
        del found["stats"]["data"]
        return found

    comparison = compared(write(tmp_path / "a.json", bare(0.01)), write(tmp_path / "b.json", bare(0.012)))
    assert outcomes(comparison) == {"test_it.py::slow": "slower"}


def test_neighbouring_rounds_are_not_taken_as_independent(tmp_path: Path) -> None:
    drifting = one("x", 0.01)
    drifting["stats"]["data"] = [0.0099] * 50 + [0.0101] * 50
    drifting["stats"] |= {"mean": 0.01, "stddev": 0.0001}
    bare = one("x", 0.01)
    bare["stats"] = {key: value for key, value in drifting["stats"].items() if key != "data"}
    widths = []
    for name, given in (("kept", drifting), ("bare", bare)):
        [trained] = load_side(write(tmp_path / f"{name}.json", given)).of("test_it.py::x")
        assert trained.record.throughput is not None
        low, high = trained.record.throughput.ci95
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


@pytest.mark.parametrize(
    "stats",
    [
        {"median": 0.01},
        {"median": 0.01, "mean": 0.01, "stddev": 0.0, "rounds": 1},
        {"median": 0.0, "mean": 0.0, "stddev": 0.0, "rounds": 9, "data": [0.0] * 9},
        {"median": 0.01, "mean": 0.01, "rounds": 9},
        {"median": 0.01, "mean": 5e-324, "stddev": 5e-324, "rounds": 9},
    ],
)
def test_without_an_interval_nothing_is_told(tmp_path: Path, stats: dict[str, Any]) -> None:
    given = {"name": "x", "stats": stats}
    comparison = compared(write(tmp_path / "a.json", given), write(tmp_path / "b.json", given))
    assert outcomes(comparison) == {"x": "incomparable"}
    assert comparison.rows[0].reason == "no throughput with an interval was recorded"


def test_other_hardware_is_no_regression(tmp_path: Path) -> None:
    base = write(tmp_path / "a.json", one("x", 0.01))
    other = MACHINE | {"cpu": {"brand_raw": "Intel Xeon", "count": 2}}
    cand = write(tmp_path / "b.json", one("x", 0.02), machine=other)
    comparison = compared(base, cand)
    assert comparison.hardware == ["cpu: AMD EPYC → Intel Xeon"]
    assert (outcomes(comparison), comparison.exit_code) == ({"test_it.py::x": "slower"}, 0)
    assert compared(base, cand, across_hardware=True).exit_code == 1


def test_devices_and_everything_else_that_is_known_of_the_machine(tmp_path: Path) -> None:
    torch = {"torch": {"version": "2.13.0"}, "devices": ["NVIDIA H200"]}
    base = write(tmp_path / "a.json", one("x", 0.01), machine=MACHINE | torch)
    cand = write(
        tmp_path / "b.json",
        one("x", 0.01),
        machine=MACHINE | {"python_version": "3.12.1", "torch": {"version": "2.14.0"}, "devices": ["NVIDIA B200"]},
        commit_info={"id": "ffff", "dirty": True},
        version="4.0.0",
    )
    sides = load(base, cand)
    assert [run.device for side in sides for run in side.runs] == ["cuda", "cuda"]
    differs = {one.key: (one.base, one.cand) for one in environments(sides[0].runs, sides[1].runs).differs}
    assert differs == {
        "torch.version": ("2.13.0", "2.14.0"),
        "devices": tuple(f'[{{"kind": "cuda", "name": "NVIDIA {name}"}}]' for name in ("H200", "B200")),
        "python.version": ("3.11.7", "3.12.1"),
        "packages.pytest-benchmark": ("5.3.1", "4.0.0"),
        "git commit": ("9c41e07b", "ffff"),
        "git dirty": ("no", "yes"),
    }
    assert compare_sides(*sides, Rules()).hardware == ["devices: NVIDIA H200 → NVIDIA B200"]


def test_a_clock_that_moved_is_no_difference(tmp_path: Path) -> None:
    base = write(tmp_path / "a.json", one("x", 0.01))
    moved = MACHINE | {"cpu": MACHINE["cpu"] | {"hz_actual_friendly": "3.1 GHz"}}  # type: ignore[operator]
    sides = load(base, write(tmp_path / "b.json", one("x", 0.01), machine=moved))
    assert not environments(sides[0].runs, sides[1].runs).differs


def test_a_folder_of_files_is_a_side_of_several_runs(tmp_path: Path) -> None:
    for side, factor in (("base", 1.0), ("cand", 1.1)):
        for number in range(3):
            write(tmp_path / side / "Linux-CPython" / f"000{number}_x.json", one("x", 0.01 * factor))
    comparison = compared(tmp_path / "base", tmp_path / "cand")
    assert comparison.rows[0].change is not None
    assert comparison.rows[0].change.runs == (3, 3)
    single = compared(
        tmp_path / "base" / "Linux-CPython" / "0000_x.json", tmp_path / "cand" / "Linux-CPython" / "0000_x.json"
    )
    assert single.rows[0].change is not None
    widths = [row.change.high - row.change.low for row in (comparison.rows[0], single.rows[0]) if row.change]
    assert widths[0] < widths[1]


def test_what_is_timed_in_another_way_is_not_comparable(tmp_path: Path) -> None:
    base = write(tmp_path / "a.json", one("x", 0.01, options={"timer": "perf_counter", "max_time": 1.0}))
    cand = write(tmp_path / "b.json", one("x", 0.02, options={"timer": "process_time", "max_time": 9.0}))
    comparison = compared(base, cand)
    assert comparison.rows[0].reason == "other settings: timer perf_counter vs process_time"
    assert comparison.exit_code == 0


def test_two_of_a_name_are_damage(tmp_path: Path) -> None:
    side = load_side(write(tmp_path / "a.json", one("x", 0.01), one("x", 0.02)))
    assert side.cases == ["test_it.py::x"]
    assert side.of("test_it.py::x")[0].record.throughput.value == pytest.approx(100, rel=0.01)  # type: ignore[union-attr]
    assert side.damage == [f"{tmp_path / 'a.json'}: benchmarks.1: a second `test_it.py::x`, which is left out"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1, column 2: not JSON"),
        ("[]", "it has no field `benchmarks`"),
        ('{"benchmarks": [{"name": "x", "stats": {}}]}', "benchmarks.0.stats.median: Field required"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json") as error:
        load_side(tmp_path / "a.json")
    assert told in error.value.message


def test_a_file_is_never_held_against_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", one("x", 0.01))
    with pytest.raises(UserError, match="on both sides"):
        load(file, file)


@pytest.mark.parametrize(
    ("machine", "options", "data"),
    [({"cpu": "fast"}, None, "x"), ({"devices": 3}, "none", [0.1, None]), ({"node": None}, [], {"0": 1})],
)
def test_fields_of_another_kind_are_passed_over(tmp_path: Path, machine: Any, options: Any, data: Any) -> None:
    given = one("x", 0.01, options=options)
    given["stats"]["data"] = data
    files = [write(tmp_path / name, given, machine=MACHINE | machine) for name in ("a.json", "b.json")]
    assert outcomes(compared(*files)) == {"test_it.py::x": "same"}
