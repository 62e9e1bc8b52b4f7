"""docs/extending.md, followed word by word: its files are written, its lines inserted, its commands run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Command, records_of

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
_BLOCK = r"```\w+\n(?P<{}>.*?)```"
_STEP = re.compile(
    r"^`(?P<file>[\w./-]+)`:\n\n" + _BLOCK.format("text")
    + r"|^In `(?P<into>[\w./]+)`, after the line `(?P<line>.*?)`:\n\n" + _BLOCK.format("lines")
    + r"|^```console\n(?P<commands>.*?)```",
    re.MULTILINE | re.DOTALL,
)  # fmt: skip


@dataclass
class Section:
    """What a section of the page tells the reader to do."""

    files: dict[str, str] = field(default_factory=dict)
    insertions: list[tuple[str, str, str]] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)


def sections() -> dict[str, Section]:
    found: dict[str, Section] = {}
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        section = found[title] = Section()
        for step in _STEP.finditer(body):
            if step["file"]:
                section.files[step["file"]] = step["text"]
            elif step["into"]:
                section.insertions.append((step["into"], step["line"], step["lines"]))
            else:
                lines = step["commands"].splitlines()
                assert all(line.startswith("$ llmbench ") for line in lines), lines
                section.commands += [shlex.split(line.removeprefix("$ llmbench ")) for line in lines]
    return found


def write(section: Section, folder: Path) -> None:
    for name, text in section.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, line, lines in section.insertions:
        text = (folder / name).read_text(encoding="utf-8")
        assert text.splitlines().count(line) == 1, f"{name} has no such line, or several: {line}"
        (folder / name).write_text(text.replace(f"{line}\n", f"{line}\n{lines}", 1), encoding="utf-8")


@pytest.fixture
def follow(llmbench: Command, tmp_path: Path) -> Callable[[Section], list[str]]:
    """Does what a section says in the folder where commands run; what each printed."""

    def run(section: Section) -> list[str]:
        write(section, tmp_path)
        printed = []
        for command in section.commands:
            # Beside what the page says: where the run is kept, and no longer timing than the training takes.
            more = ["--out", "run", "--set", "budget_seconds=0", "--set", "threads=1"] if command[0] == "run" else []
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            done = llmbench(*command, *more, PYTHONPATH=str(tmp_path if section.insertions else REPOSITORY))
            assert done.returncode == 0, done.stdout + done.stderr
            printed.append(done.stdout)
        return printed

    return run


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of llmbench that can be changed, in the folder where commands run."""
    for name in ("llmbench", "suites"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def trained(folder: Path) -> dict[str, str]:
    return {case: record.status for case, record in records_of(folder / "run").items()}


def test_every_section_is_followed() -> None:
    """A section that is written in another way would otherwise be passed over."""
    assert {title: bool(section.commands) for title, section in sections().items()} == dict.fromkeys(
        (
            *("A workload of your own", "A model of transformers", "A size", "A workload", "A mode"),
            "A check of doctor",
        ),
        True,
    )
    blocks = PAGE.count("```") // 2
    steps = sum(1 for _ in _STEP.finditer(PAGE))
    # The entry points, which tests/launch/test_foreign.py and tests/doctor/checks/test_plugins.py have.
    assert steps == blocks - 2


@pytest.mark.slow
def test_a_workload_of_your_own(follow: Callable[[Section], list[str]], tmp_path: Path) -> None:
    section = sections()["A workload of your own"]
    assert list(section.files) == ["waves.py", "bigram.py"]
    waves, bigram = section.commands

    section.commands = [waves]
    follow(section)
    assert trained(tmp_path) == {"waves:Waves/eager/ws1": "ok", "waves:Waves/accum4/ws1": "ok"}
    record = records_of(tmp_path / "run")["waves:Waves/eager/ws1"]
    assert record.loss is not None
    assert record.loss.eval is not None
    assert record.throughput is not None
    assert record.throughput.unit == "samples/s"
    (mean,) = record.loss.references
    assert record.loss.eval < mean.value
    assert record.metrics["rmse"] == pytest.approx(record.loss.eval**0.5)

    section.commands = [bigram]
    follow(section)
    assert trained(tmp_path) == {"bigram:Bigram/eager/ws1": "ok"}
    record = records_of(tmp_path / "run")["bigram:Bigram/eager/ws1"]
    assert record.throughput is not None
    assert record.throughput.unit == "tokens/s"


@pytest.mark.slow
@pytest.mark.hf
def test_a_model_of_transformers(follow: Callable[[Section], list[str]], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    follow(sections()["A model of transformers"])
    assert trained(tmp_path) == {"hf:tiny-llama/eager/ws1": "ok"}


@pytest.mark.slow
def test_a_size(follow: Callable[[Section], list[str]], copy: Path) -> None:
    follow(sections()["A size"])
    assert trained(copy) == {"gpt-nano/eager/ws1": "ok"}


@pytest.mark.slow
def test_a_workload(follow: Callable[[Section], list[str]], copy: Path) -> None:
    section = sections()["A workload"]
    section.files["llmbench/worker/workloads/waves.py"] = sections()["A workload of your own"].files["waves.py"]
    follow(section)
    assert trained(copy) == {"waves-tiny/eager/ws1": "ok"}


@pytest.mark.slow
def test_a_mode(follow: Callable[[Section], list[str]], copy: Path) -> None:
    follow(sections()["A mode"])
    assert trained(copy) == {"gpt-tiny/eager/ws1": "ok", "gpt-tiny/bf16+ac-half/ws1": "ok"}


@pytest.mark.slow
def test_a_check_of_doctor(follow: Callable[[Section], list[str]], copy: Path) -> None:
    listed, explained, asked = follow(sections()["A check of doctor"])
    assert "process.niceness" in listed
    assert "any other process on these cores goes first" in explained
    assert "niceness 0" in asked
