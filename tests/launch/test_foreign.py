"""Workloads that only the target's interpreter can import, asked for real."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmbench.errors import UserError
from llmbench.launch import foreign
from llmbench.launch.foreign import describe, lookup
from llmbench.suite.workloads import family_of
from tests.conftest import Command, records_of, wait_for

pytestmark = pytest.mark.slow

TOY = """
class Toy:
    "Learns to add."
    unit = "samples/s"
    settings = {"micro_batch_size": 32, "learning_rate": 0.01}
    def build(self): ...
    def stage(self, steps): ...
    def evaluate(self, model): ...
print("a module may print what it likes")
"""
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which modules and configurations lie. Processes find llmbench by path, as in a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


@pytest.fixture
def configuration(here: Path) -> Callable[..., str]:
    """Writes a ``config.json``; the workload's name. A value of None takes the field out."""

    def write(folder: str = "model", text: str | None = None, **changes: Any) -> str:
        values = {key: value for key, value in (LLAMA | changes).items() if value is not None}
        (here / folder).mkdir(parents=True)
        (here / folder / "config.json").write_text(json.dumps(values) if text is None else text)
        return f"hf:{folder}"

    return write


def wrong(name: str, python: str = sys.executable) -> UserError:
    with pytest.raises(UserError) as error:
        describe(python, name)
    return error.value


def never_asked(*_: object) -> Any:
    raise AssertionError("the interpreter was asked")


# A user's own workload


def test_a_module_of_the_working_folder(here: Path) -> None:
    (here / "toy").mkdir()
    (here / "toy" / "workload.py").write_text(TOY)
    found = describe(sys.executable, "toy.workload:Toy")
    assert found.name == "toy.workload:Toy"
    assert (found.family.name, found.family.unit, found.family.title) == ("own", "samples/s", "Learns to add.")
    assert found.size.settings == {"micro_batch_size": 32, "learning_rate": 0.01}
    assert found.foreign is not None
    assert found.foreign["source"] == "toy.workload:Toy"
    assert family_of({"family": "own", "foreign": found.foreign}) == found.family


def test_an_entry_point_beside_torch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = here / "site"
    (site / "toy_package-1.0.dist-info").mkdir(parents=True)
    (site / "toy_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n"
    )
    (site / "toy_package-1.0.dist-info" / "entry_points.txt").write_text(
        "[llmbench.workloads]\ntoy = toy_package:Toy\n"
    )
    (site / "toy_package.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", str(site))
    found = describe(sys.executable, "toy")
    assert found.name == "toy"
    assert found.foreign is not None
    assert found.foreign["source"] == "toy_package:Toy"  # which is what the worker imports
    error = wrong("toi")
    assert error.message == "unknown workload 'toi'"
    assert "did you mean toy" in str(error.hint)


def test_a_slip_of_the_pen_is_answered_without_torch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "torch.py").write_text("raise SystemExit('torch was imported')")
    monkeypatch.setenv("PYTHONPATH", str(here))
    error = wrong("gtp-tiny")
    assert error.message == "unknown workload 'gtp-tiny'"
    assert "gpt-tiny" in str(error.hint)
    assert "module:attribute" in str(error.hint)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (TOY, "mine:Nope", "workload mine:Nope: mine has no attribute 'Nope'"),
        (TOY, "yours:Toy", "workload yours:Toy: no module named 'yours' in this folder or beside torch"),
        (TOY + "\nToy.stage = None", "mine:Toy", "workload mine:Toy: it is no workload: it has no method stage"),
        ("raise ValueError('first\\nlast')", "mine:Toy", "workload mine:Toy: ValueError: last"),
    ],
    ids=["attribute", "module", "method", "raises"],
)
def test_what_is_wrong_with_a_workload_is_one_line(text: str, name: str, message: str, here: Path) -> None:
    (here / "mine.py").write_text(text)
    assert wrong(name).message == message


