"""Requirements as a side: an environment laid over another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.results.ab import AbSide
from tests.conftest import wait_for
from tests.launch.sides.conftest import Below, Wheel, output_of

Make = Callable[..., AbSide]

# As `llmbench ab` would, in a process of its own: its progress on stdout, then the interpreter.
_MAKE = """
import sys
from pathlib import Path
from llmbench.launch.sides import make_side
print(make_side(sys.argv[1], python=sys.argv[2], constraints=None, checkout=Path(), on_progress=print).python)
"""


@pytest.fixture
def make(make: Make, below: Below) -> Make:
    """On a small environment: pip looks at all that there is."""

    def side(asked: object, python: str = below.python, constraints: Path | None = None) -> AbSide:
        return make(asked, python=python, constraints=constraints)

    return side


def _start(asked: str, python: str) -> subprocess.Popen[str]:
    environ = os.environ | {"PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", _MAKE, asked, python]
    # As in a terminal: what a shell starts in the background inherits that Ctrl-C is ignored.
    return subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _pip_in(folder: Path) -> list[str]:
    """The processes of an environment that is being made."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [process.parent.name] if os.fsencode(folder) in process.read_bytes() else []
        except OSError:
            continue  # it has just ended
    return found


@pytest.fixture
def held(below: Below, tmp_path: Path) -> Path:
    """A file; while it exists, pip goes no further than its start. Then there is ``FILE.there``."""
    hold = tmp_path / "hold"
    hold.touch()
    waits = (
        "import os, time\n"
        f"if sys.prefix != {str(below.folder)!r}:\n"
        f"    open({str(hold) + '.there'!r}, 'w').close()\n"
        f"    while os.path.exists({str(hold)!r}): time.sleep(0.01)\n"
    )
    (below.packages / "hold.pth").write_text(f"import sys; exec({waits!r})\n")
    return hold


def test_lies_in_front_of_an_environment_that_stays_as_it_is(
    make: Make, wheel: Wheel, below: Below, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    below.add("dep", "1.0", "version = 'below'")
    below.add("editable", "3.0", "version = 'below'", editable=True)
    below.add("other", "2.0", "version = 'below'")
    below.add("other_editable", "2.0", "version = 'below'", editable=True)
    wheel("1.1", requires=["other>=1", "new"])
    wheel("0.1", name="new")
    wheel("3.1", name="editable")
    (below.packages / "hook.py").write_text("")
    (below.packages / "hook.pth").write_text("import hook\n")
    monkeypatch.setenv("PIP_TARGET", str(below.packages))
    monkeypatch.setenv("PIP_USER", "1")
    before = below.files()

    side = make("dep==1.1, editable==3.1")

    assert (side.kind, side.label, side.folder, side.paths) == ("requirements", "dep==1.1 editable==3.1", None, [])
    names = ("dep", "editable", "new", "other", "other_editable")
    printed = output_of(side, f"import {','.join(names)}; print({','.join(f'{name}.version' for name in names)})")
    assert printed == "1.1 3.1 0.1 below below"
    assert output_of(side, "from importlib.metadata import version as v; print(v('dep'), v('other'))") == "1.1 2.0"
    assert below.files() == before
    assert "making an environment for dep==1.1 editable==3.1" in said

    said.clear()
    assert make("dep==1.1, editable==3.1") == side
    assert said == []  # it was there

    below.add("another", "1.0", "")
    assert make("dep==1.1, editable==3.1").python != side.python  # what lies below is another one


def test_a_wheel_is_installed_although_its_version_is_there(make: Make, wheel: Wheel, below: Below) -> None:
    below.add("dep", "1.0", "version = 'below'")
    one = make(wheel("1.0", "version = 'first build'"))
    assert one.label == "dep-1.0"
    assert output_of(one, "import dep; print(dep.version)") == "first build"
    other = make(wheel("1.0", "version = 'second build'"))
    assert output_of(other, "import dep; print(dep.version)") == "second build"
    assert output_of(one, "import dep; print(dep.version)") == "first build"


@pytest.mark.slow
def test_says_if_there_was_nothing_to_install(make: Make, below: Below, said: list[str]) -> None:
    below.add("dep", "1.0", "version = 'below'")
    side = make("dep==1.0")
    assert said[-1] == f"dep==1.0: {below.python} has it already; nothing was installed"
    assert output_of(side, "import dep; print(dep.version)") == "below"


@pytest.mark.slow
def test_warns_of_what_no_longer_fits_together(make: Make, wheel: Wheel, below: Below, said: list[str]) -> None:
    below.add("dep", "1.0", "")
    below.add("vision", "1.0", "")
    metadata = below.packages / "vision-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: dep==1.0\n")
    wheel("1.1")
    make("dep==1.1")
    assert said[-1] == ("warning: dep==1.1: vision 1.0 requires dep==1.0, but you have dep 1.1 which is incompatible.")


