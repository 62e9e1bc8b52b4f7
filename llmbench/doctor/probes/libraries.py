"""Which shared libraries the dynamic linker would give torch, and whether they are new enough. Loads no torch."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import struct
import sys
from collections.abc import Iterator

_NEED, _DEFINE = 0x6FFFFFFE, 0x6FFFFFFD  # sections of the versions that an ELF file needs and defines
_DYNAMIC, _RPATH, _RUNPATH = 6, 15, 29
_CUDA = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|nccl|nvrtc|cusparse|cusparseLt|cusolver|cufft|curand|nvJitLink|cufile)"
    r"\.so\.(\d+)$"
)
_OWN = re.compile(r"lib(torch(_cpu|_cuda|_python)?|c10(_cuda)?)\.so$")
# A library tells its own version: function, and how a number is read.
_ASK = {
    "cudnn": ("cudnnGetVersion", None),
    "cudart": ("cudaRuntimeGetVersion", ctypes.c_int),
    "nccl": ("ncclGetVersion", ctypes.c_int),
}


def probe(arguments: dict) -> Iterator[dict]:
    spec = importlib.util.find_spec("torch")
    package = os.path.dirname(spec.origin) if spec and spec.origin else None
    if package:
        yield {"torch_cuda": cuda_version(package), "own": own_versions()}
    yield {"preloaded": [preloaded(part) for part in preloads()]}
    yield {"needed": needed(package) if package else {}, "insists": insists(package) if package else False}
    yield {"libc": c_library()}
    yield {"cxx": standard_library()}
    shadows: list[dict] = []
    for folder in folders():
        for name in sorted(names_in(folder)):
            path = os.path.join(folder, name)
            match = _CUDA.match(name)
            if match and os.path.exists(path):
                described = {"library": match.group(1), "soname": int(match.group(2)), **version(path, match)}
                shadows.append({"name": name, "folder": folder, **described})
            elif package and _OWN.match(name) and not same(path, os.path.join(package, "lib", name)):
                shadows.append({"name": name, "folder": folder, "library": "torch", "version": None})
        yield {"shadows": shadows}


def cuda_version(package: str) -> str | None:
    try:
        with open(os.path.join(package, "version.py"), encoding="utf-8", errors="replace") as file:
            match = re.search(r"^cuda\s*(?::[^=\n]*)?=\s*['\"]([\d.]+)['\"]", file.read(10_000), re.MULTILINE)
    except OSError:
        return None
    return match.group(1) if match else None


def own_versions() -> dict:
    """Version of each installed package of CUDA libraries, without the CUDA version in its name."""
    found: dict = {}
    for folder in dict.fromkeys(part or "." for part in sys.path):
        for name in names_in(folder):
            match = re.match(r"nvidia_(\w+?)(?:_cu\d+)?-([\d.]+)\.dist-info$", name)
            if match:
                found[match.group(1)] = max(found.get(match.group(1), ""), match.group(2), key=numbers)
    return found


def numbers(version: str) -> list:
    return [int(part) for part in re.findall(r"\d+", version)]


def folders() -> list:
    """Of LD_LIBRARY_PATH; an empty entry means the working folder."""
    parts = re.split("[:;]", os.environ.get("LD_LIBRARY_PATH", ""))
    return list(dict.fromkeys(part for part in parts if part))


def names_in(folder: str) -> list:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def same(a: str, b: str) -> bool:
    try:
        return os.path.samefile(a, b) or os.path.getsize(a) == os.path.getsize(b)
    except OSError:
        return not os.path.exists(b)


def preloads() -> list:
    found = [("LD_PRELOAD", part) for part in re.split("[: ]+", os.environ.get("LD_PRELOAD", "")) if part]
    with contextlib.suppress(OSError), open("/etc/ld.so.preload", errors="replace") as file:
        text = re.sub(r"#.*", "", file.read(10_000))
        found += [("/etc/ld.so.preload", part) for part in re.split(r"[:\s]+", text) if part]
    return found


def preloaded(entry: tuple) -> dict:
    """Whether the linker finds a library, and can load it."""
    source, name = entry
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return {"source": source, "name": name, "error": str(error), "exists": "/" not in name or os.path.exists(name)}
    return {"source": source, "name": name, "error": None, "exists": True}


def c_library() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def standard_library() -> dict:
    """The libstdc++.so.6 that is found: its path, and the newest versions that it defines."""
    try:
        path = path_of(ctypes.CDLL("libstdc++.so.6"))
    except OSError as error:
        return {"error": str(error)}
    return {"path": path, "defined": newest(versions(path, _DEFINE).get("", []))} if path else {}


class _LinkMap(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]


def path_of(library: ctypes.CDLL) -> str:
    """Where the linker found it: the handle of glibc's dlopen points to its link map."""
    name = ctypes.cast(library._handle, ctypes.POINTER(_LinkMap)).contents.name
    return os.fsdecode(name) if name else ""


