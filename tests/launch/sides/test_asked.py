"""What a side may be called, and what is said of one that is none."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.launch.sides import check_side
from llmbench.launch.sides.asked import AskedRequirements
from llmbench.results.ab import AbSide
from tests.launch.sides.conftest import Below


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _hint(error: UserError) -> str:
    assert error.hint is not None
    return error.hint


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("torch==2.12.0", ["torch==2.12.0"]),
        ("torch==2.12 numpy<2", ["torch==2.12", "numpy<2"]),
        ("torch==2.12,numpy<2", ["torch==2.12", "numpy<2"]),
        ("numpy>=1,<2", ["numpy>=1,<2"]),
        ("numpy >= 1, < 2 dep  ==1.1", ["numpy >= 1, < 2", "dep  ==1.1"]),
        ("dep[fast,io]~=1.1, torch===2.12+cu128", ["dep[fast,io]~=1.1", "torch===2.12+cu128"]),
        ("zope.interface!=5.*", ["zope.interface!=5.*"]),
        ("torch==2.14.0.dev20261101 numpy", ["torch==2.14.0.dev20261101", "numpy"]),
        ("dep @ https://example.org/a,b/dep-1.zip", ["dep @ https://example.org/a,b/dep-1.zip"]),
    ],
)
def test_requirements(asked: str, read: list[str], tmp_path: Path) -> None:
    understood = check_side(asked, checkout=tmp_path)
    assert isinstance(understood, AskedRequirements)
    assert [requirement.text for requirement in understood.requirements] == read


def test_files_are_named_by_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    for name in ("thing-1.1-py3-none-any.whl", "requirements.txt", "a b/thing-2.0-py3-none-any.whl"):
        (tmp_path / name).write_text("")
    understood = check_side("./thing-1.1-py3-none-any.whl numpy<2, -r requirements.txt", checkout=tmp_path)
    assert isinstance(understood, AskedRequirements)
    assert [(each.kind, each.text) for each in understood.requirements] == [
        ("wheel", str(tmp_path / "thing-1.1-py3-none-any.whl")),
        ("named", "numpy<2"),
        ("file", str(tmp_path / "requirements.txt")),
    ]
    assert understood.label == "thing-1.1 numpy<2 requirements.txt"
    understood = check_side("a b/thing-2.0-py3-none-any.whl", checkout=tmp_path)
    assert isinstance(understood, AskedRequirements)
    assert understood.label == "thing-2.0"


def test_long_labels_are_cut(tmp_path: Path) -> None:
    understood = check_side(" ".join(f"package-{number}==1.0" for number in range(100)), checkout=tmp_path)
    assert isinstance(understood, AskedRequirements)
    assert understood.label == "package-0==1.0 package-1==1.0 package-2…"


def test_a_python_by_path_folder_and_name(
    make: Callable[..., AbSide], below: Below, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(below.folder.parent))
    monkeypatch.setenv("PATH", f"{below.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(below.folder.parent)
    for asked in (
        below.python,
        below.folder,
        "~/mine/bin/python",
        "~/mine",
        "mine",
        "./mine",
        "mine/bin/python",
        "python",
    ):
        side = make(asked)
        assert (side.python, side.kind, side.label) == (below.python, "python", "mine"), asked
    base = make(os.path.realpath(sys.executable))
    assert base.label == f"python{sys.version.split()[0]}"


def test_environments_with_a_common_name_are_labelled_by_their_project(
    make: Callable[..., AbSide], tmp_path: Path
) -> None:
    assert make(Below(tmp_path / "thing" / ".venv").folder).label == "thing/.venv"


def test_a_shim_is_asked_what_it_starts(make: Callable[..., AbSide], below: Below, tmp_path: Path) -> None:
    shim = _program(tmp_path / "shims" / "python", f'#!/bin/sh\nexec {below.python} "$@"\n')
    assert make(shim).python == below.python
    wrapper = _program(tmp_path / "bin" / "python", f'#!/bin/sh\nexec {below.python} "$@"\n')
    assert make(wrapper).python == str(wrapper)  # it may set what the user needs


def test_what_a_python_prints_at_its_start_does_not_matter(make: Callable[..., AbSide], below: Below) -> None:
    (below.packages / "chatty.pth").write_text("import sys; sys.stdout.write('hello')\n")
    assert make(below.python).python == below.python


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\necho no >&2; exit 3\n", "does not answer as Python does: exit code 3; no"),
        ("#!/bin/sh\necho '[]'\n", "does not answer as Python does: exit code 0; "),
        ("#!/nowhere/python\n", "No such file or directory"),
        ("", "Exec format error"),
    ],
)
def test_a_program_that_is_no_python(make: Callable[..., AbSide], tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(_program(tmp_path / "bin" / "python3.12", text))


def test_a_python_that_gives_no_answer(
    make: Callable[..., AbSide], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmbench.launch.sides.python.ASK_SECONDS", 0.2)
    with pytest.raises(UserError, match="gave no answer"):
        make(_program(tmp_path / "python", "#!/bin/sh\nexec sleep 60\n"))


def test_the_python_below_must_exist(make: Callable[..., AbSide]) -> None:
    with pytest.raises(UserError, match="--python nowhere/python: no such program"):
        make("dep==1.0", python="nowhere/python")


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ("", "a side is empty", "a side is a Python"),
        ("git:", "which revision", "git:main"),
        ("pyhton3.77", "no such program, file or folder", "did you mean python3.77?"),
        ("torch", "no such program, file or folder", "torch==VERSION"),
        ("torch=2.12", "cannot be read at", "NAME==VERSION"),
        ("torch==2.12 numpy=2", "cannot be read at 'numpy=2'", "NAME==VERSION"),
        ("torch>=2.12; python_version<'3.12'", "markers", "a side is a Python"),
        ("nowhere/bin/python", "nowhere/bin/python: no such file or folder", "a side is a Python"),
        ("dep==1.0 --pre", "--pre is no requirement", "PIP_"),
        ("dep==1.0 -c pins.txt", "constraints are of both sides", "--constraints"),
        ("https://example.org/dep-1.0-py3-none-any.whl", "which package", "'NAME @ https://example.org"),
        ("dist/dep-1.0-py3-none-any.whl", "there is no folder .*dist", "build it first"),
        ("dep-1.1-py3-none-any.whl", "no such file", "did you mean dep-1.0-py3-none-any.whl?"),
        ("-r requirement.txt", "no such file", "did you mean requirements.txt?"),
        ("requirements.txt", "cannot be run", "'-r requirements.txt'"),
        ("notes.md", "cannot be run", "a side is a Python"),
        ("source", "no virtual environment", "git:.@source"),
        ("gone", "its Python is gone: gone/bin/python points to /nowhere/python", "anew"),
        ("@@", "cannot be read at '@@'", "a side is a Python"),
    ],
)
def test_what_is_no_side(asked: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _program(tmp_path / "bin" / "python3.77", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/nowhere")
    for name in ("dep-1.0-py3-none-any.whl", "requirements.txt", "notes.md"):
        (tmp_path / name).write_text("")
    (tmp_path / "source").mkdir()
    (tmp_path / "gone" / "bin").mkdir(parents=True)
    (tmp_path / "gone" / "bin" / "python").symlink_to("/nowhere/python")
    with pytest.raises(UserError, match=message) as caught:
        check_side(asked, checkout=tmp_path)
    assert hint in _hint(caught.value)
