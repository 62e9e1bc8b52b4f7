from __future__ import annotations

import json
from typing import Any

import pytest

from llmbench.errors import UserError
from llmbench.results.schema import PlannedCase
from llmbench.suite.cases import Case, from_plan, resolve
from llmbench.suite.load import Settings, find
from llmbench.suite.workloads import WORKLOADS

from .conftest import Load

TWO_BY_TWO = "workloads = ['gpt-tiny', 'bert-tiny']\nmodes = ['bf16', 'eager']\n"


def ids(cases: list[Case]) -> list[str]:
    return [case.id.removesuffix("/ws1") for case in cases]


def one(load: Load, text: str, case: str = "gpt-tiny/eager/ws1", **choices: Any) -> Case:
    return {found.id: found for found in resolve(load(text), **choices)}[case]


# What a suite says


def test_a_suite_is_a_matrix_with_eager_first(load: Load) -> None:
    assert ids(resolve(load(TWO_BY_TWO))) == ["gpt-tiny/eager", "gpt-tiny/bf16", "bert-tiny/eager", "bert-tiny/bf16"]


def test_a_workload_and_its_peer_take_turns(load: Load) -> None:
    text = "workloads = ['gpt-tiny', 'bert-tiny', 'hf-gpt2-tiny']\nmodes = ['bf16', 'eager']"
    assert ids(resolve(load(text))) == [
        *("gpt-tiny/eager", "hf-gpt2-tiny/eager", "gpt-tiny/bf16", "hf-gpt2-tiny/bf16"),
        *("bert-tiny/eager", "bert-tiny/bf16"),
    ]
    assert ids(resolve(load(text), workloads=["hf-gpt2-tiny"])) == ["hf-gpt2-tiny/eager", "hf-gpt2-tiny/bf16"]


def test_without_modes_it_is_eager(load: Load) -> None:
    assert ids(resolve(load("workloads = ['gpt-tiny']"))) == ["gpt-tiny/eager"]


def test_a_mode_has_one_spelling_and_no_case_is_twice(load: Load) -> None:
    text = "workloads = ['gpt-tiny', 'gpt-tiny']\nmodes = ['bf16+compile', 'compile + bf16', 'compile+bf16']"
    assert ids(resolve(load(text))) == ["gpt-tiny/compile+bf16"]


def test_an_include_adds_cases_and_is_eager_by_default(load: Load) -> None:
    text = TWO_BY_TWO + (
        "[[include]]\nworkload = 'gpt-small'\n"
        "[[include]]\nworkload = 'gpt-tiny'\nmode = 'bf16+compile'\n"
        "[[include]]\nworkload = 'gpt-tiny'\n"
    )
    assert ids(resolve(load(text))) == [
        *("gpt-tiny/eager", "gpt-tiny/bf16", "gpt-tiny/compile+bf16"),
        *("bert-tiny/eager", "bert-tiny/bf16", "gpt-small/eager"),
    ]


def test_a_suite_of_includes_only(load: Load) -> None:
    assert ids(resolve(load("[[include]]\nworkload = 'gpt-tiny'\nmode = 'bf16'"))) == ["gpt-tiny/bf16"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("mode = 'bf16'", ["gpt-tiny/eager", "bert-tiny/eager"]),
        ("workload = 'gpt-*'", ["bert-tiny/eager", "bert-tiny/bf16"]),
        ("workload = 'gpt-*'\nmode = 'bf16'", ["gpt-tiny/eager", "bert-tiny/eager", "bert-tiny/bf16"]),
        ("workload = '?ert-tiny'\nmode = 'ea*'", ["gpt-tiny/eager", "gpt-tiny/bf16", "bert-tiny/bf16"]),
        ("workload = 'gpt-small'", ["gpt-tiny/eager", "gpt-tiny/bf16", "bert-tiny/eager", "bert-tiny/bf16"]),
    ],
)
def test_an_exclude_takes_away_what_it_matches_whole(pattern: str, left: list[str], load: Load) -> None:
    assert ids(resolve(load(f"{TWO_BY_TWO}[[exclude]]\n{pattern}"))) == left


