from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from llmbench.launch.sides import make_side
from llmbench.paths import cache_folder
from llmbench.results.ab import AbSide

Wheel = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMBENCH_CACHE", str(folder))
    cache_folder.cache_clear()
    yield folder
    cache_folder.cache_clear()


@pytest.fixture
def said() -> list[str]:
    """What was told of the progress."""
    return []


@pytest.fixture
def make(cache: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbSide]:
    """Makes a side as ``llmbench ab`` does, with no package index to ask."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir(exist_ok=True)

    def side(
        asked: object, python: str = sys.executable, constraints: Path | None = None, checkout: Path = tmp_path
    ) -> AbSide:
        return make_side(str(asked), python=python, constraints=constraints, checkout=checkout, on_progress=said.append)

    return side


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """Builds a wheel of one module, in the folder where pip looks for packages."""

    def build(version: str, code: str = "", name: str = "dep", requires: Sequence[str] = ()) -> Path:
        folder = tmp_path / "wheels"
        folder.mkdir(exist_ok=True)
        about = f"{name}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        files = {
            f"{name}.py": code or f"version = {version!r}\n",
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
        path = folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for file, text in (files | {f"{about}/RECORD": record}).items():
                archive.writestr(file, text)
        return path

    return build


class Below:
    """A virtual environment of the user's, on which requirements are laid."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        self.packages = next(folder.glob("lib/python*/site-packages"))

    def add_pip(self) -> None:
        """The pip that the tests run beside, or the one that Python brings."""
        import importlib.util

        found = importlib.util.find_spec("pip")
        if found and found.origin:
            (self.packages / "pip").symlink_to(Path(found.origin).parent)
        else:
            subprocess.run([self.python, "-m", "ensurepip"], check=True)

    def add(self, name: str, version: str, code: str, editable: bool = False) -> None:
        """Installs a package of one module; an editable one lies elsewhere, and is found by a ``.pth`` file."""
        folder = self.folder / "elsewhere" / name if editable else self.packages
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(code)
        about = self.packages / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (about / "RECORD").write_text("")
        if editable:
            (self.packages / f"__editable__.{name}.pth").write_text(f"{folder}\n")
            (about / "direct_url.json").write_text(f'{{"url": "file://{folder}", "dir_info": {{"editable": true}}}}')

    def files(self) -> dict[str, tuple[int, int]]:
        """Of every file, the size and when it was written."""
        found = {}
        for parent, _, names in os.walk(self.folder):
            for name in names:
                about = os.lstat(os.path.join(parent, name))
                found[os.path.join(parent, name)] = (about.st_size, about.st_mtime_ns)
        return found


@pytest.fixture
def below(tmp_path: Path) -> Below:
    made = Below(tmp_path / "venvs" / "mine")
    made.add_pip()
    return made


def output_of(side: AbSide, code: str) -> str:
    """What a process of the side prints, with the import path that the side asks for."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(side.paths)}
    done = subprocess.run(
        [side.python, "-B", "-c", code], cwd=side.folder, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
