"""Where torch would be imported from, and whether its files and its CUDA libraries are what was installed."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import re
import struct
import sys
from collections.abc import Iterator

# Names of the distributions that bring the CUDA libraries, with _ for -.
_CUDA = re.compile(
    r"nvidia_(cublas|cuda_\w+?|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparselt|nccl|nvjitlink|nvtx|nvshmem)"
    r"(_cu\d+)?(?![\w])|cuda_toolkit(?![\w])"
)
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 21: "ppc64le", 22: "s390x", 243: "riscv64"}


def probe(arguments: dict) -> Iterator[dict]:
    spec = importlib.util.find_spec("torch")
    infos, wheels, leftovers = listed()
    distributions = [importlib.metadata.Distribution.at(path) for path in infos]
    folders = [str(path) for path in (spec.submodule_search_locations or [])] if spec else []
    yield {
        "found": spec is not None,
        "origin": spec.origin if spec else None,
        "folders": folders,
        "versions": [d.version for d in distributions],
        "distributions": infos,
        "leftovers": leftovers,
        "installers": [(d.read_text("INSTALLER") or "").strip() for d in distributions],
        "conda": conda_packages(),
        "machine": platform.machine(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "suffixes": importlib.machinery.EXTENSION_SUFFIXES,
    }
    if spec and spec.origin:
        yield {"source": says_of_itself(folders[0]), "compiled": compiled_parts(folders[0])}
        yield look_inside(libraries(folders[0]))
    if len(distributions) == 1:
        yield {"tags": tags(distributions[0]), "requires": required(distributions[0], wheels)}
        yield compare(infos[0], "torch/", everything=True)
    yield {"wheels": {name: version for name, (version, _) in wheels.items()}}
    damaged = {}
    for name, (_, path) in wheels.items():
        found = compare(path, "nvidia/", everything=False)
        if found["missing"] or found["truncated"] or found["replaced"]:
            damaged[name] = {key: found[key] for key in ("missing", "truncated", "replaced")}
    yield {"damaged_wheels": damaged}


def listed() -> tuple:
    """What of torch, its CUDA libraries (name: version, folder) and interrupted installs is on the import path."""
    infos: list[str] = []
    wheels: dict[str, tuple] = {}
    leftovers: list[str] = []
    for folder in dict.fromkeys(os.path.realpath(part or ".") for part in sys.path):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if re.match(r"~+o?r?ch\b|~+torch\b", name):
                leftovers.append(os.path.join(folder, name))
            if not name.endswith((".dist-info", ".egg-info")):
                continue
            project, _, version = name.rpartition(".")[0].partition("-")
            project = re.sub(r"[-_.]+", "_", project).lower()
            if project == "torch":
                infos.append(os.path.join(folder, name))
            elif _CUDA.match(project) and project not in wheels:
                wheels[project] = (version.partition("-")[0], os.path.join(folder, name))
    return infos, wheels, leftovers


def conda_packages() -> list:
    """Packages of torch that conda says it has installed here."""
    try:
        names = os.listdir(os.path.join(sys.prefix, "conda-meta"))
    except OSError:
        return []
    return sorted(
        name[:-5] for name in names if re.match(r"(pytorch|libtorch|pytorch-gpu|pytorch-cpu)-\d.*\.json$", name)
    )


def says_of_itself(package: str) -> dict:
    """Version and CUDA version, as written in version.py; torch is not imported."""
    found: dict = {}
    try:
        with open(os.path.join(package, "version.py"), encoding="utf-8", errors="replace") as file:
            text = file.read(10_000)
    except OSError:
        return found
    for name, key in (("__version__", "version"), ("cuda", "cuda")):
        match = re.search(rf"^{name}\s*(?::[^=\n]*)?=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE)
        found[key] = match.group(1) if match else None
    return found


def compiled_parts(package: str) -> list:
    """The files that torch._C can be imported from, by some Python."""
    try:
        return sorted(name for name in os.listdir(package) if re.match(r"_C\..*\.?(so|pyd)$", name))
    except OSError:
        return []


def libraries(package: str) -> list:
    found = [os.path.join(package, name) for name in compiled_parts(package)]
    try:
        names = sorted(os.listdir(os.path.join(package, "lib")))
    except OSError:
        names = []
    return found + [os.path.join(package, "lib", name) for name in names if name.endswith(".so") or ".so." in name]


def look_inside(paths: list) -> dict:
    """Libraries that are none, that were cut off, that are for other machines, or that may not be read."""
    foreign: list[list] = []
    not_libraries: list[list] = []
    cut: list[list] = []
    unreadable: list[list] = []
    for path in paths:
        try:
            size = os.stat(path).st_size
            with open(path, "rb") as file:
                head = file.read(64)
        except OSError as error:
            unreadable.append([path, error.strerror or str(error)])
            continue
        if head[:4] != b"\x7fELF"[: len(head)]:
            not_libraries.append([path, head[:40].decode("latin-1"), not any(head)])
            continue
        if len(head) < 64 or head[4] != 2 or head[5] != 1:
            continue  # cut off, 32-bit or big-endian: the machine says enough elsewhere
        machine = struct.unpack_from("<H", head, 18)[0]
        known = _ELF_MACHINES.get(machine, f"machine {machine}")
        if known != platform.machine() and machine in _ELF_MACHINES and platform.machine() in _ELF_MACHINES.values():
            foreign.append([path, known])
        sections, entry, count = struct.unpack_from("<Q10xHH", head, 40)
        if sections + entry * count > size:
            cut.append([path, size, sections + entry * count])
    return {"foreign": foreign, "not_libraries": not_libraries, "cut": cut, "unreadable": unreadable}


def tags(distribution: importlib.metadata.Distribution) -> list:
    """What the wheel was made for: python-abi-platform."""
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]


def required(distribution: importlib.metadata.Distribution, wheels: dict) -> list:
    """Requirements of torch on its CUDA libraries; where one is a collection with extras, those of the collection."""
    found = [line for line in distribution.requires or [] if _CUDA.match(re.sub(r"[-_]+", "_", line).lower())]
    for line in list(found):
        match = re.match(r"([\w.-]+)\[([^\]]*)\]", line)
        name = re.sub(r"[-_.]+", "_", match.group(1)).lower() if match else ""
        if match is None or name not in wheels:
            continue
        extras = {extra.strip() for extra in match.group(2).split(",")}
        collection = importlib.metadata.Distribution.at(wheels[name][1])
        for inner in collection.requires or []:
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]*)['\"]", inner)
            if extra and extra.group(1) in extras:
                marker = re.sub(r"(and\s+)?extra\s*==\s*['\"][^'\"]*['\"](\s+and)?", "", inner.partition(";")[2])
                found.append(f"{inner.partition(';')[0]};{marker.strip(' ()')}")
    return found


def compare(info: str, under: str, everything: bool) -> dict:
    """A distribution's files against its RECORD: only size and presence, since hashing gigabytes would take long.

    Args:
        info: its folder ``*.dist-info``.
        under: which of its files are looked at.
        everything: or only its libraries.
    """
    missing: list[str] = []
    truncated: list[list] = []
    replaced: list[list] = []
    edited: list[list] = []
    unreadable: list[list] = []
    total = 0
    site = os.path.dirname(info)
    record = os.path.join(info, "RECORD")
    for name, recorded in recorded_files(record):
        # Byte code is made and removed at will; a link's script is rewritten by installers.
        library = name.endswith(".so") or ".so." in name
        if not name.startswith(under) or name.endswith(".pyc") or not (everything or library):
            continue
        total += 1
        path = os.path.join(site, name)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            missing.append(name)
            continue
        except OSError as error:
            unreadable.append([path, error.strerror or str(error)])
            continue
        if not library and not os.access(path, os.R_OK):
            unreadable.append([path, "Permission denied"])
        if recorded is not None and size != recorded:
            # People do edit Python files. A library that is shorter was cut off; a longer one is somebody's own.
            cut_off = size == 0 or (library and size < recorded)
            (truncated if cut_off else replaced if library else edited).append([name, size, recorded])
    missing.sort(key=lambda name: ".so" not in name)
    found = {
        "record": os.path.exists(record),
        "recorded": total,
        "missing": missing,
        "truncated": truncated,
        "replaced": replaced,
        "edited": edited,
    }
    if unreadable:
        found["unreadable"] = unreadable
    return found


def recorded_files(record: str) -> Iterator[tuple]:
    """Path and size of each line: ``path,hash,size``, where a path with a comma is quoted."""
    try:
        with open(record, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        name, _, size = line.rpartition(",")
        name = name.rpartition(",")[0].strip('"')
        if name:
            yield name, int(size) if size.isdigit() else None
