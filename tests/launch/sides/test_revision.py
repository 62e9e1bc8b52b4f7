"""A git revision as a side."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.launch.sides import check_side
from llmbench.results.ab import AbSide
from tests.launch.sides.conftest import output_of

Make = Callable[..., AbSide]
PROJECT = '[project]\nname = "toy"\nversion = "1"\n'


class Checkout:
    """A repository with two commits (``first``, ``main``) of a package, in which the user changed something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: object) -> str:
        command = ["git", "-C", str(self.folder), "-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, path: str, text: str) -> str:
        self.write(path, text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", path)
        return self.git("rev-parse", "HEAD")

    def state(self) -> dict[str, str]:
        """All that git and the user have there, by content."""
        files = (Path(parent, name) for parent, _, names in os.walk(self.folder) for name in names)
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "checkout")
    made.write("pyproject.toml", PROJECT)
    made.write("bench/work.py", "work = 'first'\n")
    made.commit("toy/__init__.py", "version = 'first'\n")
    made.git("tag", "first")
    made.write("bench/work.py", "work = 'second'\n")
    made.commit("toy/__init__.py", "version = 'second'\n")
    made.write("toy/__init__.py", "version = 'stashed'\n")
    made.git("stash")
    made.write("toy/__init__.py", "version = 'staged'\n")
    made.git("add", "-A")
    made.write("toy/__init__.py", "version = 'changed'\n")
    return made


SEEN = "import toy, work; print(toy.version, work.work)"


def test_a_revision_is_laid_out_and_the_checkout_stays_as_it_is(
    make: Make, checkout: Checkout, said: list[str], tmp_path: Path
) -> None:
    for name in ("post-checkout", "post-index-change"):
        hook = checkout.folder / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
        hook.chmod(0o755)
    before = checkout.state()

    side = make("git:first", checkout=checkout.folder / "bench")

    commit = checkout.git("rev-parse", "first")
    assert (side.kind, side.label, side.python) == ("revision", f"first {commit[:7]}", sys.executable)
    assert side.git is not None
    assert (side.git.commit, side.git.dirty) == (commit, False)
    assert side.folder == str(Path(side.paths[0]) / "bench")
    assert output_of(side, SEEN) == "first first"
    assert said == ["laying out the files of first"]
    assert checkout.state() == before
    assert not (tmp_path / "hooked").exists()

    said.clear()
    assert make("git:first", checkout=checkout.folder / "bench") == side
    short = make(f"git:{commit[:9]}", checkout=checkout.folder / "bench")
    assert (short.folder, short.label) == (side.folder, commit[:9])
    assert said == []
    assert output_of(make("git:@", checkout=checkout.folder / "bench"), SEEN) == "second second"


@pytest.mark.parametrize("asked", ["git:.", "git:WORKTREE"])
def test_the_working_tree_is_taken_as_it_is(make: Make, checkout: Checkout, asked: str) -> None:
    before = checkout.state()
    side = make(asked, checkout=checkout.folder / "bench")
    assert (side.label, side.folder) == ("working tree", str(checkout.folder / "bench"))
    assert side.paths == [str(checkout.folder)]
    assert side.git is not None
    assert (side.git.commit, side.git.dirty) == (checkout.git("rev-parse", "main"), True)
    assert checkout.state() == before
    assert output_of(side, SEEN) == "changed second"


def test_a_new_file_is_an_uncommitted_change(make: Make, checkout: Checkout) -> None:
    def dirty() -> bool:
        side = make("git:.", checkout=checkout.folder)
        assert side.git is not None
        return side.git.dirty

    checkout.git("reset", "--hard")
    assert not dirty()
    checkout.write("toy/new.py", "")
    assert dirty()


def test_a_checkout_elsewhere(make: Make, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Checkout(tmp_path / "other@home")
    other.write("bench/work.py", "work = 'other'\n")
    commit = other.commit("toy/__init__.py", "version = 'other'\n")
    monkeypatch.chdir(tmp_path)
    for asked in ("git:main@other@home/bench", f"git:main@{{0}}@{other.folder}/bench", "git:.@other@home/bench"):
        side = make(asked, checkout=checkout.folder)
        assert side.git is not None
        assert side.git.commit == commit
        assert output_of(side, SEEN) == "other other", asked


def test_where_the_packages_of_a_project_are(make: Make, tmp_path: Path, said: list[str]) -> None:
    made = Checkout(tmp_path / "many")
    made.write("flat/pyproject.toml", PROJECT)
    made.write("flat/src/data.txt", "no package")
    made.write("layout/setup.py", "from setuptools import setup\nsetup()\n")
    made.write("layout/src/toy/__init__.py", "")
    made.commit("layout/tests/test_toy.py", "")
    made.commit("newer/file", "")

    roots = {folder: make("git:main", checkout=made.folder / folder) for folder in ("", "flat", "layout/tests")}
    root = Path(roots[""].paths[0])
    assert roots[""].folder == str(root)
    assert roots["flat"].paths == [str(root / "flat")]
    assert roots["layout/tests"].paths == [str(root / "layout" / "src")]
    assert roots["layout/tests"].folder == str(root / "layout" / "tests")

    earlier = make("git:main~1", checkout=made.folder / "newer")
    assert earlier.folder == earlier.paths[0]
    assert "newer does not exist there" in said[-1]


def test_files_that_were_changed_in_the_cache_are_laid_out_anew(
    make: Make, checkout: Checkout, said: list[str]
) -> None:
    side = make("git:first", checkout=checkout.folder)
    root = Path(side.paths[0])
    (root / "toy" / "__init__.py").write_text("version = 'broken in the cache'\n")
    (root / "bench" / "work.py").unlink()
    said.clear()
    assert make("git:first", checkout=checkout.folder / "bench").paths == side.paths
    assert "were changed; laying them out anew" in said[0]
    assert output_of(make("git:first", checkout=checkout.folder / "bench"), SEEN) == "first first"


def test_what_a_kill_left_behind_is_cleared(make: Make, checkout: Checkout, cache: Path) -> None:
    root = Path(make("git:first", checkout=checkout.folder).paths[0])
    temporary = root.with_name(f"{root.name}.abc.tmp")
    root.rename(temporary)  # killed before it was moved into its place
    root.with_name(f"{root.name}.index.lock").write_bytes(b"")  # and git with it
    side = make("git:first", checkout=checkout.folder / "bench")
    assert output_of(side, SEEN) == "first first"
    assert not temporary.exists()


def test_called_by_a_hook_of_another_repository(
    make: Make, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Checkout(tmp_path / "other")
    other.commit("file", "")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.folder / ".git" / "index"))
    before = other.state()
    side = make("git:first", checkout=checkout.folder / "bench")
    monkeypatch.undo()
    assert output_of(side, SEEN) == "first first"
    assert other.state() == before


def test_a_sparse_checkout_has_all_files(make: Make, checkout: Checkout) -> None:
    checkout.git("reset", "--hard")
    checkout.git("sparse-checkout", "set", "--sparse-index", "toy")
    assert not (checkout.folder / "bench").exists()
    side = make("git:first", checkout=checkout.folder)
    assert (Path(side.paths[0]) / "bench" / "work.py").is_file()


def test_a_bare_repository(make: Make, checkout: Checkout, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    checkout.git("clone", "-q", "--bare", checkout.folder, bare)
    side = make(f"git:first@{bare}")
    assert (Path(side.paths[0]) / "toy" / "__init__.py").read_text() == "version = 'first'\n"
    assert side.folder == side.paths[0]
    with pytest.raises(UserError, match="bare repository: it has no working tree"):
        make(f"git:.@{bare}")


def _fault(checkout: Path, asked: str) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        check_side(asked, checkout=checkout)
    assert caught.value.hint is not None
    return caught.value.message, caught.value.hint


def test_an_unknown_revision(checkout: Checkout, tmp_path: Path) -> None:
    message, hint = _fault(checkout.folder, "git:fisrt")
    assert message == f"git:fisrt: there is no revision fisrt in the repository of {checkout.folder}"
    assert hint == "did you mean first?"
    other = Checkout(tmp_path / "other")
    message, hint = _fault(checkout.folder, f"git:{other.commit('file', '')}")
    assert "there is no revision" in message
    assert "git branch --all" in hint
    assert "there is no revision --help" in _fault(checkout.folder, "git:--help")[0]
    assert "there is no folder nowhere" in _fault(checkout.folder, "git:first@./nowhere")[0]
    assert "there is no revision first@nowhere" in _fault(checkout.folder, "git:first@nowhere")[0]
    message, hint = _fault(checkout.folder, "git:main:toy")
    assert "main:toy is a tree and no commit" in message


def test_a_revision_with_an_ambiguous_name(checkout: Checkout) -> None:
    tree = checkout.git("rev-parse", "main^{tree}")
    known: dict[str, bytes] = {}
    for number in range(100_000):
        text = f"tree {tree}\nauthor A <a> {number} +0000\ncommitter A <a> {number} +0000\n\nx\n".encode()
        prefix = hashlib.sha1(b"commit %d\0" % len(text) + text).hexdigest()[:4]
        if prefix in known:
            break
        known[prefix] = text
    for each in (known[prefix], text):
        command = ["git", "-C", str(checkout.folder), "hash-object", "-t", "commit", "-w", "--stdin"]
        subprocess.run(command, input=each, check=True, stdout=subprocess.DEVNULL)
    assert f"{prefix} is ambiguous" in _fault(checkout.folder, f"git:{prefix}")[0]


def test_a_clone_of_ci(checkout: Checkout, tmp_path: Path) -> None:
    checkout.git("branch", "topic", "main")
    clone = tmp_path / "clone"
    where = f"file://{checkout.folder}"
    checkout.git("clone", "-q", "--depth=1", "--branch=topic", "--no-single-branch", where, clone)
    message, hint = _fault(clone, "git:HEAD~1")
    assert "there is no revision HEAD~1" in message
    assert hint.startswith("the clone is shallow: `git fetch --unshallow`, or `fetch-depth: 0` of actions/checkout; ")
    assert _fault(clone, "git:main")[1].endswith("did you mean origin/main?")


def test_no_commits_and_no_repository(tmp_path: Path) -> None:
    empty = Checkout(tmp_path / "empty")
    for asked in ("git:.", "git:main", "git:HEAD"):
        assert "has no commits yet" in _fault(empty.folder, asked)[0]
    (tmp_path / "outside").mkdir()
    message, hint = _fault(tmp_path / "outside", "git:main")
    assert message == f"git:main: {tmp_path / 'outside'} lies in no git repository"
    assert "git:REVISION@FOLDER" in hint


def test_a_repository_of_somebody_else(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for this
    message, _ = _fault(checkout.folder, "git:main")
    assert "git refuses it: " in message
    assert "safe.directory" in message


def test_no_git(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert _fault(checkout.folder, "git:main") == (
        "git:main: git is not installed",
        "install git, or name two environments",
    )


def test_submodules(make: Make, checkout: Checkout) -> None:
    commit = checkout.git("rev-parse", "main")
    checkout.git("update-index", "--add", "--cacheinfo", f"160000,{commit},third_party/other")
    checkout.git("commit", "-q", "-m", "submodule")
    with pytest.raises(UserError, match=r"main has submodules \(third_party/other\)"):
        make("git:main", checkout=checkout.folder)


def test_files_of_git_lfs(make: Make, checkout: Checkout, cache: Path) -> None:
    checkout.commit("data/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    checkout.commit("data/weights.bin", pointer)
    with pytest.raises(UserError, match=r"data/weights\.bin is kept by git-lfs, which is not set up here"):
        make("git:main", checkout=checkout.folder)
    checkout.git("config", "filter.lfs.smudge", "no-such-git-lfs smudge %f")
    checkout.git("config", "filter.lfs.required", "true")
    with pytest.raises(UserError, match=r"git cannot lay out main: .*lfs") as caught:
        make("git:main", checkout=checkout.folder)
    assert caught.value.hint == "it needs git-lfs: `git lfs install`"
    assert not [path for path in (cache / "worktrees").iterdir() if path.is_dir()]


def test_a_damaged_repository(make: Make, checkout: Checkout) -> None:
    blob = checkout.git("rev-parse", "first:toy/__init__.py")
    (checkout.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(UserError, match=r"git cannot lay out first: .*"):
        make("git:first", checkout=checkout.folder)
    tree = checkout.git("rev-parse", "first^{tree}")
    (checkout.folder / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(UserError, match=r"git cannot read first: .*"):
        make("git:first", checkout=checkout.folder)


def test_a_cache_that_cannot_be_written(make: Make, checkout: Checkout, cache: Path) -> None:
    cache.mkdir()
    (cache / "worktrees").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot keep worktrees in .*: File exists"):
        make("git:first", checkout=checkout.folder)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("pyproject.toml", '[build-system]\nbuild-backend = "maturin"\n', "builds with maturin"),
        ("pyproject.toml", '[build-system]\nbuild-backend = "scikit_build_core.build"\n', "builds with scikit"),
        ("pyproject.toml", '[build-system]\nbuild-backend = "mesonpy"\n', "builds with mesonpy"),
        ("pyproject.toml", '[build-system]\nrequires = ["setuptools", "Cython>=3"]\n', "needs cython to build"),
        ("pyproject.toml", "[tool.setuptools]\next-modules = [{name = 'a', sources = ['a.c']}]\n", "ext-modules"),
        ("setup.py", "setup(ext_modules=[CUDAExtension('a', ['a.cu'])])\n", "setup.py uses ext_modules"),
    ],
)
def test_a_project_that_must_be_built(make: Make, checkout: Checkout, file: str, text: str, reason: str) -> None:
    checkout.commit(file, text)
    for asked in ("git:main", "git:."):
        with pytest.raises(UserError, match=f"must be built before it can run: .*{reason}") as caught:
            make(asked, checkout=checkout.folder)
        assert "--base base" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["[project\n", "tool = 1\n"])
def test_a_pyproject_that_cannot_be_read(make: Make, checkout: Checkout, text: str) -> None:
    checkout.commit("pyproject.toml", text)
    with pytest.raises(UserError, match=r"pyproject\.toml of that revision cannot be read: "):
        make("git:main", checkout=checkout.folder)


@pytest.mark.parametrize("text", ["build-system = 1\n", "[build-system]\nrequires = 1\n", "[tool]\nsetuptools = 1\n"])
def test_a_pyproject_that_says_nothing_sensible_needs_no_build(make: Make, checkout: Checkout, text: str) -> None:
    checkout.commit("pyproject.toml", text)
    side = make("git:main", checkout=checkout.folder)
    assert side.paths == [side.folder]


def test_the_cache_can_go_at_any_time(make: Make, checkout: Checkout, cache: Path) -> None:
    make("git:first", checkout=checkout.folder)
    shutil.rmtree(cache)
    assert output_of(make("git:first", checkout=checkout.folder / "bench"), SEEN) == "first first"
