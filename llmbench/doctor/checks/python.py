"""The interpreter under test: whether it starts, what it is, and which files hide what it should import."""

from __future__ import annotations

import codecs
import os
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

OLDEST, NEWEST = (3, 10), (3, 15)
"""The Pythons for which the current torch has wheels."""
OLDEST_GLIBC = (2, 28)
"""That of manylinux_2_28, for which torch's wheels are built since 2.6."""

_ANEW = "make the environment anew: python3 -m venv .venv, then give it with --python .venv/bin/python"
_STDLIB = "https://docs.python.org/3/using/cmdline.html"

# --- python.starts

BROKEN = fault(
    "python.starts.broken",
    "fail",
    "The interpreter does not start",
    cause="this Python cannot run a script that imports only its standard library, so nothing else can work",
    fix=f"see what it says: <python> -c pass; then {_ANEW}",
)
HOME = fault(
    "python.starts.home",
    "fail",
    "PYTHONHOME names another Python",
    cause="PYTHONHOME makes every Python take its standard library from there; this one is of "
    "another version, or is gone",
    fix="unset PYTHONHOME",
    link=f"{_STDLIB}#envvar-PYTHONHOME",
    script="unset PYTHONHOME",
)
VARIABLE = fault(
    "python.starts.variable",
    "fail",
    "An environment variable keeps Python from starting",
    cause="with <name> as it is set, this Python ends before it runs a line; without it, it starts",
    fix="unset <name>, or give it a sound value",
    link=f"{_STDLIB}#environment-variables",
)
STANDARD_LIBRARY = fault(
    "python.starts.base",
    "fail",
    "The interpreter's standard library is gone",
    cause="the Python that this one was made from was moved, upgraded or removed",
    fix=_ANEW,
    link="https://docs.python.org/3/library/venv.html",
)
LIBRARY = fault(
    "python.starts.library",
    "fail",
    "A shared library of the interpreter is not found",
    cause="the system's loader does not find <library>: it was removed, or lies in a folder that it does not search",
    fix="install it again, or export LD_LIBRARY_PATH=<the folder that holds it>",
)
MACHINE = fault(
    "python.starts.machine",
    "fail",
    "The interpreter is not for this machine, or may not be run",
    cause="the file is for another processor or system, or lies on a file system mounted with noexec",
    fix="install Python for this machine: uname -m",
)
ANCIENT = fault(
    "python.starts.ancient",
    "fail",
    "The interpreter is too old for anything here",
    cause="no torch of the last years runs on this Python",
    fix="make an environment with Python 3.10 or newer, and give it with --python",
)
HANGS = fault(
    "python.starts.hangs",
    "fail",
    "The interpreter hangs when it starts",
    cause="its files lie on a file system that does not answer, or a .pth file or sitecustomize waits for something",
    fix="see where: <python> -X importtime -c pass; and <python> -I -S -c pass, which leaves .pth files out",
)
SITE = fault(
    "python.starts.site",
    "fail",
    "A .pth file or sitecustomize ends the interpreter",
    cause="Python starts without its site-packages (-I -S), but not with them: code that runs at each start ends it",
    fix="see where: <python> -v -c pass 2>&1 | tail -40; then remove that .pth file or sitecustomize.py",
    link="https://docs.python.org/3/library/site.html",
)
PTH = fault(
    "python.starts.pth",
    "warn",
    "A .pth file fails at every start",
    cause="a .pth file of a half-removed package fails at every start of Python, in each worker too; "
    "what it should add is missing",
    fix="if its package is no longer used: mv <file> <file>.off; else install that package again",
    link="https://docs.python.org/3/library/site.html",
    script="[ ! -e <file> ] || mv <file> <file>.off",
)
CUSTOMIZE = fault(
    "python.starts.customize",
    "warn",
    "sitecustomize or usercustomize fails at every start",
    cause="<module>.py is imported at every start of Python and raises; what it should set up "
    "(tracing, proxies, paths) "
    "is missing",
    fix="see where it lies: <python> -c 'import importlib.util as u; print(u.find_spec(\"<module>\").origin)'; "
    "then mend or remove it",
    link="https://docs.python.org/3/library/site.html",
)

