from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from llmbench.worker.workloads import WORKLOADS, own

NUMBER = itertools.count()
WHOLE = """
class Mine:
    '''What it is.

    More of it.
    '''

    unit = "samples/s"
    settings = {"micro_batch_size": 4, "learning_rate": 0.1}

    def __init__(self, config, data):
        self.config, self.data = config, data

    def build(self): ...
    def stage(self, steps): ...
    def evaluate(self, model): return 0.0, {}

class Namespace:
    Inner = Mine
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module of a name of its own into the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))

    def write(text: str) -> str:
        name = f"own_workload_{next(NUMBER)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


def test_it_is_found_in_the_working_folder_and_made_with_the_case(module: Callable[[str], str]) -> None:
    config = {"foreign": {"source": f"{module(WHOLE)}:Mine"}}
    workload: Any = WORKLOADS["own"](config, {"train": "t.bin"})
    assert type(workload).__name__ == "Mine"
    assert workload.config is config
    assert workload.data == {"train": "t.bin"}


def test_what_it_leaves_out_has_a_default(module: Callable[[str], str]) -> None:
    workload = own.workload({"foreign": {"source": f"{module(WHOLE)}:Namespace.Inner"}}, {})
    assert workload.references() == []
    assert workload.proofs(nn.Identity()) == ({}, [])
    workload.before(nn.Identity())


def test_what_it_has_wins_over_the_default(module: Callable[[str], str]) -> None:
    name = module(WHOLE + "\nclass More(Mine):\n    def proofs(self, model): return {'seen': True}, ['wrong']\n")
    workload = own.workload({"foreign": {"source": f"{name}:More"}}, {})
    assert workload.proofs(nn.Identity()) == ({"seen": True}, ["wrong"])


def test_a_description_is_what_the_class_says(module: Callable[[str], str]) -> None:
    name = module(WHOLE)
    assert own.describe(f"{name}:Mine") == {
        "source": f"{name}:Mine",
        "title": "What it is.",
        "unit": "samples/s",
        "tokenizer": None,
        "model": {},
        "settings": {"micro_batch_size": 4, "learning_rate": 0.1},
    }
    text = (
        WHOLE + "\nclass Text(Mine):\n    tokenizer, vocab_size, unit, model = 'bpe', 300, 'tokens/s', {'width': 8}\n"
    )
    found = own.describe(f"{module(text)}:Text")
    assert (found["tokenizer"], found["model"]) == ("bpe", {"width": 8, "vocab_size": 300})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage = None", "it is no workload: it has no method stage"),
        ("build = evaluate = None", "it has no method build, evaluate"),
        ("unit = 'words/s'", "unit = 'words/s' is none of 'tokens/s', 'samples/s'"),
        ("tokenizer = 'sentencepiece'", "tokenizer = 'sentencepiece' is none of None, 'bpe', 'wordpiece'"),
        ("tokenizer = 'bpe'", "vocab_size = None: a text needs a vocabulary"),
        ("tokenizer, vocab_size = 'bpe', True", "vocab_size = True"),
        ("settings = 3", "settings must be a dictionary that JSON can hold, and is 3"),
        ("model = {'layer': object}", "model must be a dictionary that JSON can hold"),
        ("model = {'rate': {1, 2}}", "model must be a dictionary that JSON can hold"),
    ],
)
def test_what_is_wrong_with_a_class_is_told(change: str, message: str, module: Callable[[str], str]) -> None:
    name = module(WHOLE + f"\nclass Wrong(Mine):\n    {change}\n")
    with pytest.raises(own.NotAWorkload, match=message):
        own.describe(f"{name}:Wrong")


def test_what_is_not_there_is_told(module: Callable[[str], str]) -> None:
    name = module(WHOLE + "\nnumber = 3\n")
    with pytest.raises(own.NotAWorkload, match="no module named 'no_such_module'"):
        own.load("no_such_module.inner:Mine")
    with pytest.raises(own.NotAWorkload, match="has no attribute 'Nine'"):
        own.load(f"{name}:Nine")
    with pytest.raises(own.NotAWorkload, match="it is int, not a class"):
        own.load(f"{name}:number")


def test_what_a_module_raises_is_its_own(module: Callable[[str], str]) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        own.load(f"{module('import no_such_library')}:Mine")
    with pytest.raises(ZeroDivisionError):
        own.load(f"{module('1 / 0')}:Mine")
