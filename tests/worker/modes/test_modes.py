from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmbench.worker.case import run_case
from llmbench.worker.device import Device
from llmbench.worker.faults import Unavailable
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.modes import apply
from llmbench.worker.modes.compile import missing_tool
from tests.worker.conftest import MODELS, Events, Job

CPU = Device("cpu")


class Cuda(Device):
    """A CUDA device as far as names go: none is needed to ask what would be missing."""

    def __init__(self) -> None:
        self.kind = "cuda"

    @property
    def name(self) -> str:
        return "Tesla T4"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tools: Path) -> list[nn.Module]:
    """The modules that are asked to be compiled, on a machine that could."""
    (tools / "g++").touch(mode=0o755)
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: asked.append(module))
    return asked


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder that is all of PATH, beside Python headers that are there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    headers(monkeypatch, tmp_path).touch()
    return folder


def headers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(folder)})
    return folder / "Python.h"


def gpt() -> GPT:
    return GPT(GPTConfig(**MODELS["gpt"]))


def test_eager_changes_nothing(compiled: list[nn.Module]) -> None:
    model = gpt()
    same, context = apply(model, [], CPU, {"compile_scope": "whole"})
    assert same is model
    assert compiled == []
    with context():
        assert not torch.is_autocast_enabled("cpu")
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32
    assert isinstance(context(), nullcontext)


def test_bf16_is_autocast_of_the_products_with_fp32_weights() -> None:
    model, context = apply(gpt(), ["bf16"], CPU, {"compile_scope": "whole"})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for _ in range(2):  # a fresh context for each step
        with context():
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
            assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_compile_is_of_the_whole_model_or_of_each_block(compiled: list[nn.Module]) -> None:
    model = gpt()
    assert apply(model, ["compile"], CPU, {"compile_scope": "whole"})[0] is model
    assert compiled == [model]
    compiled.clear()
    assert apply(model, ["compile"], CPU, {"compile_scope": "blocks"})[0] is model
    assert compiled == list(model.blocks)


def test_a_model_without_blocks_is_compiled_whole(compiled: list[nn.Module]) -> None:
    line = MLP(MLPConfig(d_in=1, d_hidden=0, n_hidden=0, d_out=1))
    apply(line, ["compile"], CPU, {"compile_scope": "blocks"})
    assert compiled == [line]


def test_both_together(compiled: list[nn.Module]) -> None:
    model, context = apply(gpt(), ["compile", "bf16"], CPU, {"compile_scope": "whole"})
    assert compiled == [model]
    with context():
        assert torch.is_autocast_enabled("cpu")


# What is missing


def test_without_a_compiler_the_mode_is_unavailable_and_the_cure_is_told(tools: Path) -> None:
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler on PATH.*: apt-get install g\+\+, or set CXX"):
        apply(gpt(), ["compile"], CPU, {"compile_scope": "whole"})


@pytest.mark.parametrize("name", ["g++", "c++", "clang++"])
def test_any_usual_compiler_will_do(name: str, tools: Path) -> None:
    (tools / name).touch(mode=0o755)
    assert missing_tool(CPU) is None


def test_a_compiler_that_the_user_names_counts_as_there(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/opt/compiler/c++")
    assert missing_tool(CPU) is None


def test_without_the_headers_of_python(tools: Path, tmp_path: Path) -> None:
    (tools / "g++").touch(mode=0o755)
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in str(missing_tool(CPU))
    assert "apt-get install python3-dev" in str(missing_tool(CPU))


def test_what_cuda_needs(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in str(missing_tool(Cuda()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "apt-get install gcc, or set CC" in str(missing_tool(Cuda()))
    (tools / "gcc").touch(mode=0o755)
    assert missing_tool(Cuda()) is None


def test_a_device_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(Unavailable, match="Tesla T4 has no bfloat16 arithmetic: leave bf16 out"):
        apply(gpt(), ["bf16"], Cuda(), {})


@pytest.mark.slow
@pytest.mark.compiler
def test_compiled_training_stays_near_eager(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found: dict[str, Any] = {
        name: run_case(job("gpt", mode), Events()) for name, mode in (("eager", []), ("compile", ["compile"]))
    }
    assert any(tmp_path.rglob("*.so"))  # it was compiled indeed
    assert found["compile"]["losses"] == pytest.approx(found["eager"]["losses"], rel=1e-4)