def needed(package: str) -> dict:
    """The newest version of each family (GLIBC, GLIBCXX, CXXABI) that a library of torch needs, and which needs it."""
    found: dict = {}
    folder = os.path.join(package, "lib")
    paths = [os.path.join(folder, n) for n in names_in(folder) if re.match(r"lib(torch|c10|shm).*\.so$", n)]
    for path in paths:
        for names in versions(path, _NEED).values():
            for family, number in newest(names).items():
                if number > found.get(family, ([], ""))[0]:
                    found[family] = (number, os.path.basename(path))
    return found


def insists(package: str) -> bool:
    """Whether torch's libraries find each other before LD_LIBRARY_PATH is asked: by DT_RPATH, not by DT_RUNPATH."""
    try:
        with open(os.path.join(package, "lib", "libtorch_python.so"), "rb") as file:
            sections = section_table(file)
            for section in sections:
                if section[1] == _DYNAMIC:
                    file.seek(section[4])
                    data = file.read(section[5])
                    tags = {struct.unpack_from("<q", data, at)[0] for at in range(0, len(data), 16)}
                    return _RPATH in tags and _RUNPATH not in tags
    except (OSError, struct.error, ValueError):
        pass
    return False


def newest(names: list) -> dict:
    """``GLIBCXX_3.4.30`` is version (3, 4, 30) of the family GLIBCXX."""
    found: dict = {}
    for name in names:
        family, _, number = name.partition("_")
        parts = number.split(".")
        if family in ("GLIBC", "GLIBCXX", "CXXABI") and all(part.isdigit() for part in parts):
            found[family] = max(found.get(family, []), [int(part) for part in parts])
    return found


def versions(path: str, kind: int) -> dict:
    """Names of symbol versions in a 64-bit little-endian ELF file: needed, by library, or defined, under ``""``.

    Layout: System V ABI, and Linux Standard Base, "Symbol Versioning".
    """
    try:
        with open(path, "rb") as file:
            return _versions(file, kind)
    except (OSError, struct.error, ValueError, IndexError):
        return {}


def section_table(file) -> list:  # type: ignore[no-untyped-def]
    """Name, type, flags, address, offset, size, link, info of each section of a 64-bit little-endian ELF file."""
    head = file.read(64)
    if head[:6] != b"\x7fELF\x02\x01":
        return []
    start, entry, count = struct.unpack_from("<Q10xHH", head, 40)
    file.seek(start)
    table = file.read(entry * count)
    return [struct.unpack_from("<IIQQQQII", table, entry * i) for i in range(count)]


def _versions(file, kind: int) -> dict:  # type: ignore[no-untyped-def]
    sections = section_table(file)
    found: dict = {}
    for section in sections:
        if section[1] != kind:
            continue
        names = sections[section[6]][4]
        file.seek(section[4])
        data = file.read(section[5])

        def text(offset: int, names: int = names) -> str:
            file.seek(names + offset)
            return file.read(256).partition(b"\0")[0].decode("latin-1")

        at = 0
        for _ in range(section[7]):
            if kind == _NEED:
                _, aux_count, owner, aux, following = struct.unpack_from("<HHIII", data, at)
                listed, inner = found.setdefault(text(owner), []), at + aux
                for _ in range(aux_count):
                    name, step = struct.unpack_from("<8xII", data, inner)
                    listed.append(text(name))
                    inner += step
            else:
                aux, following = struct.unpack_from("<12xII", data, at)
                found.setdefault("", []).append(text(struct.unpack_from("<I", data, at + aux)[0]))
            at += following
    return found


def version(path: str, match) -> dict:  # type: ignore[no-untyped-def]
    """Of a CUDA library: from the name of the file behind the links, or from the library itself."""
    real = os.path.basename(os.path.realpath(path))
    number = real.partition(".so.")[2]
    if "." in number:
        return {"version": number}
    function, kind = _ASK.get(re.sub(r"_\w+", "", match.group(1)), ("", None))
    if not function or not os.path.getsize(path):
        return {"version": None}
    try:
        call = getattr(ctypes.CDLL(path), function)
        if kind is None:
            call.restype = ctypes.c_size_t
            code = call()
        else:
            value = kind()
            call(ctypes.byref(value))
            code = value.value
    except (OSError, AttributeError):
        return {"version": None}
    return {"version": spelled(match.group(1), code)}


def spelled(library: str, code: int) -> str:
    """8902 is cuDNN 8.9.2, 91900 is 9.19.0; 22703 is NCCL 2.27.3; 12040 is CUDA 12.4."""
    if library == "cudart":
        return f"{code // 1000}.{code % 1000 // 10}"
    large = code >= (90000 if library.startswith("cudnn") else 10000)
    unit = 10000 if large else 1000
    return f"{code // unit}.{code % unit // 100}.{code % 100}"
