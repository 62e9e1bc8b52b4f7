"""Which packages are installed, what they require, what is left of removed ones, and how they were compiled."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import mmap
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

NUMPY_1 = b"numpy.core._multiarray_umath"
NUMPY_2 = b"numpy._core._multiarray_umath"
"""What NumPy's headers have a compiled module import: those of NumPy 2 try the second name first."""

_TORCH_NAMES = (b"_ZN3c10", b"libc10.so", b"aoti_torch_")
_SYMBOLS_END = 4 << 20
_READ_AT_MOST = 24 << 20
_TORCH_NEIGHBOURS = ("flash_attn", "xformers", "apex", "torchvision", "torchaudio", "deepspeed", "mamba_ssm")


def probe(arguments: dict) -> Iterator[dict]:
    """``watch``: names of modules of which more than one copy is worth telling."""
    folders = package_folders()
    listings = {folder: listing(folder) for folder in folders}
    found = [d for folder in folders for d in distributions(folder, listings[folder])]
    here = {folder: listing(folder) for folder in working_folder()}
    yield {
        "folders": folders,
        "user_folder": user_folder(),
        "distributions": found,
        "leftovers": [os.path.join(f, n) for f in folders for n in listings[f] if n[:1] in "~-" and len(n) > 1],
        "copies": copies(arguments["watch"], {**here, **listings}),
    }
    yield {"stale_bytecode": stale_bytecode(folders)}
    yield {"numpy_1": [d["name"] for d in found if needs(d, "numpy") and built_for_numpy_1(d)]}
    yield {"extensions": extensions(found, listings)}
    yield {
        "bitsandbytes": [name for f in folders for name in listing(os.path.join(f, "bitsandbytes")) if ".so" in name]
    }


def package_folders() -> list[str]:
    """The folders of the import path, in order, without the working folder and the standard library."""
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    standard |= {os.path.join(str(folder), "lib-dynload") for folder in standard}
    kept: list[str] = []
    for folder in sys.path:
        if folder and folder not in standard and folder not in kept and os.path.isdir(folder):
            kept.append(folder)
    return kept


def working_folder() -> list[str]:
    """The folder in which scripts run, if it is on the import path; none if it was deleted."""
    if getattr(sys.flags, "safe_path", False):
        return []
    try:
        return [os.getcwd()]
    except OSError:
        return []


def user_folder() -> str | None:
    import site

    return site.getusersitepackages() if site.ENABLE_USER_SITE else None


