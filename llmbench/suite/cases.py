"""The cases of a suite, with everything resolved that can be known before a process starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.errors import UserError, nearest
from llmbench.results.schema import PlannedCase
from llmbench.suite import costs
from llmbench.suite.load import Settings, SuiteFile
from llmbench.suite.modes import EAGER, canonical, ingredients
from llmbench.suite.workloads import FAMILIES, WORKLOADS, Family, workload

# BERT masks 15 % of the words (Devlin et al. 2019, §3.1); a fixed count keeps every shape static.
MASKED_FRACTION = 0.15


@dataclass(frozen=True)
class Case:
    """One cell of the matrix: workload × mode × world size × batch shape.

    Attributes:
        config: all settings, and ``model`` (the model's configuration), ``family``, ``masked`` (BERT: words masked in
            each sequence).
    """

    workload: str
    mode: str
    world_size: int
    config: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.workload}/{self.mode}/ws{self.world_size}"

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["family"]]

    @property
    def work_per_step(self) -> int:
        """Tokens or samples of one step."""
        return int(self.config["micro_batch_size"] * (self.config.get("sequence_length") or 1))

    @property
    def parameters(self) -> tuple[int, int]:
        """Total and trainable."""
        config = self.config
        return costs.parameters(config["family"], config["model"], lora_rank=config.get("lora_rank"))

    @property
    def flops_per_step(self) -> float:
        return costs.flops_per_step(**self._shape())

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Estimate by kind: weights, gradients, optimizer, activations, total."""
        return costs.memory_bytes(**self._shape(), bf16="bf16" in ingredients(self.mode))

    def _shape(self) -> dict[str, Any]:
        config = self.config
        return {
            "family": config["family"],
            "model": config["model"],
            "batch": config["micro_batch_size"],
            "sequence": config.get("sequence_length"),
            "masked": config.get("masked"),
            "lora_rank": config.get("lora_rank"),
        }

    def same_training(self, other: Case) -> bool:
        """Whether both train the same thing on the same batches, so that their losses can be compared."""
        return self.workload == other.workload and self.config == other.config

    def planned(self) -> PlannedCase:
        return PlannedCase(
            case=self.id, workload=self.workload, mode=self.mode, world_size=self.world_size, config=self.config
        )


def from_plan(planned: PlannedCase) -> Case:
    """The case that a run.json tells of."""
    return Case(planned.workload, planned.mode, planned.world_size, planned.config)


def resolve(
    file: SuiteFile, *, workloads: list[str] | None = None, modes: list[str] | None = None, changes: Sequence[str] = ()
) -> list[Case]:
    """The cases of a suite, in order: by workload, eager first.

    Args:
        workloads: run these instead of the suite's: a family keeps the sizes of the suite, a full name need not be
            in it.
        modes: run these instead of the suite's.
        changes: settings that win over the file's, as ``key=value``.

    Raises:
        UserError: an unknown name or setting, or a choice that leaves no case.
    """
    suite = file.suite
    changed = _changes(changes)
    pairs = [(name, canonical(mode)) for name in suite.workloads for mode in suite.modes]
    pairs += [(include.workload, canonical(include.mode)) for include in suite.include]
    pairs = [pair for pair in pairs if not any(pattern.matches(*pair) for pattern in suite.exclude)]
    if workloads:
        pairs = [
            (name, mode)
            for name in _chosen_workloads(workloads, [name for name, _ in pairs])
            for mode in dict.fromkeys([mode for known, mode in pairs if known == name] or [m for _, m in pairs])
        ]
    if modes:
        names = dict.fromkeys(name for name, _ in pairs)
        pairs = [(name, canonical(mode)) for name in names for mode in modes]
    if not pairs:
        raise UserError(f"{file.path}: no case is left", "the excludes leave nothing to run")
    order = list(dict.fromkeys(name for name, _ in pairs))
    unique = dict.fromkeys(pairs)
    # The eager case is the reference of the others: it goes first.
    ordered = sorted(unique, key=lambda pair: (order.index(pair[0]), pair[1] != EAGER))
    return [_case(file, name, mode, changed) for name, mode in ordered]


def _chosen_workloads(chosen: list[str], in_suite: list[str]) -> list[str]:
    names: dict[str, None] = {}
    for name in chosen:
        if name in WORKLOADS:
            names[name] = None
        elif name in FAMILIES:
            of_family = [known for known in in_suite if WORKLOADS[known].family.name == name]
            names |= dict.fromkeys(of_family or [FAMILIES[name].smallest])
        else:
            raise UserError(f"unknown workload {name!r}", nearest(name, [*WORKLOADS, *FAMILIES]))
    return list(names)


def _changes(changes: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: not of the form KEY=VALUE", "for example --set steps=50")
        if key not in Settings.model_fields:
            raise UserError(f"--set {change}: unknown setting {key!r}", nearest(key, Settings.model_fields))
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
        try:
            Settings.model_validate({key: values[key]})
        except ValueError as error:
            reason = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
            raise UserError(f"--set {change}: {reason}", Settings.model_fields[key].description) from None
    return values


def _case(file: SuiteFile, name: str, mode: str, changed: dict[str, Any]) -> Case:
    chosen = workload(name)
    values = dict(file.suite.settings)
    for override in file.suite.override:
        if override.matches(name, mode):
            values |= override.settings
    values |= changed
    settings = Settings.model_validate(values).model_dump()
    settings |= {key: value for key, value in chosen.size.settings.items() if settings.get(key) is None}
    return Case(name, mode, 1, _config(chosen.family, chosen.size.model, settings, name))


def _config(family: Family, model: dict[str, int], settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Settings and model as one dictionary, without what the family has no use for."""
    config = {"family": family.name, "model": dict(model)} | settings
    if family.tokenizer is None:
        del config["sequence_length"]
    elif config["sequence_length"] > model["n_positions"]:
        raise UserError(
            f"{name}: sequence_length = {config['sequence_length']} is longer than the model's {model['n_positions']}",
            f"--set sequence_length={model['n_positions']}, or a larger size",
        )
    if family.name != "lora":
        del config["lora_rank"], config["base_steps"]
    nsp = config.pop("nsp")
    if family.name == "bert":
        config["model"]["nsp"] = nsp
        config["masked"] = max(1, round(MASKED_FRACTION * config["sequence_length"]))
    return config