def answers(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    monkeypatch.setattr(foreign, "_ask", lambda *question: {"found": found})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": {"micro_batch_size": 1, "learning_rate": -1}},
            "learning_rate = -1: Input should be greater than",
        ),
        ({"settings": {"micro_batch_size": 1, "learning_rate": 1.0, "steps": 9}}, "unknown key 'steps'"),
        ({"settings": {"learning_rate": 1.0}}, "'micro_batch_size' is missing"),
        ({"unit": "tokens/s"}, "'sequence_length' is missing"),
        ({"tokenizer": "bpe"}, "'sequence_length' is missing"),
    ],
)
def test_its_settings_are_checked_as_those_of_a_suite(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"micro_batch_size": 1, "learning_rate": 1.0}
    found = {"source": "mine:Toy", "title": "", "unit": "samples/s", "tokenizer": None, "model": {}}
    answers(monkeypatch, found | {"settings": settings} | changes)
    assert wrong("mine:Toy").message.startswith(f"workload mine:Toy: settings: {message}")


@pytest.mark.parametrize("name", ["mine:", ":Toy", "mine:Toy:Toy", "a-b:Toy", "mine:1", "../mine:Toy"])
def test_a_name_that_cannot_be_is_refused_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "_ask", never_asked)
    assert wrong(name).message == f"workload {name}: not of the form module:attribute"


@pytest.mark.parametrize(
    ("text", "end"), [("import os; os._exit(7)", "exit code 7"), ("import os; os.abort()", "killed by signal 6")]
)
def test_an_interpreter_that_dies(text: str, end: str, here: Path) -> None:
    (here / "mine.py").write_text(text)
    assert f"died while it was imported: {end}" in wrong("mine:Toy").message