def listing(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def distributions(folder: str, names: list[str]) -> list[dict]:
    found = []
    for entry in names:
        stem, _, kind = entry.rpartition(".")
        if kind not in ("dist-info", "egg-info"):
            continue
        path = os.path.join(folder, entry)
        told = metadata(path)
        name, _, version = stem.partition("-")
        found.append(
            {
                "name": told.get("name") or name,
                "version": told.get("version") or version.split("-py")[0],
                "folder": folder,
                "entry": entry,
                "complete": bool(told.get("name") and told.get("version")),
                "requires": told.get("requires", []),
                "installer": read(os.path.join(path, "INSTALLER")).strip(),
                "source": editable_source(path),
                "intact": intact(path, folder) if kind == "dist-info" else None,
            }
        )
    return found


def metadata(path: str) -> dict:
    """Name, version and requirements: the headers up to the first empty line."""
    text = read(os.path.join(path, "METADATA")) or read(os.path.join(path, "PKG-INFO")) or read(path)
    told: dict = {"requires": []}
    for line in text.partition("\n\n")[0].splitlines():
        field, _, value = line.partition(":")
        if field in ("Name", "Version"):
            told.setdefault(field.lower(), value.strip())
        elif field == "Requires-Dist":
            told["requires"].append(value.strip())
    return told


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def editable_source(path: str) -> str | None:
    """The folder from which a package installed with ``pip install -e`` is imported."""
    try:
        told = json.loads(read(os.path.join(path, "direct_url.json")) or "{}")
    except ValueError:
        return None
    if not told.get("dir_info", {}).get("editable"):
        return None
    return unquote(urlsplit(told.get("url", "")).path)


def intact(path: str, folder: str) -> float | None:
    """The share of the first recorded Python files that have the recorded size: tells whose files lie here."""
    checked = good = 0
    for line in read(os.path.join(path, "RECORD")).splitlines():
        parts = line.rsplit(",", 2)
        if len(parts) == 3 and parts[0].endswith(".py") and parts[2].isdigit():
            checked += 1
            with contextlib.suppress(OSError):
                good += os.stat(os.path.join(folder, parts[0])).st_size == int(parts[2])
        if checked == 12:
            break
    return good / checked if checked else None


def copies(watch: list[str], listings: dict[str, list[str]]) -> dict[str, list[str]]:
    """Where the modules lie, in the order of the import path; only those of which there is any."""
    found: dict[str, list[str]] = {}
    for folder, names in listings.items():
        present = set(names)
        for module in watch:
            package, file = os.path.join(folder, module), os.path.join(folder, module + ".py")
            if module in present and os.path.isfile(os.path.join(package, "__init__.py")):
                found.setdefault(module, []).append(os.path.realpath(package))
            elif module + ".py" in present:
                found.setdefault(module, []).append(os.path.realpath(file))
    return {module: list(dict.fromkeys(paths)) for module, paths in found.items()}


def stale_bytecode(folders: list[str]) -> str | None:
    """Why torch is compiled anew at each start; None if it is not, or if what is compiled will be kept."""
    package = next((path for path in (os.path.join(f, "torch") for f in folders) if os.path.isdir(path)), "")
    source = os.path.join(package, "nn", "modules", "module.py")
    if not os.path.isfile(source) or sys.pycache_prefix:
        return None
    compiled = importlib.util.cache_from_source(source)
    kept = os.path.dirname(compiled) if os.path.isdir(os.path.dirname(compiled)) else os.path.dirname(source)
    if not sys.dont_write_bytecode and os.access(kept, os.W_OK):
        return None
    try:
        with open(compiled, "rb") as file:
            head = file.read(16)
    except OSError:
        return compiled + " does not exist"
    # Flags, then the source's time and size (PEP 552); other flags mean a hash, and no question of time.
    if head[4:8] == bytes(4) and head[8:12] != (int(os.stat(source).st_mtime) & 0xFFFFFFFF).to_bytes(4, "little"):
        return compiled + " is of another time than its source"
    return None


def needs(distribution: dict, name: str) -> bool:
    """Whether it requires this package always, not only with an extra."""
    return any(
        re.match(re.escape(name) + r"(?![\w.-])", line, re.I) and "extra" not in line
        for line in distribution["requires"]
    )


def libraries(distribution: dict) -> list[str]:
    """Its compiled modules by the record of its files; without one, those in the folder of its name."""
    folder = distribution["folder"]
    record = read(os.path.join(folder, distribution["entry"], "RECORD"))
    if record:
        files = [line.partition(",")[0] for line in record.splitlines() if ".so," in line]
        return [path for path in (os.path.join(folder, file) for file in files) if os.path.isfile(path)]
    package = os.path.join(folder, distribution["name"].replace("-", "_"))
    return [os.path.join(at, name) for at, _, names in os.walk(package) for name in names if name.endswith(".so")]


def built_for_numpy_1(distribution: dict) -> bool:
    """Whether its smallest module that uses NumPy's interface was compiled with headers of NumPy 1."""
    sizes = sorted((os.stat(path).st_size, path) for path in libraries(distribution))
    budget = _READ_AT_MOST
    for size, path in sizes:
        budget -= size
        if budget < 0:
            break
        if holds(path, NUMPY_1):
            return not holds(path, NUMPY_2)
    return False


def extensions(found: list[dict], listings: dict[str, list[str]]) -> dict[str, list[str]]:
    """Libraries that use torch's C++ interface, by the package that they belong to."""
    files: dict[str, str] = {}
    for d in found:
        if d["name"] != "torch" and (needs(d, "torch") or d["name"].replace("-", "_") in _TORCH_NEIGHBOURS):
            files.update((path, d["name"]) for path in libraries(d))
    for folder, names in listings.items():  # flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so and its like
        for name in names:
            if name.endswith(".so"):
                files.setdefault(os.path.join(folder, name), owner(name.partition(".")[0], found))
    by_package: dict[str, list[str]] = {}
    for path, package in files.items():
        if any(holds(path, needle, _SYMBOLS_END) for needle in _TORCH_NAMES):
            by_package.setdefault(package, []).append(path)
    return by_package


def owner(module: str, found: list[dict]) -> str:
    """The package that a module at the top belongs to, by its name: flash_attn_2_cuda is a part of flash-attn."""
    names = [d["name"] for d in found if (module + "_").startswith(d["name"].replace("-", "_") + "_")]
    return max(names, key=len, default=module)


def holds(path: str, needle: bytes, limit: int = 0) -> bool:
    """Whether these bytes occur in the file, or in its first ``limit`` bytes."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(needle, 0, min(limit, len(content)) or len(content)) >= 0
    except (OSError, ValueError):
        return False
