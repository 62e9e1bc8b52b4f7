"""The script of the budgets, on runs so small that they are made and shown in no time."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from llmbench.results.store import RunFolder

FILE = Path(__file__).parents[2] / "suites" / "report_budgets.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_budgets", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "report_budgets", module)
    spec.loader.exec_module(module)
    small = replace(module.BUDGETS[0], workloads=2, modes=2, steps=70, seconds=600.0)
    monkeypatch.setattr(module, "BUDGETS", (small,))
    monkeypatch.setattr(module, "show", lambda page, rounds: (120.0, None))
    monkeypatch.setattr(sys, "argv", ["report_budgets.py", "--rounds", "1"])
    return module


def test_its_runs_are_whole(script: ModuleType, tmp_path: Path) -> None:
    folder = script.make_run(tmp_path / "r", script.BUDGETS[0])
    assert [record.status for record in folder.records()] == ["ok"] * 4
    found = RunFolder(tmp_path / "r").recorded()
    assert [one.damage for one in found] == [[]] * 4
    assert len(folder.read_series(found[0].record).loss) == 70


def test_there_are_modes_for_the_largest_run(script: ModuleType) -> None:
    assert len(set(script.modes(25))) == 25
    assert script.modes(1) == ["eager"]


def test_it_measures_and_judges(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main() == 0
    table, document = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert "24x500" in table
    (page,) = script.json.loads(document)["pages"]
    assert page["exceeded"] == []
    assert page["show_ms"] == 120.0
    assert 50_000 < page["bytes"] < 400_000
    assert page["cpu_seconds"] > 0.1


@pytest.mark.parametrize("limit", ["bytes", "seconds", "show_ms"])
def test_what_is_exceeded_is_named_and_ends_it_with_1(
    limit: str, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(arguments: list[str]) -> tuple[float, float]:
        Path(arguments[1], "report.html").write_text("page")
        return 0.5, 0.5

    monkeypatch.setattr(script, "build", build)
    monkeypatch.setattr(script, "BUDGETS", (replace(script.BUDGETS[0], **{limit: 0.1}),))
    assert script.main() == 1
    assert f"EXCEEDED: {limit}" in capsys.readouterr().out