def test_an_exclude_takes_includes_away_too(load: Load) -> None:
    text = "workloads = ['bert-tiny']\n[[include]]\nworkload = 'gpt-tiny'\n[[exclude]]\nworkload = 'gpt-*'"
    assert ids(resolve(load(text))) == ["bert-tiny/eager"]


def test_excludes_that_leave_nothing(load: Load) -> None:
    file = load(f"{TWO_BY_TWO}[[exclude]]")
    with pytest.raises(UserError, match="no case is left") as error:
        resolve(file)
    assert str(file.path) in error.value.message
    assert "excludes" in str(error.value.hint)


def test_of_two_overrides_that_match_the_later_wins_over_the_settings(load: Load) -> None:
    text = (
        TWO_BY_TWO
        + "[settings]\nsteps = 20\nseed = 7\nclip_norm = 3.0\n"
        + "[[override]]\nworkload = 'gpt-*'\nsettings = { steps = 30, seed = 8 }\n"
        + "[[override]]\nmode = 'bf16'\nsettings = { steps = 40 }\n"
    )
    found = {
        case.id: (case.config["steps"], case.config["seed"], case.config["clip_norm"]) for case in resolve(load(text))
    }
    assert found == {
        "gpt-tiny/eager/ws1": (30, 8, 3.0),
        "gpt-tiny/bf16/ws1": (40, 8, 3.0),
        "bert-tiny/eager/ws1": (20, 7, 3.0),
        "bert-tiny/bf16/ws1": (40, 7, 3.0),
    }


def test_an_override_may_name_a_mode_that_only_an_include_or_the_command_line_brings(load: Load) -> None:
    text = (
        "workloads = ['gpt-tiny']\n[[include]]\nworkload = 'gpt-small'\nmode = 'compile+bf16'\n"
        "[[override]]\nmode = 'compile+bf16'\nsettings = { steps = 50 }\n"
    )
    assert one(load, text, "gpt-small/compile+bf16/ws1").config["steps"] == 50
    assert one(load, text, "gpt-tiny/compile+bf16/ws1", modes=["bf16+compile"]).config["steps"] == 50


def test_what_no_setting_says_the_size_decides(load: Load) -> None:
    text = "workloads = ['gpt-tiny', 'gpt-small', 'bert-tiny']\n[settings]\nmicro_batch_size = 3\n"
    cases = resolve(load(text))
    assert len({case.config["learning_rate"] for case in cases}) == 3
    for case in cases:
        of_size = WORKLOADS[case.workload].size.settings
        assert {key: case.config[key] for key in of_size} == of_size | {"micro_batch_size": 3}


# What the command line changes


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (["gpt"], ["gpt-tiny/eager", "gpt-tiny/bf16", "gpt-small/eager"]),
        (["gpt-small"], ["gpt-small/eager"]),
        (["bert", "gpt-small"], ["bert-tiny/eager", "bert-tiny/bf16", "gpt-small/eager"]),
        (["gpt-small", "gpt"], ["gpt-small/eager", "gpt-tiny/eager", "gpt-tiny/bf16"]),
        (["gpt-tiny", "gpt-tiny"], ["gpt-tiny/eager", "gpt-tiny/bf16"]),
    ],
)
def test_chosen_workloads_keep_their_modes(chosen: list[str], left: list[str], load: Load) -> None:
    file = load(TWO_BY_TWO + "[[include]]\nworkload = 'gpt-small'\n")
    assert ids(resolve(file, workloads=chosen)) == left


def test_a_workload_that_is_not_in_the_suite_runs_in_its_modes(load: Load) -> None:
    file = load(TWO_BY_TWO)
    assert ids(resolve(file, workloads=["gpt-124m"])) == ["gpt-124m/eager", "gpt-124m/bf16"]


