"""A Python project as it lies in a checkout: where its packages are, and whether they run without being built."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from llmbench.errors import UserError

_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_BACKENDS = ("maturin", "scikit_build_core", "mesonpy", "skbuild", "py_build_cmake", "sipbuild", "pymsbuild")
_BUILDERS = ("cython", "pybind11", "nanobind", "maturin", "setuptools-rust", "scikit-build", "meson-python", "cffi")
_EXTENSIONS = re.compile(r"\b(ext_modules|rust_extensions|cffi_modules|CppExtension|CUDAExtension|cythonize)\b")
_HINT = (
    "build each revision into an environment of its own, and name the two: "
    "`python -m venv base && base/bin/pip install FOLDER`, then --base base"
)


def project_of(folder: Path, root: Path) -> Path:
    """The project that a folder is of: the nearest one above it that has a ``pyproject.toml``, else the root."""
    here = folder.resolve()
    while here != root.resolve() and here.is_relative_to(root.resolve()):
        if any((here / name).is_file() for name in _FILES):
            return here
        here = here.parent
    return root


def import_paths(asked: str, project: Path) -> list[str]:
    """Folders from which the packages of a project are imported.

    Raises:
        UserError: it has parts that must be compiled: what was built of one revision would run with the other.
    """
    if reason := _compiled(asked, project):
        raise UserError(f"{asked}: its project must be built before it can run: {reason}", _HINT)
    source = project / "src"
    has_packages = source.is_dir() and (any(source.glob("*/*.py")) or any(source.glob("*.py")))
    return [str(source if has_packages and not (source / "__init__.py").exists() else project)]


def _compiled(asked: str, project: Path) -> str | None:
    """What says that a project has compiled parts."""
    build, setuptools = _pyproject(asked, project / "pyproject.toml")
    backend = str(build.get("build-backend", ""))
    if backend.split(".")[0].split(":")[0] in _BACKENDS:
        return f"pyproject.toml builds with {backend}"
    requires = build.get("requires")
    requires = requires if isinstance(requires, list) else []
    needed = [re.split(r"[^A-Za-z0-9_.-]", str(name))[0].lower() for name in requires]
    if builder := next((name for name in needed if name.replace("_", "-") in _BUILDERS), None):
        return f"pyproject.toml needs {builder} to build"
    if setuptools.get("ext-modules"):
        return "pyproject.toml declares ext-modules"
    setup = project / "setup.py"
    found = _EXTENSIONS.search(setup.read_text(encoding="utf-8", errors="replace")) if setup.is_file() else None
    return f"setup.py uses {found.group()}" if found else None


def _pyproject(asked: str, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables ``[build-system]`` and ``[tool.setuptools]``."""
    if not file.is_file():
        return {}, {}
    try:
        text = tomllib.loads(file.read_text(encoding="utf-8"))
        build, setuptools = text.get("build-system", {}), text.get("tool", {}).get("setuptools", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"{asked}: {file.name} of that revision cannot be read: {error}") from None
    return (build if isinstance(build, dict) else {}), (setuptools if isinstance(setuptools, dict) else {})