def test_what_pip_could_not_install_is_tried_again(make: Make, wheel: Wheel) -> None:
    wheel("1.0")
    with pytest.raises(UserError) as caught:
        make("dep==1.1")
    assert caught.value.message == (
        "dep==1.1: pip cannot install it: "
        "Could not find a version that satisfies the requirement dep==1.1 (from versions: 1.0)"
    )
    assert caught.value.hint is not None
    log = Path(caught.value.hint.removeprefix("its log: "))
    assert "No matching distribution found for dep==1.1" in log.read_text()

    wheel("1.1")
    assert output_of(make("dep==1.1"), "import dep; print(dep.version)") == "1.1"


def test_constraints_are_kept_to(make: Make, wheel: Wheel, tmp_path: Path) -> None:
    for version in ("1.0", "1.1"):
        wheel(version)
    pins = tmp_path / "constraints.txt"
    pins.write_text("dep==1.0\n")
    assert output_of(make("dep>=1", constraints=pins), "import dep; print(dep.version)") == "1.0"
    with pytest.raises(UserError, match=r"a conflict: The user requested dep==1\.1; .*\(constraint\) dep==1\.0"):
        make("dep==1.1", constraints=pins)
    pins.write_text("dep==1.1\n")
    assert output_of(make("dep>=1", constraints=pins), "import dep; print(dep.version)") == "1.1"
    with pytest.raises(UserError, match=r"--constraints .*missing.txt: no such file"):
        make("dep>=1", constraints=tmp_path / "missing.txt")