def test_a_family_that_is_not_in_the_suite_runs_at_its_smallest_size(load: Load) -> None:
    assert ids(resolve(load(TWO_BY_TWO), workloads=["lora"])) == ["lora-tiny/eager", "lora-tiny/bf16"]
    assert ids(resolve(load(TWO_BY_TWO), workloads=["regression"], modes=["eager"])) == ["regression-linear/eager"]


def test_chosen_modes_replace_those_of_the_suite(load: Load) -> None:
    file = load(TWO_BY_TWO)
    assert ids(resolve(file, modes=["bf16+compile", "eager", "compile+bf16"])) == [
        *("gpt-tiny/eager", "gpt-tiny/compile+bf16"),
        *("bert-tiny/eager", "bert-tiny/compile+bf16"),
    ]
    assert ids(resolve(file, workloads=["bert"], modes=["compile"])) == ["bert-tiny/compile"]


def test_changes_win_over_settings_overrides_and_sizes(load: Load) -> None:
    text = "workloads = ['gpt-tiny']\n[settings]\nsteps = 20\n[[override]]\nsettings = { steps = 30 }\n"
    changes = ["steps=40", "learning_rate=1e-5", "scaling=weak", "threads=2", "steps=50"]
    config = one(load, text, changes=changes).config
    assert {key: config[key] for key in ("steps", "learning_rate", "scaling", "threads")} == {
        "steps": 50,
        "learning_rate": 1e-5,
        "scaling": "weak",
        "threads": 2,
    }
    assert one(load, text, changes=["micro_batch_size=null"]).config["micro_batch_size"] == 8


@pytest.mark.parametrize(
    ("choice", "said", "advised"),
    [
        ({"workloads": ["gtp"]}, "unknown workload 'gtp'", "gpt"),
        ({"workloads": ["gpt-tny"]}, "unknown workload 'gpt-tny'", "gpt-tiny"),
        ({"modes": ["bf61"]}, "unknown mode 'bf61'", "bf16"),
        ({"changes": ["steps"]}, "--set steps: not of the form SETTING=VALUE", "--set steps=50"),
        ({"changes": ["stepz=20"]}, "--set stepz=20: unknown setting 'stepz'", "steps"),
        ({"changes": ["steps=many"]}, "--set steps=many: ", "training steps"),
        ({"changes": ["steps=9"]}, "--set steps=9: ", "training steps"),
        ({"changes": ["steps=20.5"]}, "--set steps=20.5: ", "training steps"),
        ({"changes": ["steps="]}, "--set steps=: ", "training steps"),
        ({"changes": ["learning_rate=NaN"]}, "--set learning_rate=NaN: ", "peak"),
        ({"changes": ["sequence_length=129"]}, "sequence_length = 129 is longer than the model's 128", "=128"),
    ],
)
def test_a_wrong_choice(choice: dict[str, list[str]], said: str, advised: str, load: Load) -> None:
    with pytest.raises(UserError) as error:
        resolve(load(TWO_BY_TWO), **choice)
    assert said in error.value.message
    assert advised in str(error.value.hint)


# A case


def test_the_id_of_a_case_is_stable(load: Load) -> None:
    case = one(load, TWO_BY_TWO, "gpt-tiny/bf16/ws1")
    assert case.id == "gpt-tiny/bf16/ws1"
    other = one(load, TWO_BY_TWO, "gpt-tiny/bf16/ws1", changes=["steps=10", "seed=1"])
    assert other.id == case.id
    assert case.training != other.training


def test_a_case_survives_the_run_file() -> None:
    for case in resolve(find("smoke")):
        text = case.planned().model_dump_json()
        again = from_plan(PlannedCase.model_validate_json(text))
        assert again == case
        assert json.loads(text)["case"] == again.id


def test_what_trains_the_same_can_be_compared(load: Load) -> None:
    cases = resolve(load(TWO_BY_TWO + "[[override]]\nmode = 'bf16'\nworkload = 'bert-*'\nsettings = { seed = 1 }"))
    gpt_eager, gpt_bf16, bert_eager, bert_bf16 = cases
    assert gpt_bf16.training == gpt_eager.training
    assert bert_bf16.training != bert_eager.training
    assert gpt_eager.training != bert_eager.training