MODULES = ("ctypes", "zlib", "mmap", "unicodedata", "_multiprocessing", "ssl", "lzma", "bz2", "sqlite3")
_SUSPECTS = (
    "PYTHONHOME", "PYTHONPATH", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONMALLOC",
    "PYTHONPLATLIBDIR", "PYTHONCASEOK", "LD_PRELOAD", "LD_LIBRARY_PATH",
)  # fmt: skip


@check("python.starts", "The interpreter starts", deadline=30)
def starts(context: Context) -> Iterator[Finding]:
    """Keeps what the interpreter says of itself as fact ``python``."""
    outcome = context.probe("interpreter", {"modules": MODULES})
    if "version" not in outcome.answer:
        yield _why_it_does_not_start(context, outcome)
        return
    found = context.facts["python"] = outcome.answer
    for text in dict.fromkeys(re.split(r"(?=Error processing line )", outcome.noise)[1:]):
        yield _broken_pth(text)
    for module, error in re.findall(r"Error in (sitecustomize|usercustomize);[^\n]*\n(.*)", outcome.noise):
        yield CUSTOMIZE.found(f"{module} raises at every start: {error.strip()}", module=module)
    kind = "virtual environment" if found["virtual_environment"] else "no virtual environment"
    yield passed(f"{found['implementation']} {found['version']}, {found['bits']}-bit, {kind}")


def _broken_pth(text: str) -> Finding:
    """From what Python prints: a line with number and path, an indented traceback, a line to end it."""
    number, path = re.match(r"Error processing line (\d+) of (.*?):?\n", text + "\n").groups()  # type: ignore[union-attr]
    said = [line.strip() for line in text.partition("Remainder of file")[0].splitlines()[1:] if line.strip()]
    error = said[-1] if said else "no error was printed"
    package = "setuptools" if "_distutils_hack" in error else None
    return PTH.found(
        f"{path} fails at interpreter start, line {number}: {error}",
        file=shlex.quote(path),
        fix=f"<python> -m pip install --force-reinstall {package}" if package else None,
    )


def _why_it_does_not_start(context: Context, outcome: Outcome) -> Finding:
    """Starts it again without what may keep it from starting, one by one."""
    evidence = f"{context.python} {outcome.ending}" + (f": {outcome.last_words}" if outcome.last_words else "")
    if outcome.timed_out:
        return HANGS.found(evidence)
    if outcome.returncode is None:
        known = re.search(r"Exec format error|Permission denied", outcome.noise)
        return (MACHINE if known else STANDARD_LIBRARY).found(evidence)
    for name in _SUSPECTS:
        value = context.environ.get(name)
        if value and "version" in context.probe("interpreter", environ={name: None}, deadline=5).answer:
            return _variable(name, value, evidence)
    library = re.search(r"error while loading shared libraries: ([^\s:]+)", outcome.noise)
    if library:
        return LIBRARY.found(evidence, library=library[1])
    told = context.command([context.python, "-c", "import sys; print(sys.version)"], deadline=5)
    number = re.match(r"(\d+)\.(\d+)", told.noise)
    if number and (int(number[1]), int(number[2])) < (3, 8):
        return ANCIENT.found(f"{context.python} is Python {told.noise.split()[0]}")
    if re.search(r"No module named '?encodings|find the Python codec", outcome.noise):
        return STANDARD_LIBRARY.found(evidence)
    if context.command([context.python, "-I", "-S", "-c", "pass"], deadline=5).ok:
        return SITE.found(evidence)
    return BROKEN.found(evidence)


def _variable(name: str, value: str, evidence: str) -> Finding:
    evidence = f"{name}={value} is set: {evidence}"
    if name == "PYTHONHOME":
        return HOME.found(evidence)
    hiding = [path for folder in value.split(":") for path in _standard(folder)] if name == "PYTHONPATH" else []
    if hiding:
        text = f"{hiding[0]} is imported instead of the standard library's module, and breaks the start of Python"
        return VARIABLE.found(evidence, cause=text, fix=f"{_rename(hiding[0])}; or unset PYTHONPATH")
    return VARIABLE.found(evidence, name=name)


def _standard(folder: str) -> list[str]:
    """Files in the folder with the name of a module of the standard library."""
    return [os.path.join(folder, entry) for entry, module in _modules(folder) if module in sys.stdlib_module_names]


# --- python.version

