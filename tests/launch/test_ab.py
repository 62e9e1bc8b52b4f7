"""A comparison adds sessions until the verdict is in: what each gives, when it ends, and how it is gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.launch import pair, sessions
from llmbench.launch.ab import start
from llmbench.results.ab import SIDES, AbGate
from llmbench.results.ab_folder import AbFolder
from llmbench.results.store import RunFolder
from llmbench.worker.lockstep import WARM_UP_STEPS
from tests.conftest import Command, records_of, wait_for

from .conftest import QUICK, QUICK_TORCH, ROUNDS, Compare


def steps_of(compare: Compare, side: str) -> list[tuple[float, float]]:
    """When each step of a side began and ended."""
    lines = (compare.folder / f"{side}.steps").read_text().splitlines()
    return [tuple(map(float, line.split())) for line in lines]


def test_the_token_is_held_by_one_side_only(compare: Compare) -> None:
    compare.plan(base={"steps": True}, cand={"steps": True})
    session = compare.one_session()
    assert session.whole
    marked = {side: steps_of(compare, side) for side in SIDES}
    # After both warm-ups, no two steps of different sides at any time.
    turns = [(*step, side) for side in SIDES for step in marked[side][WARM_UP_STEPS:]]
    turns.sort()
    assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(turns))
    per_turn = {len(turn.steps) for one in session.rounds for turn in (one.base, one.cand)}
    assert len(per_turn) == 1
    (steps,) = per_turn
    assert steps >= pair.SHORTEST_TURN
    assert len(session.rounds) == ROUNDS
    assert [len(marked[side]) for side in SIDES] == [WARM_UP_STEPS + ROUNDS * steps] * 2
    order = [side for _, _, side in turns[::steps]]
    assert order == [side for one in session.rounds for side in (one.first, {"base": "cand"}.get(one.first, "base"))]


def orders(compare: Compare) -> list[tuple[object, ...]]:
    return [(one.seed, one.first, *(each.first for each in one.rounds)) for one in compare.sessions()]


def test_the_order_of_starts_and_turns_follows_from_the_seed(compare: Compare, tmp_path: Path) -> None:
    found = []
    for name, seed, budget in (("one", 3, 60.0), ("again", 3, 0.001), ("other", 4, 0.001)):
        compare.out = tmp_path / name
        compare(seed=seed, budget_seconds=budget)
        found.append(orders(compare))
    assert found[0][:1] == found[1] != found[2]
    assert len({order[1:] for order in found[0]}) == 3  # each session has its own


def test_without_a_seed_each_comparison_has_its_own_and_tells_it(compare: Compare, tmp_path: Path) -> None:
    seeds = set()
    for name in ("one", "other"):
        compare.out = tmp_path / name
        seeds.add(compare.start(seed=None).ab.seed)
    assert len(seeds) == 2
    assert compare.found().ab.seed in seeds


def test_what_a_session_tells(compare: Compare) -> None:
    compare.plan(base={"facts": True}, cand={"facts": True})
    session = compare.one_session()
    assert (session.case, session.session, session.design) == ("regression-linear/eager/ws1", 0, "lockstep")
    for side in SIDES:
        trained = session.of(side)
        assert trained.memory.peak_rss_bytes == 10**8
        assert trained.preempted == 1
        assert trained.loss == [1 / (1234 + step) for step in range(12)]
        assert (compare.out / trained.log).read_text().count("llmbench: timed") == 1
        assert trained.facts["cpus"] == (session.cpus or sorted(os.sched_getaffinity(0)))
    if len(os.sched_getaffinity(0)) > 1:
        assert len(session.cpus) == 1
    turn = session.rounds[0].base
    assert turn.wall >= sum(turn.steps) > 0
    assert turn.cpu > 0


def test_each_side_has_its_folder_and_its_import_path_and_all_that_the_user_has(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in SIDES:
        (tmp_path / side).mkdir()
        compare.paths[side] = [str(tmp_path / side), *compare.paths[side]]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))
    monkeypatch.setenv("OF_THE_USER", "kept")
    compare.plan(base={"facts": True}, cand={"facts": True})
    folders = {side: compare.side(side).model_copy(update={"folder": str(tmp_path / side)}) for side in SIDES}
    session = compare.one_session(**folders)
    for side in SIDES:
        facts = session.of(side).facts
        assert facts["folder"] == str(tmp_path / side)
        expected = [str(tmp_path / side), str(QUICK_TORCH), str(tmp_path / "own")]
        assert facts["environ"]["PYTHONPATH"] == os.pathsep.join(expected)
        assert [entry for entry in facts["path"] if entry in expected] == expected
        assert facts["environ"]["OF_THE_USER"] == "kept"
        assert os.environ.items() - {("PYTHONPATH", str(tmp_path / "own"))} <= facts["environ"].items()
        # Nothing of the control side, or of what it needs, is imported there.
        roots = {name.split(".")[0] for name in facts["modules"]}
        assert not roots & {"pydantic", "typer", "rich", "jinja2", "psutil"}
        ours = {name for name in facts["modules"] if name.startswith("llmbench.")}
        assert {".".join(name.split(".")[:2]) for name in ours} == {"llmbench.worker"}
    assert not any((tmp_path / side).iterdir() for side in SIDES) or all(
        set(os.listdir(tmp_path / side)) <= {"__pycache__"} for side in SIDES
    )


def test_identical_sides_are_the_same(compare: Compare) -> None:
    found = compare(gate=gate(looks=[3, 5, 8]), rounds=12)
    assert found.exit_code == 0
    outcomes = {row.metric: row.outcome for row in found.rows}
    assert outcomes["memory"] == outcomes["loss"] == "same"
    assert found.cases[0].row("loss").loss.verdict == "bitwise"
    assert found.ab.status == "done"


def gate(**changes: object) -> AbGate:
    values = {"tolerance": 0.01, "limit": 0.05, "alpha": 0.01, "beta": 0.05, "looks": [3, 5, 8, 12, 20]}
    return AbGate(**(values | changes))


def test_what_is_three_times_as_slow_is_seen_at_the_first_look(compare: Compare) -> None:
    compare.plan(cand={"slowdown": 3.0})
    found = compare(gate=gate())
    assert found.exit_code == 1
    row = found.cases[0].row("step")
    assert row.outcome == "slower"
    assert row.time.ratio == pytest.approx(3.0, rel=0.2)
    # It ends as soon as the verdict is in, at a look that may decide.
    assert len(compare.sessions()) == row.time.sessions <= 5


def test_the_budget_is_for_each_case_and_what_is_open_stays_open(compare: Compare) -> None:
    compare.suite = QUICK.replace('"regression-linear"', '"regression-linear", "regression-mlp"')
    found = compare(budget_seconds=0.001)
    assert [len(case.sessions) for case in found.cases] == [1, 1]
    assert {row.outcome for row in found.rows if row.metric in ("step", "total")} == {"inconclusive"}
    assert found.exit_code == 0
    assert found.ab.status == "done"


def test_no_session_is_begun_that_would_outlast_the_budget(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: each session takes 10 s of it."""
    now = [0.0]
    runner = compare.start(budget_seconds=25.0, gate=gate())
    session = runner.hold

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    def slow(*arguments: object) -> object:
        found = session(*arguments)
        now[0] += 10.0
        return found.model_copy(update={"seconds": 10.0})

    monkeypatch.setattr(sessions, "time", Clock)
    monkeypatch.setattr(runner, "hold", slow)
    runner.execute()
    assert len(compare.sessions()) == 2


