from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from llmbench.errors import UserError
from llmbench.suite import costs
from llmbench.suite.load import Settings
from llmbench.suite.workloads import (
    FAMILIES,
    HF,
    OWN,
    WORKLOADS,
    Size,
    family_of,
    foreign,
    peer_name,
    workload,
)
from llmbench.worker.models.bert import BERTConfig
from llmbench.worker.models.gpt import GPTConfig
from llmbench.worker.models.mlp import MLPConfig
from llmbench.worker.workloads import WORKLOADS as TRAINED

CONFIGS: dict[str, Any] = {"regression": MLPConfig, "masked": BERTConfig, "causal": GPTConfig}
ABOUT = {
    "family": OWN,
    "title": "Mine.",
    "unit": "samples/s",
    "tokenizer": None,
    "objective": "own",
    "parameters": None,
}


def test_each_family_can_be_trained() -> None:
    assert {*FAMILIES, HF, OWN} == set(TRAINED)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_worker_takes_the_model_of_each_size(name: str) -> None:
    known = WORKLOADS[name]
    model = known.size.model
    config = CONFIGS[known.family.objective](**model)
    unset = {field.name for field in fields(config)} - set(model)
    assert unset <= {"nsp"}  # a setting, not of the size
    if known.family.tokenizer:
        assert model["d_model"] % model["n_head"] == 0
        assert known.size.settings["sequence_length"] <= model["n_positions"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_size_sets_what_a_suite_leaves_to_it(name: str) -> None:
    settings = WORKLOADS[name].size.settings
    Settings.model_validate(settings)
    needed = {"micro_batch_size", "learning_rate"} | (
        {"sequence_length"} if WORKLOADS[name].family.tokenizer else set()
    )
    assert set(settings) == needed


@pytest.mark.parametrize(
    ("name", "millions"),
    # GPT-2: Radford et al. 2019, table 2, as counted on the released weights; BERT: Devlin et al. 2019, §3.
    [
        *(("gpt-124m", 124.4), ("gpt-355m", 354.8), ("gpt-774m", 774.0), ("gpt-1.5b", 1557.6)),
        *(("bert-base", 110), ("bert-large", 340)),
    ],
)
def test_a_size_has_as_many_parameters_as_its_paper_says(name: str, millions: float) -> None:
    known = WORKLOADS[name]
    total, _ = costs.parameters(known.family.name, known.size.model)
    assert total / 1e6 == pytest.approx(millions, rel=0.015)


def test_lora_is_of_the_same_models_as_gpt() -> None:
    assert {name: size.model for name, size in FAMILIES["lora"].sizes.items()} == {
        name: size.model for name, size in FAMILIES["gpt"].sizes.items()
    }


def test_the_smallest_size_is_the_smallest() -> None:
    for family in FAMILIES.values():
        totals = {
            name: costs.parameters(family.name, known.size.model, lora_rank=8)[0]
            for name, known in WORKLOADS.items()
            if known.family is family
        }
        assert family.smallest == min(totals, key=totals.__getitem__)


def test_an_unknown_name_gets_the_nearest_that_would_do() -> None:
    assert workload("gpt-tiny").family.name == "gpt"
    with pytest.raises(UserError, match="unknown workload 'gpt'") as error:
        workload("gpt")
    assert "gpt-tiny" in str(error.value.hint)
    assert "mean gpt " not in str(error.value.hint)


# Peers


def test_a_peer_trains_the_same_as_ours() -> None:
    peers = [family for family in FAMILIES.values() if family.peer_of]
    assert [family.name for family in peers] == ["hf-bert", "hf-gpt2", "peft-lora"]
    for theirs in peers:
        assert theirs.peer_of is not None
        ours = FAMILIES[theirs.peer_of]
        for name in ("unit", "tokenizer", "sizes", "objective", "base"):
            assert getattr(theirs, name) == getattr(ours, name), (theirs.name, name)
        assert (ours.models, theirs.models) == ("own", "hf")


def test_the_name_of_our_workload_beside_a_peers() -> None:
    assert peer_name("hf-gpt2-1.5b") == "gpt-1.5b"
    assert peer_name("hf-bert-tiny") == "bert-tiny"
    assert peer_name("peft-lora-124m") == "lora-124m"
    assert [peer_name(name) for name in ("gpt-tiny", "hf:gpt2", "toy.workload:Toy", "hf-gpt2-9b")] == [None] * 4
    assert all(peer_name(name) in WORKLOADS for name in WORKLOADS if WORKLOADS[name].family.peer_of)


def test_what_modes_can_count_on() -> None:
    heads = {name for name, family in FAMILIES.items() if family.vocabulary_head}
    assert heads == {"bert", "gpt", "lora"}  # of theirs the head is not ours to replace


# Foreign workloads


def test_the_family_of_a_foreign_workload_is_kept_with_its_case() -> None:
    known = foreign("toy:Toy", Size({}, {}), ABOUT | {"source": "toy:Toy"})
    assert (known.family.name, known.family.models, known.family.unit) == (OWN, "foreign", "samples/s")
    assert family_of({"family": OWN, "foreign": known.foreign}) == known.family
    assert not known.family.vocabulary_head
    theirs = foreign("hf:x", Size({}, {}), ABOUT | {"family": HF, "tokenizer": "bpe", "objective": "causal", "hf": {}})
    assert (theirs.family.models, theirs.family.tokenizer) == ("hf", "bpe")
    assert not theirs.family.vocabulary_head


def test_the_family_of_a_built_in_workload_is_that_of_its_name() -> None:
    assert family_of({"family": "lora"}) is FAMILIES["lora"]