OLD = fault(
    "python.version.old",
    "fail",
    "Python is too old",
    cause="current versions of torch, and llmbench's worker, need Python <oldest> or newer",
    fix="make an environment with a newer Python, and give it with --python",
    link="https://devguide.python.org/versions/",
)
NEW = fault(
    "python.version.new",
    "fail",
    "Python is newer than any torch supports",
    cause="torch has no wheels for this Python yet: pip says 'No matching distribution found for torch'",
    fix="make an environment with Python <newest>, and give it with --python",
)
IMPLEMENTATION = fault(
    "python.version.implementation",
    "fail",
    "Python is not CPython",
    cause="torch is built for CPython only",
    fix="use CPython (python.org, your distribution's python3, or conda)",
)
BITS = fault(
    "python.version.bits",
    "fail",
    "Python is a 32-bit program",
    cause="torch is built for 64-bit systems only",
    fix="install a 64-bit Python",
)
MUSL = fault(
    "python.version.musl",
    "fail",
    "Python is built for musl, as on Alpine",
    cause="torch has no wheels for musl: pip finds none, or builds for hours and fails",
    fix="use an image with glibc, e.g. python:3.12-slim instead of python:3.12-alpine",
)
GLIBC = fault(
    "python.version.glibc",
    "warn",
    "The system's C library is older than current torch needs",
    cause="torch's wheels since 2.6 need glibc 2.28 or newer: pip finds an old torch or none",
    fix="use a newer system or container image",
    link="https://github.com/pypa/manylinux",
)
DEBUG = fault(
    "python.version.debug",
    "warn",
    "Python is a debug build",
    cause="every Python operation is checked, and is several times slower",
    fix="make the environment with a Python that was not built with --with-pydebug",
)
FREE_THREADED = fault(
    "python.version.free-threaded",
    "warn",
    "Python is a free-threaded build",
    cause="few compiled packages have wheels for it, and one that is not made for it switches the lock on again",
    fix="unless that is what you try out: use the usual build of Python",
    link="https://docs.python.org/3/howto/free-threading-python.html",
)


@check("python.version", "Python is one that torch supports", needs=("python.starts",))
def version(context: Context) -> Iterator[Finding]:
    python = context.facts["python"]
    number = tuple(int(part) for part in python["version"].split(".")[:2])
    oldest, newest = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
    what = f"{python['implementation']} {python['version']} at {python['executable']}"
    glibc = re.match(r"glibc (\d+)\.(\d+)", python["libc"] or "")
    found = []
    if number < OLDEST:
        found.append(OLD.found(what, oldest=oldest))
    if number > NEWEST and not python["torch"]:
        found.append(NEW.found(what, newest=newest))
    if python["implementation"] != "CPython":
        found.append(IMPLEMENTATION.found(what))
    if python["bits"] != 64:
        found.append(BITS.found(f"{what}, {python['bits']}-bit"))
    if python["libc"] == "musl":
        found.append(MUSL.found(f"{what}, built for musl", verdict="warn" if python["torch"] else "fail"))
    if glibc and (int(glibc[1]), int(glibc[2])) < OLDEST_GLIBC:
        found.append(GLIBC.found(f"{python['libc']}"))
    if python["debug"]:
        found.append(DEBUG.found(f"{what} has sys.gettotalrefcount, so it was built with --with-pydebug"))
    if python["free_threaded"]:
        found.append(FREE_THREADED.found(f"{what} is a free-threading build"))
    yield from found or [passed(f"{python['version']} (at least {oldest} is needed)")]


# --- python.modules

ESSENTIAL = fault(
    "python.modules.essential",
    "fail",
    "A part of the standard library that torch needs is missing",
    cause="this Python was built without <module>, or the library under it is gone; torch or its DataLoader needs it",
    fix="use a complete Python (your distribution's, python.org's, conda's), or install <package> and build it again",
    link="https://github.com/pyenv/pyenv/wiki#suggested-build-environment",
)
SSL = fault(
    "python.modules.ssl",
    "warn",
    "Python has no working ssl",
    cause="nothing can be downloaded: pip, model hubs and data sets fail with 'SSL module is not available'",
    fix="use a complete Python, or install <package> and build it again",
    link="https://github.com/pyenv/pyenv/wiki/Common-build-problems",
)
OPTIONAL = fault(
    "python.modules.optional",
    "warn",
    "Python was built without a compression or database module",
    cause="this Python has no <module>; packages that import it fail: torchvision.datasets and pandas (bz2, lzma), "
    "experiment trackers and nltk (sqlite3)",
    fix="use a complete Python, or install <package> and build it again",
    link="https://github.com/pyenv/pyenv/wiki/Common-build-problems",
)
_HEADERS = {
    "ctypes": "libffi-dev",
    "zlib": "zlib1g-dev",
    "ssl": "libssl-dev",
    "lzma": "liblzma-dev",
    "bz2": "libbz2-dev",
    "sqlite3": "libsqlite3-dev",
}