def test_a_machine_that_is_too_noisy_is_left_early(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session is of another speed of the candidate, as if others had the machine."""
    speeds = cycle([9.0, 1 / 9])
    runner = compare.start(gate=gate())
    session = runner.hold

    def noisy(*arguments: object) -> object:
        speed = next(speeds)
        found = session(*arguments)
        rounds = [
            one.model_copy(
                update={
                    "cand": one.cand.model_copy(
                        update={
                            "steps": [seconds * speed for seconds in one.cand.steps],
                            "wall": one.cand.wall * speed,
                            "cpu": None,
                            "waited": None,
                        }
                    )
                }
            )
            for one in found.rounds
        ]
        return found.model_copy(update={"rounds": rounds})

    monkeypatch.setattr(runner, "hold", noisy)
    runner.execute()
    found = compare.found()
    assert len(compare.sessions()) < 12
    assert found.exit_code == 0
    assert "too noisy" in found.cases[0].row("step").reason


def test_resume_adds_to_what_there_is(compare: Compare) -> None:
    compare.start(budget_seconds=0.001).execute()
    before = (compare.out / "sessions.jsonl").read_bytes()
    compare.resume(budget=60.0).execute()
    assert (compare.out / "sessions.jsonl").read_bytes().startswith(before)
    assert [one.session for one in compare.sessions()] == [0, 1, 2]
    found = compare.found()
    assert (found.ab.resumed, found.ab.status) == (1, "done")
    assert found.cases[0].row("step").sessions == 3
    once = orders(compare)
    compare.out = compare.out.with_name("at once")
    compare()
    assert orders(compare) == once  # as if it had not been interrupted


@pytest.mark.slow
def test_resume_of_what_is_settled_adds_nothing(compare: Compare) -> None:
    compare()
    before = (compare.out / "sessions.jsonl").read_bytes()
    compare.resume().execute()
    assert (compare.out / "sessions.jsonl").read_bytes() == before


def refused(compare: Compare) -> UserError:
    """How it is refused to resume; nothing is changed by that."""
    files = [compare.out / name for name in ("ab.json", "sessions.jsonl")]
    before = [file.read_bytes() for file in files if file.exists()]
    with pytest.raises(UserError) as error:
        compare.resume()
    assert [file.read_bytes() for file in files if file.exists()] == before
    return error.value


def test_resume_refuses_other_packages(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    compare.start(budget_seconds=0.001).execute()
    monkeypatch.setenv("QUICK_PACKAGES", json.dumps({"numpy": "2.4.0"}))
    error = refused(compare)
    assert "the environment of base changed since: its packages" in error.message
    assert error.hint


def test_resume_refuses_another_torch(compare: Compare) -> None:
    compare.start(budget_seconds=0.001).execute()
    stored = json.loads((compare.out / "ab.json").read_text())
    stored["cand"]["environment"]["torch"]["version"] = "2.12.0"
    (compare.out / "ab.json").write_text(json.dumps(stored))
    assert "the environment of cand changed since: torch 2.12.0 → 2.13.0" in refused(compare).message


def test_resume_refuses_another_text(compare: Compare, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A sentence of several words, again and again. " * 2000)
    compare.start(budget_seconds=0.001, data=str(text)).execute()
    text.write_text("Other words stand here now, one after the other. " * 2000)
    assert f"the text of --data {text} is not what it was" in refused(compare).message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is no comparison: ab.json: No such file"),
        ('{"schema_version": 1, "id"', "ab.json: "),
        ("[]", "ab.json: "),
        ('{"schema_version": 1, "kind": "ab", "id": "x", "suite": "s", "cases": 7}', "cases"),
    ],
)
def test_resume_of_what_is_no_comparison(compare: Compare, content: str | None, why: str) -> None:
    compare.out.mkdir()
    if content is not None:
        (compare.out / "ab.json").write_text(content)
    error = refused(compare)
    assert why in error.message
    assert str(compare.out) in error.message
    assert error.hint


def test_resume_refuses_what_a_newer_llmbench_wrote(compare: Compare) -> None:
    compare.start(budget_seconds=0.001).execute()
    stored = json.loads((compare.out / "ab.json").read_text())
    (compare.out / "ab.json").write_text(json.dumps(stored | {"schema_version": 99, "new": True}))
    assert "schema_version 99 is newer than 1" in refused(compare).message


def test_half_a_line_of_a_kill_is_passed_over(compare: Compare) -> None:
    compare.start(budget_seconds=0.001).execute()
    file = compare.out / "sessions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    compare.resume(budget=60.0).execute()
    assert [one.session for one in compare.sessions()] == [0, 1, 2]
    assert file.read_bytes().startswith(whole + whole[: len(whole) // 2] + b"\n")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda line: "no JSON at all", "sessions.jsonl, line 2"),
        (lambda line: line.replace('"design":"lockstep"', '"design":"dance"'), "design"),
        (lambda line: line.replace('"seed":', '"need":'), "seed"),
        (lambda line: line.replace('"wall":', '"wall":"fast","was":', 1), "rounds.0.base.wall"),
    ],
)
def test_a_damaged_line_is_named_with_its_field(compare: Compare, change: Callable[[str], str], field: str) -> None:
    compare.start(budget_seconds=0.001).execute()
    file = compare.out / "sessions.jsonl"
    line = file.read_text().strip()
    damaged = change(line)
    assert damaged != line
    file.write_text(f"{line}\n{damaged}\n")
    error = refused(compare)
    assert f"{file}, line 2" in error.message
    assert field in error.message
    assert error.hint


def test_one_process_at_a_time_adds_sessions(compare: Compare) -> None:
    compare.plan(cand={"at": "build", "does": "wait"})
    runner = compare.start(budget_seconds=0.001)
    assert "adds sessions to it just now" in refused(compare).message
    with compare.running(runner.execute) as running:
        compare.reached("cand")
        code = "import sys; from pathlib import Path; from llmbench.results.ab_folder import AbFolder as F\n"
        other = [sys.executable, "-c", f"{code}F(Path(sys.argv[1])).claim()", str(compare.out)]
        done = subprocess.run(other, capture_output=True, text=True)
        assert "UserError" in done.stderr
        compare.go("cand")
        running.result(timeout=60)
    assert subprocess.run(other, capture_output=True).returncode == 0
    assert len(compare.sessions()) == 1


def test_a_comparison_is_not_begun_where_there_is_one(compare: Compare) -> None:
    compare.start(budget_seconds=0.001).execute()
    before = (compare.out / "ab.json").read_bytes()
    with pytest.raises(UserError, match="holds a comparison already"):
        compare.start()
    assert (compare.out / "ab.json").read_bytes() == before
    assert len(compare.sessions()) == 1


def test_a_declared_change_has_a_seed_of_its_own_in_each_session(compare: Compare) -> None:
    compare(gate=gate(loss_margin=0.1, looks=[3]))
    losses = [session.base.loss for session in compare.sessions()]
    assert all(session.base.loss == session.cand.loss for session in compare.sessions())
    assert len({tuple(loss) for loss in losses}) == len(losses)


SETTINGS = "settings = { steps = 20, threads = 1, budget_seconds = 0, eval_batches = 1 }"


@pytest.mark.slow
def test_losses_are_those_of_a_run(compare: Compare, llmbench: Command, tmp_path: Path) -> None:
    """With the real torch: bitwise those of the other side, and of ``llmbench run``; LoRA trains its base once."""
    compare.suite = f'workloads = ["regression-linear", "lora-tiny"]\n{SETTINGS}'
    compare.paths = {side: [] for side in SIDES}
    found = compare(budget_seconds=0.001)
    assert llmbench("run", compare.folder / "suite.toml", "--out", tmp_path / "r").returncode == 0
    records = records_of(tmp_path / "r")
    assert len(found.cases) == 2
    for case in found.cases:
        (session,) = case.sessions
        assert session.whole
        assert session.base.loss == session.cand.loss
        series = RunFolder(tmp_path / "r").read_series(records[case.case.id])
        assert session.base.loss == series.loss
        assert session.base.facts == session.cand.facts
        memory = session.base.memory
        assert 0 < memory.start_rss_bytes <= memory.peak_rss_bytes < memory.capacity_bytes


@pytest.mark.slow
def test_ranks_take_turns(compare: Compare) -> None:
    """Two processes on each side; one of them dies in the second comparison."""
    compare.paths = {side: [] for side in SIDES}
    compare.suite = f'workloads = ["own_line:Healthy"]\nmodes = ["ddp"]\nworld_sizes = [2]\n{SETTINGS}'
    session = compare.one_session()
    assert session.whole, (session.base.error, session.cand.error)
    assert session.base.loss == session.cand.loss
    assert len(session.rounds) == ROUNDS
    assert all(turn.cpu > 0 for one in session.rounds for turn in (one.base, one.cand))
    healthy = AbFolder(compare.out).read().cases[0]

    compare.suite = compare.suite.replace("own_line:Healthy", "broken_ranks:IsKilled")
    compare.out = compare.out.with_name("killed")
    request = compare.request(budget_seconds=0.001)
    request.cases[0] = request.cases[0].model_copy(update={"base": healthy.base})
    runner = start(request, compare.progress)
    runner.execute()
    (session,) = compare.sessions()
    assert session.base.status == "aborted"
    assert session.cand.error.message.startswith("rank 1 of 2 on ")
    assert "killed by SIGKILL in phase warmup" in session.cand.error.message
    wait_for(lambda: not compare.processes())


@pytest.mark.slow
def test_a_workload_of_ones_own_that_hangs_says_where(compare: Compare) -> None:
    """With the real torch: the stack tells which line of the user's it was."""
    compare.paths = {side: [] for side in SIDES}
    compare.suite = f'workloads = ["broken_turns:Hangs"]\n{SETTINGS[:-2]}, deadline_seconds = 10 }}'
    session = compare.one_session()
    assert {session.of(side).status for side in SIDES} == {"timeout"}
    for side in SIDES:
        assert "in phase timed after 12 steps" in session.of(side).error.message
        assert "broken_turns.py:" in session.of(side).error.message
        assert "in forward" in session.of(side).error.message
    assert compare.found().exit_code == 3


@pytest.mark.slow
def test_a_workload_of_ones_own_that_fits_only_alone(compare: Compare) -> None:
    compare.paths = {side: [] for side in SIDES}
    compare.suite = f'workloads = ["broken_turns:NeedsAllMemory"]\n{SETTINGS}'
    compare.start(budget_seconds=0.001).execute()
    compare.resume(budget=1.0).execute()
    first, *later = compare.sessions()
    killed = next(first.of(side) for side in SIDES if first.of(side).status == "oom")
    assert (killed.error.type, killed.error.message.split(" (")[0]) == (
        "OutOfMemoryError",
        "Tried to allocate 7.00 GiB",
    )
    assert later
    assert all(session.design == "apart" and session.whole for session in later)