def test_a_configuration_holds_what_its_family_uses(load: Load) -> None:
    text = "workloads = ['regression-linear', 'bert-tiny', 'gpt-tiny', 'lora-tiny']"
    common = set(Settings.model_fields) - {"sequence_length", "lora_rank", "base_steps", "nsp"}
    common |= {"family", "model", "global_batch_size", "grad_accum"}
    common |= {"data_parallel", "tensor_parallel", "pipeline_stages"}
    assert {case.workload: set(case.config) - common for case in resolve(load(text))} == {
        "regression-linear": set(),
        "bert-tiny": {"sequence_length", "masked"},
        "gpt-tiny": {"sequence_length"},
        "lora-tiny": {"sequence_length", "lora_rank", "base_steps"},
    }
    assert all(common <= set(case.config) for case in resolve(load(text)))


def test_bert_masks_15_percent_of_a_sequence_and_one_word_at_least(load: Load) -> None:
    text = "workloads = ['bert-tiny']"
    lengths = {128: 19, 100: 15, 8: 1}
    for length, masked in lengths.items():
        config = one(load, text, "bert-tiny/eager/ws1", changes=[f"sequence_length={length}"]).config
        assert config["masked"] == masked
    assert one(load, text, "bert-tiny/eager/ws1").config["model"]["nsp"] is False
    assert one(load, text, "bert-tiny/eager/ws1", changes=["nsp=true"]).config["model"]["nsp"] is True


def test_the_work_of_a_step_is_in_tokens_or_samples(load: Load) -> None:
    text = "workloads = ['regression-linear', 'gpt-tiny']\n[settings]\nmicro_batch_size = 3"
    regression, gpt = resolve(load(text))
    assert (regression.work_per_step, regression.family.unit) == (3, "samples/s")
    assert (gpt.work_per_step, gpt.family.unit) == (3 * 128, "tokens/s")


def test_the_costs_are_of_the_case(load: Load) -> None:
    text = "workloads = ['lora-tiny']\nmodes = ['eager', 'bf16']"
    eager, bf16 = resolve(load(text))
    rank_16 = one(load, text, "lora-tiny/eager/ws1", changes=["lora_rank=16"])
    assert rank_16.parameters[1] == 2 * eager.parameters[1]
    twice = one(load, text, "lora-tiny/eager/ws1", changes=["micro_batch_size=16"])
    assert twice.flops_per_step == 2 * eager.flops_per_step
    assert bf16.flops_per_step == eager.flops_per_step
    assert bf16.memory_bytes["activations"] != eager.memory_bytes["activations"]


# World sizes


PARALLEL = "workloads = ['gpt-tiny']\nmodes = ['eager', 'ddp', 'pp']\nworld_sizes = [1, 2]\n"


def test_only_parallel_modes_have_several_processes(load: Load) -> None:
    assert [case.id for case in resolve(load(PARALLEL))] == [
        "gpt-tiny/eager/ws1",
        *("gpt-tiny/ddp/ws1", "gpt-tiny/ddp/ws2", "gpt-tiny/pp/ws1", "gpt-tiny/pp/ws2"),
    ]
    chosen = resolve(load(PARALLEL), world_sizes=[4], modes=["ddp", "bf16"])
    assert [case.id for case in chosen] == ["gpt-tiny/ddp/ws4", "gpt-tiny/bf16/ws1"]


def test_an_include_has_its_own_world_size(load: Load) -> None:
    text = "workloads = ['gpt-tiny']\n[[include]]\nworkload = 'gpt-tiny'\nmode = 'ddp'\nworld_size = 2\n"
    assert [case.id for case in resolve(load(text))] == ["gpt-tiny/eager/ws1", "gpt-tiny/ddp/ws2"]


LAYOUTS = ("global_batch_size", "micro_batch_size", "grad_accum", "data_parallel", "tensor_parallel", "pipeline_stages")


