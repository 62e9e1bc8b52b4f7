"""The replay of recorded sessions, on recordings made here: what it finds in them, and what it says of bad ones."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SUITES = Path(__file__).parents[2] / "suites"
DATA = Path(__file__).parents[3] / "shared" / "data" / "regression"
FILES = ("lock.csv", "lock_sessions.csv", "runs.csv", "steps.csv")

Row = dict[str, Any]
Change = Callable[[list[Row]], list[Row]]


def gate_power(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SUITES / "gate_power.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=250)


def record(
    folder: Path,
    *,
    sessions: int = 12,
    rounds: int = 7,
    steps: int = 2,
    noise: float = 0.01,
    blocks: int = 6,
    arms: tuple[str, ...] = ("A1", "A2"),
) -> Path:
    """A folder as the recordings are, with sides that differ by ``noise`` from session to session."""
    rng = random.Random(1)
    lock, lock_sessions, runs, series = list[Row](), list[Row](), list[Row](), list[Row]()
    for session in range(sessions):
        kind = "AS2" if session == 1 else "AA"
        lock_sessions.append({"session": session, "kind": kind, "total_s": 9.5})
        slower = {"A": 1.0, "B": 1.3 if kind == "AS2" else math.exp(rng.gauss(0, noise))}
        for number in range(-1, rounds):
            order = rng.sample(["A", "B"], 2)
            for side in "AB":
                for step in range(steps):
                    nanoseconds = round(
                        2e7 * slower[side] * (1 + rng.expovariate(20)) * (9 if number < 0 and side == "B" else 1)
                    )
                    lock.append(
                        {"session": session, "kind": kind, "side": side, "round": number, "order": order.index(side)}
                        | {"step": step, "wall_ns": nanoseconds, "thread_cpu_ns": round(0.9 * nanoseconds)}
                    )
    for block in range(blocks):
        for arm in arms:
            name = len(runs)
            runs.append({"run_id": name, "block": block, "arm": arm, "t_start": 100.0 * name, "wall_total_s": 3.0})
            series += [
                {"run_id": name, "step": step, "wall_ns": round(2e7 * (1 + rng.expovariate(5)))} for step in range(30)
            ]
    folder.mkdir()
    for file, rows in zip(FILES, (lock, lock_sessions, runs, series), strict=True):
        write(folder / file, rows)
    return folder


def write(file: Path, rows: list[Row]) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def change(file: Path, how: Change) -> None:
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    write(file, how(rows))


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == ["false_alarm", "power", "mean_sessions_aa"]
    assert list(found["power"]) == ["2", "5", "10"]
    assert isinstance(found, dict)
    return found


def test_quiet_recordings_are_told_apart(tmp_path: Path) -> None:
    done = gate_power(record(tmp_path / "quiet", noise=0.005), "--draws", 60)
    found = last_line(done)
    assert found["false_alarm"] == 0
    assert found["power"]["5"] == found["power"]["10"] == 1
    assert 3 <= found["mean_sessions_aa"] < 6
    assert "11 lock-step sessions of identical code, 9.5 s each" in done.stdout  # the AS2 one does not count
    for rule in ("mean:5%", "min:5%", "median:7%", "asv", "pyperf", "criterion", "U .05", "bootstrap", "t .05", "Wilc"):
        assert rule in done.stdout
    assert "n = 5 of each side: 10 processes, 30 s" in done.stdout
    assert "n = 20 of each side: not so many were recorded (6 blocks" in done.stdout


def test_a_machine_too_noisy_gives_no_verdict_and_no_alarm(tmp_path: Path) -> None:
    found = last_line(gate_power(record(tmp_path / "noisy", sessions=30, noise=0.1), "--draws", 400, "--json"))
    assert found["false_alarm"] <= 0.02
    assert found["power"]["5"] < 0.2
    assert found["mean_sessions_aa"] > 6


def test_the_same_seed_gives_the_same_line_and_the_only_one_with_json(tmp_path: Path) -> None:
    folder = record(tmp_path / "some", noise=0.03)
    one = gate_power(folder, "--draws", 50, "--json", "--seed", 4)
    last_line(one)
    assert one.stdout.count("\n") == 1
    assert one.stdout == gate_power(folder, "--draws", 50, "--json", "--seed", 4).stdout
    assert one.stdout != gate_power(folder, "--draws", 50, "--json", "--seed", 5).stdout


def test_columns_in_another_order_and_further_ones_change_nothing(tmp_path: Path) -> None:
    folder = record(tmp_path / "some")
    before = gate_power(folder, "--draws", 50, "--json").stdout
    for file in FILES:
        change(folder / file, lambda rows: [{"further": "?", **dict(reversed(row.items()))} for row in rows[::-1]])
    assert gate_power(folder, "--draws", 50, "--json").stdout == before


@pytest.mark.parametrize(
    "shape", [{"rounds": 1, "steps": 1}, {"rounds": 10, "steps": 7}, {"sessions": 4}, {"sessions": 40, "steps": 1}]
)
def test_other_shapes_are_replayed(tmp_path: Path, shape: dict[str, int]) -> None:
    last_line(gate_power(record(tmp_path / "other", noise=0.003, **shape), "--draws", 20, "--json"))


def test_other_arms_leave_the_rules_in_use_without_pairs(tmp_path: Path) -> None:
    done = gate_power(record(tmp_path / "arms", arms=("A", "S7")), "--draws", 20)
    last_line(done)
    assert "not so many were recorded (0 blocks with two processes)" in done.stdout


@pytest.mark.parametrize("gone", ["runs.csv", "steps.csv"])
def test_without_fresh_processes_the_table_holds_the_product_only(tmp_path: Path, gone: str) -> None:
    folder = record(tmp_path / "some")
    (folder / gone).unlink()
    (folder / "lock_sessions.csv").unlink()
    done = gate_power(folder, "--draws", 20)
    last_line(done)
    assert f"without the rules in use: no {gone}" in done.stdout
    assert "pyperf" not in done.stdout


def at(line: int, **values: str) -> Change:
    """Changes a line as an editor counts them."""
    return lambda rows: [row | values if place == line - 2 else row for place, row in enumerate(rows)]


def without(column: str) -> Change:
    return lambda rows: [{name: value for name, value in row.items() if name != column} for row in rows]


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("lock.csv", without("thread_cpu_ns"), "lock.csv, line 1, field thread_cpu_ns: there is no such column"),
        ("lock.csv", at(9, wall_ns="fast"), "lock.csv, line 9, field wall_ns: 'fast' is not a number"),
        ("lock.csv", at(9, wall_ns="nan"), "lock.csv, line 9, field wall_ns: 'nan' is not a number"),
        ("lock.csv", at(9, wall_ns="0"), "lock.csv, line 9, field wall_ns: '0' is not a time above 0"),
        ("lock.csv", at(9, thread_cpu_ns="-3"), "lock.csv, line 9, field thread_cpu_ns: '-3' is not a time above 0"),
        ("lock.csv", at(9, side="C"), "lock.csv, line 9, field side: 'C' is neither A nor B"),
        ("lock.csv", at(9, round="1.5"), "lock.csv, line 9, field round: '1.5' is not a whole number"),
        ("lock.csv", at(9, session=""), "lock.csv, line 9, field session: empty"),
        ("lock.csv", at(7, step="0"), "lock.csv, line 7, field step: 0 comes twice in this turn"),
        (
            "lock.csv",
            lambda rows: rows[:4] + rows[6:],
            "lock.csv, line 6, field side: session 0, round 0: no step of side A",
        ),
        ("lock.csv", lambda rows: [row for row in rows if row["session"] in "012"], "2 sessions of identical code"),
        ("lock_sessions.csv", at(4, total_s="soon"), "lock_sessions.csv, line 4, field total_s: 'soon' is not a"),
        ("runs.csv", without("block"), "runs.csv, line 1, field block: there is no such column"),
        ("runs.csv", at(3, run_id="77"), "runs.csv, line 3, field run_id: no step of '77' in steps.csv"),
        ("steps.csv", at(5, wall_ns="0"), "steps.csv, line 5, field wall_ns: '0' is not a time above 0"),
    ],
)
def test_bad_recordings_are_named_by_file_line_and_field(tmp_path: Path, file: str, how: Change, message: str) -> None:
    folder = record(tmp_path / "bad", sessions=5, rounds=2, blocks=2)
    change(folder / file, how)
    done = gate_power(folder, "--draws", 1)
    assert done.returncode == 2
    assert f"error: {folder}" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    folder = record(tmp_path / "bad", sessions=4, rounds=2)
    (folder / "lock.csv").write_bytes(b"session,kind\n\xff\xfe\x00")
    done = gate_power(folder)
    assert done.returncode == 2
    assert "lock.csv" in done.stderr


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    done = gate_power(tmp_path / "nowhere")
    assert done.returncode == 2
    assert f"error: {tmp_path / 'nowhere'}: no such folder" in done.stderr
    (tmp_path / "empty").mkdir()
    done = gate_power(tmp_path / "empty")
    assert done.returncode == 2
    assert f"error: {tmp_path / 'empty' / 'lock.csv'}: no such file" in done.stderr


def test_the_folder_may_be_named_by_the_environment(tmp_path: Path) -> None:
    folder = record(tmp_path / "some", noise=0.003)
    last_line(gate_power("--draws", 5, "--json", env={"LLMBENCH_REGRESSION_DATA": str(folder)}))
    done = gate_power("--json", env={"LLMBENCH_REGRESSION_DATA": str(tmp_path / "gone")})
    assert done.returncode == 2
    assert "gone: no such folder" in done.stderr


def test_without_any_folder_the_error_says_how_to_name_one() -> None:
    script = "import sys, pathlib; sys.path.insert(0, sys.argv.pop(1)); import gate_power as g; "
    script += "g.DEFAULT = pathlib.Path('nowhere'); sys.exit(g.main())"
    done = subprocess.run(
        [sys.executable, "-c", script, str(SUITES)], capture_output=True, text=True, env={}, timeout=100
    )
    assert done.returncode == 2
    assert "no recordings: nowhere does not exist" in done.stderr
    assert "nox -s gate-power -- DIR, or LLMBENCH_REGRESSION_DATA=DIR" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the recordings are not there: {DATA}")
def test_the_gate_holds_its_limits_on_the_real_recordings() -> None:
    found = last_line(gate_power(DATA, "--json"))
    assert found["false_alarm"] <= 0.01
    assert found["power"]["5"] >= 0.95
    assert found["power"]["10"] >= 0.99
    assert found["mean_sessions_aa"] <= 6


@pytest.mark.slow
def test_made_noise_is_simulated() -> None:
    done = subprocess.run(
        [sys.executable, str(SUITES / "gate_noise.py"), "--draws", "40"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    rows = {line[:28].strip(): line[28:].split() for line in done.stdout.splitlines()[2:]}
    assert float(rows["normal, 1 %"][2]) > 0.9
    assert float(rows["normal, 50 %"][2]) < 0.2