def test_one_that_hangs_is_stopped_with_all_it_started(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``torch`` that starts a process and then waits for ever stands for a hanging import."""
    (here / "torch.py").write_text(
        "import subprocess, pathlib, time\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.setattr(foreign, "ASK_SECONDS", 5.0)
    begin = time.monotonic()
    assert "gave no answer for 5 s" in wrong("mine:Toy").message
    assert time.monotonic() - begin < 60
    child = int((here / "child").read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 10)


def test_a_broken_torch_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "torch.py").write_text("raise ImportError('libtorch.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(here))
    error = wrong("mine:Toy")
    assert error.message == f"{sys.executable} cannot import torch: ImportError: libtorch.so: cannot open"
    assert "llmbench doctor" in str(error.hint)


def test_no_interpreter(here: Path) -> None:
    assert wrong("mine:Toy", python=str(here / "none")).message.startswith(f"--python {here / 'none'}: No such file")


# A configuration of transformers


@pytest.mark.hf
def test_a_configuration(configuration: Callable[..., str]) -> None:
    found = describe(sys.executable, configuration("my model", _name_or_path="/home/me", torch_dtype="bfloat16"))
    assert found.name == "hf:my-model"  # no space, no slash: it is part of file names
    assert (found.family.name, found.family.models, found.family.objective) == ("hf", "hf", "causal")
    assert found.family.tokenizer == "bpe"
    assert found.size.model == {"vocab_size": 300, "n_positions": 64}
    assert found.size.settings["sequence_length"] == 64
    assert found.foreign is not None
    assert found.foreign["parameters"] > 0
    assert "_name_or_path" not in found.foreign["hf"]  # a record tells no paths
    assert family_of({"family": "hf", "foreign": found.foreign}) == found.family


@pytest.mark.hf
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"model_type": "lama"},
            "config.json: model_type: model_type 'lama' is unknown to transformers",
            marks=pytest.mark.slow,
        ),
        ({"hidden_size": "big"}, "config.json: hidden_size: "),
    ],
    ids=["type", "value"],
)
def test_a_field_that_transformers_refuses(
    changes: dict[str, Any], message: str, configuration: Callable[..., str]
) -> None:
    assert message in wrong(configuration(**changes)).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "gpt2",\n "vocab_size": 1,,}', "config.json, line 2: no JSON: "),
        ("[1, 2]", "config.json: not a JSON object"),
        ('{"vocab_size": 1}', "config.json: model_type is missing"),
        ('{"model_type": 3}', "config.json: model_type is missing"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "a.B"}}', "auto_map: the model needs code of its own"),
        ('{"model_type": "llama", "quantization_config": {"bits": 4}}', "quantization_config: weights that are quan"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_at_once(
    text: str, message: str, configuration: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "_ask", never_asked)
    assert message in wrong(configuration(text=text)).message


PLANNED: dict[str, Any] = {"objective": "causal", "architecture": "A", "n_positions": 8192, "parameters": 1}


def test_a_vocabulary_without_room_for_every_byte(
    configuration: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, PLANNED | {"vocab_size": 100})
    assert wrong(configuration()).message == "model/config.json: vocab_size = 100 is too small"


def test_the_text_is_cut_as_for_our_own_sizes(
    configuration: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary of hundreds of thousands would take longer to train than the model."""
    answers(monkeypatch, PLANNED | {"vocab_size": 128256})
    found = describe(sys.executable, configuration())
    assert found.size.model == {"vocab_size": 50257, "n_positions": 8192}
    assert found.size.settings["sequence_length"] == 512


def test_a_folder_that_is_not_there(here: Path) -> None:
    error = wrong("hf:nowhere")
    assert error.message == "nowhere: No such file or directory"
    (here / "empty").mkdir()
    assert wrong("hf:empty").message == "empty/config.json: No such file or directory"
    (here / "empty" / "config.json").write_bytes(b"\xff\xfe")
    assert wrong("hf:empty").message == "empty/config.json: not UTF-8 at byte 0"


@pytest.fixture
def without_transformers(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ``PYTHONPATH`` on which transformers cannot be found."""
    site = here / "site"
    site.mkdir()
    (site / "transformers.py").write_text("raise ModuleNotFoundError('none', name='transformers')")
    monkeypatch.setenv("PYTHONPATH", str(site))
    return str(site)


def test_without_transformers_it_is_planned_by_what_the_file_says(
    configuration: Callable[..., str], without_transformers: str
) -> None:
    found = describe(sys.executable, configuration())
    assert (found.family.objective, found.size.model) == ("causal", {"vocab_size": 300, "n_positions": 64})
    masked = describe(sys.executable, configuration("masked", architectures=["RobertaForMaskedLM"], vocab_size=None))
    assert masked.family.objective == "masked"


def test_without_transformers_its_cases_are_skipped(
    configuration: Callable[..., str], without_transformers: str, llmbench: Command, here: Path
) -> None:
    path = os.pathsep.join([without_transformers, str(Path(foreign.__file__).parents[2])])
    (here / "mine.toml").write_text(f'workloads = ["hf-gpt2-tiny", "{configuration()}"]\n[settings]\nsteps = 10\n')
    done = llmbench("run", "mine.toml", "--out", "run", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    records = records_of(here / "run")
    assert {record.status for record in records.values()} == {"skipped"}
    assert list(records) == ["hf-gpt2-tiny/eager/ws1", "hf:model/eager/ws1"]
    for record in records.values():
        assert record.error is not None
        told = f"{record.error.message}: {record.error.hint}"
        assert told == "transformers is not installed beside torch: pip install transformers"


# All of them


def test_each_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(python: str, question: dict[str, Any], what: str) -> dict[str, Any]:
        asked.append(question["name"])
        found = {"source": question["name"], "title": "", "unit": "samples/s", "tokenizer": None, "model": {}}
        return {"found": found | {"settings": {"micro_batch_size": 1, "learning_rate": 1.0}}}

    monkeypatch.setattr(foreign, "_ask", ask)
    find = lookup("python")
    assert find("mine:Toy") is find("mine:Toy")
    assert find("gpt-tiny").family.name == "gpt"
    assert asked == ["mine:Toy"]
    with pytest.raises(UserError, match="unknown workload 'gpt'"):
        find("gpt")  # a family, not a workload
    assert asked == ["mine:Toy"]


def test_two_folders_of_one_name_are_refused(
    configuration: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, PLANNED | {"vocab_size": 300})
    find = lookup(sys.executable)
    find(configuration("a/model"))
    with pytest.raises(UserError, match="hf:a/model and hf:b/model would both be hf:model"):
        find(configuration("b/model"))