@pytest.mark.parametrize(
    ("mode", "size", "changes", "layout"),
    [
        ("eager", 1, [], (8, 8, 1, 1, 1, 1)),
        ("accum4", 1, [], (8, 2, 4, 1, 1, 1)),
        ("ddp", 2, [], (8, 4, 1, 2, 1, 1)),
        ("ddp", 2, ["scaling=weak"], (16, 8, 1, 2, 1, 1)),
        ("accum4+fsdp", 2, [], (8, 1, 4, 2, 1, 1)),
        ("hsdp", 4, [], (8, 2, 1, 4, 1, 1)),
        ("tp", 2, [], (8, 8, 1, 1, 2, 1)),
        ("fsdp+tp", 4, [], (8, 4, 1, 2, 2, 1)),
        ("fsdp+tp", 4, ["tensor_parallel_size=4"], (8, 8, 1, 1, 4, 1)),
        ("pp", 2, [], (8, 2, 4, 1, 1, 2)),
        ("pp", 2, ["pipeline_micro_batches=2"], (8, 4, 2, 1, 1, 2)),
    ],
)
def test_how_batch_and_model_are_laid_out(
    mode: str, size: int, changes: list[str], layout: tuple[int, ...], load: Load
) -> None:
    (case,) = resolve(load("workloads = ['gpt-tiny']"), modes=[mode], world_sizes=[size], changes=changes)
    assert tuple(case.config[key] for key in LAYOUTS) == layout
    assert case.refused is None
    assert case.work_per_step == layout[0] * 128


def test_the_same_training_whatever_the_layout(load: Load) -> None:
    modes = ["eager", "accum4", "ddp", "tp", "pp"]
    cases = resolve(load("workloads = ['gpt-tiny']"), modes=modes, world_sizes=[2])
    assert all(case.training == cases[0].training for case in cases)
    (weak,) = resolve(load("workloads = ['gpt-tiny']"), modes=["ddp"], world_sizes=[2], changes=["scaling=weak"])
    assert weak.training != cases[0].training  # twice the batch


@pytest.mark.parametrize(
    ("workload", "mode", "size", "changes", "reason"),
    [
        ("regression-linear", "chunked-ce", 1, [], "chunked-ce needs llmbench's own head over a vocabulary"),
        ("regression-mlp", "tp", 2, [], "tp needs the transformer blocks"),
        ("regression-linear", "ac", 1, [], "ac is of transformer blocks"),
        ("regression-linear", "pp", 2, [], "0 blocks cannot be split over 2 stages"),
        ("hf-gpt2-tiny", "pp", 2, [], "pp needs llmbench's own models"),
        ("hf-bert-tiny", "chunked-ce", 1, [], "chunked-ce needs llmbench's own head"),
        ("gpt-tiny", "tp", 3, [], "4 heads cannot be split over 3 ranks"),
        ("gpt-tiny", "pp", 3, [], "2 blocks cannot be split over 3 stages"),
        ("gpt-tiny", "ddp", 3, [], "a batch of 8 cannot be split into 3 equal parts: --set micro_batch_size=6"),
        ("gpt-tiny", "accum4", 1, ["micro_batch_size=2"], "cannot be split into 4 equal parts"),
        ("gpt-tiny", "fsdp+tp", 3, ["tensor_parallel_size=2"], "3 ranks are no multiple of tensor_parallel_size = 2"),
    ],
)
def test_what_cannot_be_run_says_why(
    workload: str, mode: str, size: int, changes: list[str], reason: str, load: Load
) -> None:
    (case,) = resolve(load(f"workloads = ['{workload}']"), modes=[mode], world_sizes=[size], changes=changes)
    assert reason in str(case.refused)


def test_a_ladder_is_a_suite_of_modes_that_build_on_one_another(load: Load) -> None:
    text = "workloads = ['gpt-tiny']\nladder = ['bf16', 'fused', 'compile']"
    assert ids(resolve(load(text))) == [
        *("gpt-tiny/eager", "gpt-tiny/bf16", "gpt-tiny/bf16+fused", "gpt-tiny/compile+bf16+fused")
    ]
