"""A comparison on disk: appended, resumed, read although it is damaged."""

from __future__ import annotations

import json

import pytest

from llmbench.errors import UserError
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.ab import compared
from tests.ab_factory import CASE, FAILED, SCENARIOS, made_ab, made_session, made_sessions, written


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "ab", made_ab(), made_sessions(3, rounds=2))


def lines(folder):
    return (folder.path / "sessions.jsonl").read_text(encoding="utf-8").splitlines()


def change(folder, number, **fields):
    """Changes fields of a session, or takes them away if they are ``GONE``."""
    found = lines(folder)
    document = json.loads(found[number - 1]) | fields
    found[number - 1] = json.dumps({key: value for key, value in document.items() if value != "GONE"})
    (folder.path / "sessions.jsonl").write_text("\n".join(found) + "\n", encoding="utf-8")


def test_what_was_written_is_read(folder):
    assert folder.read() == made_ab()
    assert folder.sessions() == folder.recorded() == made_sessions(3, rounds=2)
    assert folder.damage == []


def test_sessions_are_only_ever_added(folder):
    before = lines(folder)
    folder.append(made_session(session=3))
    assert lines(folder)[:3] == before
    assert [one.session for one in folder.sessions()] == [0, 1, 2, 3]


def test_a_folder_is_not_used_twice(folder, tmp_path):
    with pytest.raises(UserError, match="holds a comparison already") as raised:
        AbFolder.create(folder.path, made_ab())
    assert f"--resume {folder.path}" in raised.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        AbFolder.create(tmp_path / "file", made_ab())


def test_what_is_no_comparison_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"no comparison: ab.json"):
        AbFolder(tmp_path / "none").read()
    (folder.path / "ab.json").write_text('{"kind": "run"}')
    with pytest.raises(UserError, match=r"ab.json: kind: Input should be 'ab'"):
        folder.read()


def test_half_a_line_of_a_kill_is_passed_over_and_the_next_one_is_whole(folder):
    file = folder.path / "sessions.jsonl"
    text = file.read_bytes()
    file.write_bytes(text + text.splitlines()[0][:200])
    assert len(folder.sessions()) == len(folder.recorded()) == 3
    assert folder.damage == []
    folder.append(made_session(session=3))
    assert [one.session for one in folder.sessions()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"seed": "much"}, "line 2: seed: Input should be a valid integer"),
        ({"rounds": [{"first": "base"}]}, "line 2: rounds.0.base: Field required; rounds.0 is left out"),
        ({"first": "GONE"}, "line 2: first: Field required"),
        ({"seconds": -1}, "line 2: seconds: Input should be greater than or equal to 0"),
        ({"base": {"status": "fine"}}, "line 2: base.status: Input should be 'ok'"),
    ],
)
def test_damage_is_named_and_counts_nowhere(folder, fields, fault):
    change(folder, 2, **fields)
    with pytest.raises(UserError, match=r"sessions.jsonl, line 2"):
        folder.sessions()
    found = folder.recorded()
    assert any(fault in one for one in folder.damage), folder.damage
    assert all(str(folder.path / "sessions.jsonl") in one for one in folder.damage)
    assert [one.whole for one in found] == [True, False, True]
    row = compared(folder.read(), found).cases[0].row("step")
    assert row.sessions == 2


def test_steps_that_are_no_times_are_damage(folder):
    for wrong in (None, "much", [], {}):
        document = json.loads(lines(folder)[0])
        document["rounds"][0]["cand"]["steps"][0] = wrong
        change(folder, 1, rounds=document["rounds"])
        again = AbFolder(folder.path)
        assert not again.recorded()[0].whole
        assert "line 1: rounds.0.cand.steps.0" in again.damage[0]


def test_a_side_that_failed_in_a_damaged_session_did_fail(folder):
    folder.append(made_session(session=3, broken={"cand": FAILED}))
    change(folder, 4, seed="GONE")
    found = compared(folder.read(), folder.recorded())
    assert (found.cases[0].outcome, found.exit_code) == ("broken", 1)


def test_a_line_that_is_no_json_is_damage_of_its_case(folder):
    with open(folder.path / "sessions.jsonl", "a", encoding="utf-8") as file:
        file.write(f'{{"case": "{CASE}", nonsense}}\n\x00\x01\n[]\n')
    found = folder.recorded()
    assert [one.case for one in found[3:]] == [CASE, "sessions.jsonl line 5", "sessions.jsonl line 6"]
    assert not any(one.whole for one in found[3:])
    assert len(folder.damage) == 3


def test_the_log_of_a_side_is_read_and_nothing_outside(tmp_path):
    folder = SCENARIOS["broken"].folder(tmp_path / "ab")
    failed = folder.sessions()[-1].cand
    assert folder.log_tail(failed) == ["Traceback (most recent call last):", FAILED.message]
    assert folder.log_tail(failed, 1) == [FAILED.message]
    (tmp_path / "secret").write_text("secret")
    for name in ("../secret", str(tmp_path / "secret"), "gone", "a\0b", None):
        assert folder.log_tail(failed.model_copy(update={"log": name})) == []