def test_a_package_that_cannot_be_built(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "dep-1.0"
    source.mkdir()
    (source / "pyproject.toml").write_text("[build-system]\nrequires = ['no-such-builder']\n")
    with tarfile.open(tmp_path / "dep-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, "dep-1.0")
    with pytest.raises(UserError, match=r"pip cannot install it: .*no-such-builder") as caught:
        make(f"dep @ file://{tmp_path}/dep-1.0.tar.gz")
    assert "its log: " in str(caught.value.hint)


@pytest.mark.parametrize("asked", ["dep @ file://{}/a%20folder", "dep @ file://{}/gone.zip"])
def test_a_local_file_by_its_url(make: Make, tmp_path: Path, asked: str) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(UserError, match=r"a%20folder: installs a folder|gone\.zip: No such file"):
        make(asked.format(tmp_path))


def test_a_broken_wheel(make: Make, wheel: Wheel) -> None:
    path = wheel("1.0")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"dep-1\.0-py3-none-any\.whl: pip cannot install it: .*dep-1\.0.*"):
        make(path)


@pytest.mark.slow
def test_requirements_files_count_by_content(make: Make, wheel: Wheel, tmp_path: Path) -> None:
    for version in ("1.0", "1.1"):
        wheel(version)
    pins = tmp_path / "pins.txt"
    (tmp_path / "requirements.txt").write_text("# what we train with\n-r pins.txt\n")
    pins.write_text("dep==1.0  # for now\n")
    one = make(f"-r {tmp_path}/requirements.txt")
    assert one.label == "requirements.txt"
    pins.write_text("dep==1.1\n")
    other = make(f"-r {tmp_path}/requirements.txt")
    assert [output_of(side, "import dep; print(dep.version)") for side in (one, other)] == ["1.0", "1.1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dep\n-e .\n", r"requirements\.txt, line 2: -e \.: installs a folder"),
        ("--editable=./here\n", r"line 1: --editable=\./here: installs a folder"),
        ("./\n", r"line 1: \./: installs a folder"),
        ("dep @ file:///tmp\n", r"line 1: installs a folder"),
        ("-r gone.txt\n", r"line 1: gone\.txt: no such file"),
        ("-r requirements.txt\n", r"requirements\.txt includes itself"),
        ("-c https://example.org/pins.txt\n", r"line 1: https://example\.org/pins\.txt may change at any time"),
    ],
)
def test_requirements_files_whose_content_cannot_be_known(make: Make, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        make(f"-r {tmp_path}/requirements.txt")


@pytest.mark.slow
def test_an_environment_that_was_changed_is_made_anew(make: Make, wheel: Wheel, said: list[str]) -> None:
    wheel("1.0")
    side = make("dep==1.0")
    packages = next(Path(side.python).parents[1].glob("lib/python*/site-packages"))
    (packages / "dep-1.0.dist-info").rename(packages / "dep-6.0.dist-info")
    said.clear()
    assert make("dep==1.0") == side
    assert "its environment was changed since it was made" in said[0]
    assert (packages / "dep-1.0.dist-info").is_dir()


def test_a_cache_that_cannot_be_written(make: Make, wheel: Wheel, cache: Path) -> None:
    cache.mkdir()
    (cache / "environments").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot keep environments in .*: File exists") as caught:
        make(wheel("1.0"))
    assert caught.value.hint is not None
    assert "LLMBENCH_CACHE" in caught.value.hint


def test_neither_pip_nor_ensurepip(make: Make, wheel: Wheel, tmp_path: Path) -> None:
    bare = Below(tmp_path / "bare")
    (bare.packages / "without.pth").write_text("import sys; sys.modules['ensurepip'] = None\n")
    with pytest.raises(UserError, match=r"bare/bin/python has neither pip nor ensurepip: .*ensurepip"):
        make(wheel("1.0"), bare.python)


def test_no_venv_module(make: Make, wheel: Wheel, below: Below) -> None:
    (below.packages / "without.pth").write_text("import sys; sys.modules['venv'] = None\n")
    with pytest.raises(UserError, match=r"cannot make a virtual environment: .*venv"):
        make(wheel("1.0"))


@pytest.mark.slow
def test_killed_on_the_way(make: Make, wheel: Wheel, below: Below, cache: Path, said: list[str], held: Path) -> None:
    wheel("1.1")
    process = _start("dep==1.1", below.python)
    wait_for(Path(f"{held}.there").exists)
    process.kill()
    process.wait()
    (folder,) = (path for path in (cache / "environments").iterdir() if path.is_dir())
    assert _pip_in(folder)  # an orphan, which still has its hands on it
    with ThreadPoolExecutor() as pool:
        again = pool.submit(make, "dep==1.1")
        try:
            wait_for(lambda: said, seconds=30)
        finally:
            held.unlink()
        side = again.result()
    assert "waiting for another llmbench" in said[0]
    assert "making an environment for dep==1.1" in said
    assert side.python == str(folder / "bin" / "python")
    assert output_of(side, "import dep; print(dep.version)") == "1.1"


@pytest.mark.slow
def test_ctrl_c_ends_pip_too(wheel: Wheel, make: Make, below: Below, cache: Path, held: Path) -> None:
    wheel("1.1")
    process = _start("dep==1.1", below.python)
    wait_for(Path(f"{held}.there").exists)
    (folder,) = (path for path in (cache / "environments").iterdir() if path.is_dir())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not _pip_in(folder)
    held.unlink()
    assert output_of(make("dep==1.1"), "import dep; print(dep.version)") == "1.1"


@pytest.mark.slow
def test_two_at_the_same_time(make: Make, wheel: Wheel, below: Below) -> None:
    wheel("1.1")
    both = [_start("dep==1.1", below.python) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0][-1] == printed[1][-1]
    assert sum("making an environment for dep==1.1" in lines for lines in printed) == 1
    assert make("dep==1.1").python == printed[0][-1]


@pytest.mark.slow
def test_pip_is_brought_where_it_is_missing(make: Make, wheel: Wheel, tmp_path: Path) -> None:
    bare = Below(tmp_path / "bare")
    before = bare.files()
    side = make(wheel("1.0"), bare.python)
    assert output_of(side, "import dep; print(dep.version)") == "1.0"
    assert bare.files() == before
