from __future__ import annotations

from dataclasses import fields

import pytest

from llmbench.errors import UserError
from llmbench.suite import costs
from llmbench.suite.workloads import FAMILIES, WORKLOADS, workload
from llmbench.worker.models.bert import BERTConfig
from llmbench.worker.models.gpt import GPTConfig
from llmbench.worker.models.mlp import MLPConfig
from llmbench.worker.workloads import WORKLOADS as TRAINED

CONFIGS = {"regression": MLPConfig, "bert": BERTConfig, "gpt": GPTConfig, "lora": GPTConfig}


def test_each_family_can_be_trained() -> None:
    assert list(FAMILIES) == list(TRAINED)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_worker_takes_the_model_of_each_size(name: str) -> None:
    known = WORKLOADS[name]
    model = known.size.model
    config = CONFIGS[known.family.name](**model)
    unset = {field.name for field in fields(config)} - set(model)
    assert unset <= {"nsp"}  # a setting, not of the size
    if known.family.tokenizer:
        assert model["d_model"] % model["n_head"] == 0
        assert known.size.settings["sequence_length"] <= model["n_positions"]


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
