from __future__ import annotations

import json
import platform
import sys

import pytest
import torch

from llmbench.worker.measure.machine import describe_machine
from tests.worker.conftest import Events


def test_what_the_interpreter_tells_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/opt/compiler/c++")
    found = describe_machine({"device": "cpu"}, Events())
    assert set(found) == {"device", "python", "torch", "devices", "modes", "packages"}
    assert found["device"] == "cpu"
    assert found["python"]["version"] == platform.python_version()
    assert found["python"]["executable"] == sys.executable
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["torch"]["compiler"] == "/opt/compiler/c++"
    (device,) = found["devices"]
    assert (device["kind"], bool(device["name"])) == ("cpu", True)
    assert device["memory_bytes"] > 2**20
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmbench.worker.measure.machine.PACKAGES", ("torch", "no-such-package"))
    assert list(describe_machine({"device": "cpu"}, Events())["packages"]) == ["torch"]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_machine({"device": "cpu"}, Events())["torch"]["compiler"] is None


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA was asked for"):
        describe_machine({"device": "cuda"}, Events())
