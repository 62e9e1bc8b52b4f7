"""--explain and the lists: everything that doctor can say has an explanation."""

from __future__ import annotations

import json

import pytest

from llmbench.cli.names import complete_check, complete_explained
from llmbench.doctor.checks import AREAS, all_checks, all_faults
from llmbench.doctor.explain import explain
from llmbench.errors import UserError
from tests.conftest import Command


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [20, 80])
def test_every_fault(width: int) -> None:
    for fault in all_faults():
        told = words(explain(fault.id, width))
        for part in (fault.id, fault.title, fault.cause, fault.fix, fault.link or "", fault.check):
            assert words(part) in told, fault.id


def test_every_check() -> None:
    faults = all_faults()
    for check in all_checks():
        told = words(explain(check.id))
        for part in (check.id, check.title, *check.needs, *check.follows):
            assert part in told, check.id
        for fault in faults:
            assert (f"{fault.verdict} {fault.id} {words(fault.title)}" in told) == (fault.check == check.id)


def test_every_area() -> None:
    for area in AREAS:
        told = explain(area)
        ours = [check.id for check in all_checks() if check.area == area]
        assert told.startswith(f"{area}: {len(ours)} check{'' if len(ours) == 1 else 's'}\n")
        assert [line for line in told.splitlines() if line in ours] == ours


@pytest.mark.parametrize(
    ("id", "suggestion"),
    [
        ("torch.improt", "torch.import"),
        ("baseline.same.wrose", "baseline.same.worse"),
        ("storge", "storage"),
        ("", "python"),
    ],
)
def test_the_nearest_of_what_is_unknown(id: str, suggestion: str) -> None:
    with pytest.raises(UserError) as error:
        explain(id)
    assert suggestion in str(error.value.hint)


def test_the_command(llmbench: Command) -> None:
    told = llmbench("doctor", "--explain", "baseline.same.worse", COLUMNS="60")
    assert (told.returncode, told.stderr) == (0, "")
    assert max(map(len, told.stdout.splitlines())) <= 60
    unknown = llmbench("doctor", "--explain", "baseline.same.wrose")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "did you mean baseline.same.worse" in unknown.stderr


def test_the_lists(llmbench: Command) -> None:
    faults = json.loads(llmbench("list", "faults", "--json").stdout)
    assert [row["fault"] for row in faults] == [fault.id for fault in all_faults()]
    checks = json.loads(llmbench("list", "checks", "--json").stdout)
    assert sum(row["faults"] for row in checks) == len(faults)


def test_completion() -> None:
    assert complete_check("storage,torch.impo") == ["storage,torch.import"]
    assert complete_check("environ")[0] == "environment"
    assert "baseline.same.worse" in complete_explained("baseline.same.")
    assert "baseline.same.worse" not in complete_check("baseline.")