@check("python.modules", "The standard library is complete", needs=("python.starts",))
def modules(context: Context) -> Iterator[Finding]:
    errors = context.facts["python"].pop("modules", {})
    for module, error in errors.items():
        kind = SSL if module == "ssl" else OPTIONAL if module in ("lzma", "bz2", "sqlite3") else ESSENTIAL
        yield kind.found(
            f"{context.python}: import {module} fails: {error}",
            module=module,
            package=_HEADERS.get(module, "its headers"),
        )
    if not errors:
        yield passed(f"{', '.join(MODULES)} can be imported")


# --- python.encoding

NOT_UTF8 = fault(
    "python.encoding.files",
    "warn",
    "Python does not read text as UTF-8",
    cause="text files with other letters than ASCII (data sets, tokenizers, configurations) raise UnicodeDecodeError, "
    "or are read wrong",
    fix="export PYTHONUTF8=1",
    link="https://docs.python.org/3/library/os.html#utf8-mode",
    script="export PYTHONUTF8=1",
)
OUTPUT = fault(
    "python.encoding.output",
    "warn",
    "Python does not print as UTF-8",
    cause="printing any other letter than those of <encoding> raises UnicodeEncodeError: a progress "
    "bar can end a training",
    fix="unset PYTHONIOENCODING",
    link=f"{_STDLIB}#envvar-PYTHONIOENCODING",
    script="unset PYTHONIOENCODING",
)
_LOCALE = ("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "LC_ALL", "LC_CTYPE", "LANG")


@check("python.encoding", "Text is read and printed as UTF-8", needs=("python.starts",))
def encoding(context: Context) -> Iterator[Finding]:
    encodings = context.facts["python"]["encodings"]
    cause = (
        " ".join(f"{name}={context.environ[name]}" for name in _LOCALE if name in context.environ) or "no locale set"
    )
    if not _is_utf8(encodings["files"]):
        yield NOT_UTF8.found(f"open() reads text as {encodings['files']} ({cause})")
    elif not _is_utf8(encodings["output"]):
        yield OUTPUT.found(f"print() writes {encodings['output']} ({cause})", encoding=encodings["output"])
    else:
        yield passed(f"{encodings['files']} ({cause})")


def _is_utf8(name: str | None) -> bool:
    try:
        return name is None or codecs.lookup(name).name == "utf-8"
    except LookupError:
        return False


# --- python.shadow

HIDES_TORCH = fault(
    "python.shadow.torch",
    "fail",
    "A file or folder hides torch or numpy",
    cause="a script run in this folder imports <entry> instead of <module>",
    fix="rename it: mv <path> <path>.hidden, and delete __pycache__ beside it",
)
CHECKOUT = fault(
    "python.shadow.checkout",
    "fail",
    "A source checkout without compiled parts hides torch",
    cause="in the folder of a source checkout, Python imports the sources, which have no compiled C extensions",
    fix="work in another folder than <folder>, or build that checkout: pip install -e .",
)
HIDES_STANDARD = fault(
    "python.shadow.standard",
    "fail",
    "A file hides a module of the standard library that torch uses",
    cause="torch, and all that imports <module>, gets <entry> instead and fails with a strange "
    "AttributeError or ImportError",
    fix="rename it: mv <path> <path>.hidden, and delete __pycache__ beside it",
)
HIDES_OTHER = fault(
    "python.shadow.other",
    "warn",
    "A file hides a module of the standard library",
    cause="a package that imports <module> gets <entry> instead",
    fix="rename it: mv <path> <path>.hidden, and delete __pycache__ beside it",
)

# What is in sys.modules after import of torch, its compiler, data loader and distributed parts with CPython 3.11,
# without what Python has imported itself before a script starts, or has built in: that cannot be hidden.
_TORCH_USES = frozenset(
    """argparse array ast asyncio base64 binascii bisect bz2 cProfile calendar cmath collections colorsys concurrent
    configparser contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib dis distutils email
    enum fcntl fnmatch fractions functools getopt getpass gettext glob grp gzip hashlib heapq hmac html http importlib
    inspect ipaddress json keyword linecache locale logging lzma math mmap multiprocessing numbers opcode operator
    pathlib pickle pickletools pkgutil platform pprint profile pstats pyexpat queue quopri random re reprlib secrets
    select selectors shlex shutil signal socket ssl statistics string struct subprocess sysconfig tarfile tempfile
    termios textwrap threading timeit token tokenize traceback types typing unicodedata unittest urllib uuid warnings
    weakref xml zipfile zlib""".split()  # noqa: SIM905
)
_CANNOT_BE_HIDDEN = frozenset(
    """abc antigravity atexit builtins codecs encodings errno faulthandler gc genericpath idlelib io itertools lib2to3
    marshal ntpath os posix posixpath pwd runpy site stat symtable sys syslog test this time tkinter turtle turtledemo
    zipimport""".split()  # noqa: SIM905
)
"""Or nobody would notice."""


@check("python.shadow", "No file in the working folder or on PYTHONPATH hides a package", needs=("python.starts",))
def shadow(context: Context) -> Iterator[Finding]:
    python = context.facts["python"]
    folders = [folder for folder in context.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if python["working_folder"] is not None and not python["safe_path"]:
        folders.insert(0, python["working_folder"])
    if not folders:
        yield passed("the working folder is not on the import path")
        return
    hidden = False
    for folder in dict.fromkeys(folders):
        sources = folder == python["working_folder"] or _is_checkout(folder)
        for entry, module in _modules(folder):
            finding = _hides(folder, entry, module, sources)
            if finding:
                hidden = True
                yield finding
    unreadable = [folder for folder in folders if os.path.isdir(folder) and not os.access(folder, os.R_OK)]
    if unreadable:
        yield skipped(f"{unreadable[0]} cannot be listed")
    elif not hidden:
        yield passed(f"nothing in {', '.join(folders)} shadows torch, numpy or the standard library")


def _hides(folder: str, entry: str, module: str, sources: bool) -> Finding | None:
    """The finding that an entry hides a module. ``sources``: a package there may be one that was not built."""
    path = os.path.join(folder, entry)
    values: dict[str, Any] = {"entry": entry, "module": module, "path": shlex.quote(path), "folder": folder}
    if module in ("torch", "numpy"):
        if not os.path.isdir(path):
            return HIDES_TORCH.found(f"{path} shadows the installed {module}", **values)
        # Elsewhere it is a second installed copy: python.path tells of it.
        if sources and not _is_built(path, module):
            evidence = f"{path}, a source tree without compiled extensions, shadows the installed {module}"
            return CHECKOUT.found(evidence, **values)
        return None
    if module in _TORCH_USES:
        return HIDES_STANDARD.found(f"{path} shadows the standard library's {module}", **values)
    if module in sys.stdlib_module_names and module not in _CANNOT_BE_HIDDEN and not module.startswith("_"):
        return HIDES_OTHER.found(f"{path} shadows the standard library's {module}", **values)
    return None


def _modules(folder: str) -> Iterator[tuple[str, str]]:
    """The entries of a folder that Python would import, with the name of the module that each would be."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        stem, _, suffix = name.partition(".")
        file = suffix in ("py", "pyc", "so") or (suffix.startswith("cpython-") and suffix.endswith(".so"))
        # A folder without __init__.py hides nothing.
        if file or (not suffix and os.path.isfile(os.path.join(folder, name, "__init__.py"))):
            yield name, stem


def _is_checkout(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, name)) for name in ("setup.py", "pyproject.toml", ".git"))


def _is_built(package: str, module: str) -> bool:
    """Whether it has its compiled part, and works: a development build, or an installed copy."""
    inside = {"torch": package, "numpy": os.path.join(package, "_core")}[module]
    older = os.path.join(package, "core")
    names = [*_listed(inside), *(_listed(older) if module == "numpy" else [])]
    return any(name.startswith(("_C.", "_multiarray_umath.")) and name.endswith(".so") for name in names)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _rename(path: str) -> str:
    return f"rename it: mv {shlex.quote(path)} {shlex.quote(path + '.hidden')}"


# The rest of this area, told after the checks above.
from llmbench.doctor.checks import packages, pip, python_environment  # noqa: E402, F401
