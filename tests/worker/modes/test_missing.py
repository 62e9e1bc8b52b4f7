"""What a machine lacks to run a mode: it is told with the cure, and the case is skipped."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import nn

from llmbench.worker.device import Device
from llmbench.worker.faults import Unavailable
from llmbench.worker.modes import apply, missing
from llmbench.worker.modes.compile import missing_tool

CPU = Device("cpu")


class Cuda(Device):
    """A CUDA device as far as names go: none is needed to ask what would be missing."""

    def __init__(self) -> None:
        self.kind = "cuda"

    @property
    def name(self) -> str:
        return "Tesla T4"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder that is all of PATH, beside Python headers that are there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    (tmp_path / "Python.h").touch()
    return folder


def of_capability(monkeypatch: pytest.MonkeyPatch, *capability: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))


def installed(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)


@pytest.mark.parametrize("part", ["compile", "compile-blocks", "max-autotune"])
def test_without_a_compiler_nothing_is_compiled(part: str, tools: Path) -> None:
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler on PATH.*: apt-get install g\+\+, or set CXX"):
        apply(nn.Linear(1, 1), [part], CPU, {"grad_accum": 1})


@pytest.mark.parametrize("name", ["g++", "c++", "clang++"])
def test_any_usual_compiler_will_do(name: str, tools: Path) -> None:
    (tools / name).touch(mode=0o755)
    assert missing("compile", CPU, ["compile"]) is None


def test_a_compiler_that_the_user_names_counts_as_there(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/opt/compiler/c++")
    assert missing_tool(CPU) is None


def test_without_the_headers_of_python(tools: Path, tmp_path: Path) -> None:
    (tools / "g++").touch(mode=0o755)
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in str(missing_tool(CPU))
    assert "apt-get install python3-dev" in str(missing_tool(CPU))


def test_what_inductor_and_flex_need_on_cuda(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("compile", "reduce-overhead", "flex"):
        installed(monkeypatch, False)
        assert "pip install triton" in str(missing(part, Cuda(), [part]))
        installed(monkeypatch, True)
        assert "apt-get install gcc, or set CC" in str(missing(part, Cuda(), [part]))
    (tools / "gcc").touch(mode=0o755)
    assert missing("compile", Cuda(), ["compile"]) is None
    assert missing("flex", Cuda(), ["flex"]) is None


@pytest.mark.parametrize("part", ["tf32", "fp8", "reduce-overhead", "cpu-offload", "sdpa-cudnn", "flex"])
def test_what_the_cpu_lacks_is_said_with_what_to_do(part: str) -> None:
    with pytest.raises(Unavailable, match=r"on CUDA|on the CPU"):
        apply(nn.Linear(1, 1), [part], CPU, {"grad_accum": 1})


@pytest.mark.parametrize(
    "part", ["bf16", "fp16", "bf16-params", "fused", "ac", "sac", "accum4", "chunked-ce", "sdpa-math", "sdpa-flash"]
)
def test_what_any_cpu_can(part: str) -> None:
    assert missing(part, CPU, [part]) is None


def test_a_device_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    of_capability(monkeypatch, 7, 5)
    for part in ("bf16", "bf16-params"):
        assert missing(part, Cuda(), [part]) == f"Tesla T4 has no bfloat16 arithmetic: leave {part} out on this device"
    assert missing("fp16", Cuda(), ["fp16"]) is None


@pytest.mark.parametrize(
    ("part", "least", "other"),
    [("tf32", (8, 0), []), ("fp8", (8, 9), []), ("sdpa-flash", (8, 0), ["fp16"]), ("sdpa-cudnn", (8, 0), ["fp16"])],
)
def test_the_compute_capability_that_it_needs(
    part: str, least: tuple[int, int], other: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, True)
    of_capability(monkeypatch, *least)
    assert missing(part, Cuda(), [*other, part]) is None
    of_capability(monkeypatch, least[0], least[1] - 1) if least[1] else of_capability(monkeypatch, 7, 5)
    if part == "fp8":
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert f"compute capability {least[0]}.{least[1]} or newer" in str(missing(part, Cuda(), [*other, part]))


def test_fp8_needs_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    of_capability(monkeypatch, 9, 0)
    installed(monkeypatch, False)
    assert "pip install torchao" in str(missing("fp8", Cuda(), ["fp8"]))


@pytest.mark.parametrize("part", ["sdpa-flash", "sdpa-cudnn"])
def test_fused_kernels_of_cuda_need_half_precision(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_capability(monkeypatch, 9, 0)
    assert "has no kernel for fp32" in str(missing(part, Cuda(), [part]))
    assert missing(part, Cuda(), ["bf16", part]) is None
