"""Two processes of one layout lie in memory alike, and those of another one elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmbench
from llmbench.launch.sessions import PAGES, layout

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="personality(2) is Linux's")
START = Path(llmbench.__file__).parent / "worker" / "start.py"
# For the server: where a block of the heap lies, and one that is mapped; what a set is like; whether that is fixed.
SERVER = """
import ctypes, json, sys
from llmbench.worker.layout import is_fixed
def serve():
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    told = [malloc(100_000), malloc(64 * 2**20), list({str(number) for number in range(20)}), is_fixed(), sys.argv[1:]]
    print(json.dumps(told))
"""


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """The entry of the target side, with a server that tells where it lies."""
    worker = tmp_path / "llmbench" / "worker"
    worker.mkdir(parents=True)
    for name in ("start.py", "layout.py"):
        (worker / name).write_text((START.parent / name).read_text())
    (worker / "server.py").write_text(SERVER)
    return worker / "start.py"


def told(start: Path, variables: dict[str, str]) -> list[object]:
    command = [sys.executable, str(start), "torch", "a module"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"} | variables
    return json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)


def may_fix(start: Path) -> bool:
    return bool(told(start, {PAGES: "0"})[3])


def test_of_one_seed_all_lies_alike_of_another_elsewhere(start: Path) -> None:
    if not may_fix(start):
        pytest.skip("this kernel, or its container, does not let a process choose")
    one, again, other = (told(start, layout(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one[3] is True
    assert one[4] == ["torch", "a module"]
    assert all(one[part] != other[part] for part in (0, 1, 2))


def test_without_a_layout_the_kernel_draws(start: Path) -> None:
    found = [told(start, {}) for _ in range(3)]
    assert len({one[1] for one in found}) > 1  # type: ignore[arg-type]
    assert not any(one[3] for one in found)


def test_where_the_kernel_forbids_it_the_process_goes_on(start: Path) -> None:
    file = start.with_name("layout.py")
    text = file.read_text()
    forbidden = text.replace("if libc.personality(libc.personality(_ASK) | _NO_RANDOMIZE) == -1:", "if True:")
    assert forbidden != text
    file.write_text(forbidden)
    assert told(start, layout(1))[3:] == [False, ["torch", "a module"]]


def test_the_seed_decides_and_a_hash_seed_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert layout(1) == layout(1)
    assert layout(1) != layout(2)
    assert "PYTHONHASHSEED" in layout(1)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert "PYTHONHASHSEED" not in layout(1)


# What the test's argument names is told of the maps; the stack must then have room for a deep recursion in C.
DEEP = """
import sys
from llmbench.worker import layout
lines = open("/proc/self/maps").read().splitlines(keepends=True)
stack = next(place for place, line in enumerate(lines) if "[stack]" in line)
begin = int(lines[stack].split("-")[1].split()[0], 16) + 2**20
own = [f"{begin:x}-{begin + 4096:x} r--p 00000000 00:00 0 [vvar]\\n"] if sys.argv[1] == "above" else []
class Maps(list):
    def __enter__(self): return self
    def __exit__(self, *_): return None
layout.open = lambda *_, **__: Maps(lines[: stack + 1] + own + lines[stack + 1 :])
layout.place(5)
def deep(left): return sorted([left], key=lambda _: deep(left - 1) if left else 0)
sys.setrecursionlimit(100_000)
print(len(deep(1500)))
"""


@pytest.mark.parametrize("pages", ["as they are", "above"])
def test_the_stack_keeps_its_room_wherever_the_kernel_has_its_own_pages(pages: str) -> None:
    """Also where the kernel draws the layout itself, as in a container that forbids anything else."""
    command = [sys.executable, "-c", DEEP, pages]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, cwd=START.parents[2])
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


LIMITED = """
import resource
from llmbench.worker import layout
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**25, size + 2**25))
layout.place(5)
print("goes on")
"""


def test_with_little_address_space_the_process_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, cwd=START.parents[2])
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr
