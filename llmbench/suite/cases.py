"""The cases of a suite, with everything resolved that can be known before a process starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.errors import UserError, nearest
from llmbench.results.schema import PlannedCase
from llmbench.suite import costs
from llmbench.suite.layout import batches, degrees, refusal
from llmbench.suite.load import Settings, SuiteFile
from llmbench.suite.modes import EAGER, canonical, ingredients, parallel, rungs
from llmbench.suite.workloads import FAMILIES, WORKLOADS, Family, Lookup, Workload, family_of, peer_name, workload

# BERT masks 15 % of the words (Devlin et al. 2019, §3.1); a fixed count keeps every shape static.
MASKED_FRACTION = 0.15


# Settings that change how a case is executed, but not what it trains.
_EXECUTION = {
    "micro_batch_size",
    "grad_accum",
    "data_parallel",
    "tensor_parallel",
    "tensor_parallel_size",
    "pipeline_stages",
    "pipeline_micro_batches",
    "scaling",
    "threads",
    "deadline_seconds",
    "interval_target",
    "budget_seconds",
}


@dataclass(frozen=True)
class Case:
    """One cell of the matrix: workload × mode × world size × batch shape.

    Attributes:
        config: all settings, and ``model`` (the model's configuration), ``family``, ``masked`` (BERT: words masked in
            each sequence), and how batch and model are laid out over the ranks (``layout.py``).
        refused: why it cannot be run by anybody; then it is recorded as skipped.
    """

    workload: str
    mode: str
    world_size: int
    config: dict[str, Any]
    refused: str | None = None

    @property
    def id(self) -> str:
        return f"{self.workload}/{self.mode}/ws{self.world_size}"

    @property
    def family(self) -> Family:
        return family_of(self.config)

    @property
    def work_per_step(self) -> int:
        """Tokens or samples of one step, over all ranks."""
        tokens = self.config["sequence_length"] if self.family.unit == "tokens/s" else 1
        return int(self.config["global_batch_size"] * tokens)

    @property
    def parameters(self) -> tuple[int, int] | None:
        """Total and trainable; None where only the model itself can tell."""
        config = self.config
        if not costs.known(config["family"]):
            return None
        return costs.parameters(config["family"], config["model"], lora_rank=config.get("lora_rank"))

    @property
    def flops_per_step(self) -> float | None:
        """Over all ranks; None where only a step can tell."""
        if not costs.known(self.config["family"]):
            return None
        return costs.flops_per_step(batch=self.config["global_batch_size"], **self._shape())

    @property
    def memory_bytes(self) -> dict[str, int] | None:
        """Estimate of one rank by kind: parameters, gradients, optimizer, activations, temporary, total."""
        config = self.config
        if not costs.known(config["family"]):
            return None
        layout = {key: config[key] for key in ("data_parallel", "tensor_parallel", "pipeline_stages", "grad_accum")}
        return costs.memory_bytes(
            batch=config["micro_batch_size"], mode=ingredients(self.mode), **layout, **self._shape()
        )

    def _shape(self) -> dict[str, Any]:
        config = self.config
        return {
            "family": config["family"],
            "model": config["model"],
            "sequence": config.get("sequence_length"),
            "masked": config.get("masked"),
            "lora_rank": config.get("lora_rank"),
        }

    @property
    def training(self) -> dict[str, Any]:
        """What it trains, whatever the mode: two cases of which this is equal see the same weights and batches."""
        return {key: value for key, value in self.config.items() if key not in _EXECUTION} | {"of": self.workload}

    def planned(self) -> PlannedCase:
        return PlannedCase(
            case=self.id,
            workload=self.workload,
            mode=self.mode,
            world_size=self.world_size,
            config=self.config,
            refused=self.refused,
        )


def from_plan(planned: PlannedCase) -> Case:
    """The case that a run.json tells of."""
    return Case(planned.workload, planned.mode, planned.world_size, planned.config, planned.refused)


def resolve(
    file: SuiteFile,
    *,
    lookup: Lookup = workload,
    workloads: list[str] | None = None,
    modes: list[str] | None = None,
    world_sizes: list[int] | None = None,
    changes: Sequence[str] = (),
) -> list[Case]:
    """The cases of a suite, in order: by workload, eager first, peers in turns.

    A mode for one process has one whatever is asked.

    Args:
        lookup: finds workloads by name.
        workloads: run these instead of the suite's: a family keeps the sizes of the suite, a full name need not be
            in it.
        modes: run these instead of the suite's.
        world_sizes: run parallel modes in so many processes instead of the suite's.
        changes: settings that win over the file's, as ``key=value``.

    Raises:
        UserError: an unknown name or setting, or a choice that leaves no case.
    """
    suite = file.suite
    changed = _changes(changes)
    own_modes = rungs(suite.ladder) if suite.ladder else [canonical(mode) for mode in suite.modes]
    triples = [
        (name, mode, size)
        for name in suite.workloads
        for mode in own_modes
        for size in _sizes(mode, world_sizes or suite.world_sizes)
    ]
    triples += [
        (include.workload, canonical(include.mode), size)
        for include in suite.include
        for size in _sizes(canonical(include.mode), world_sizes or [include.world_size])
    ]
    triples = [each for each in triples if not any(pattern.matches(each[0], each[1]) for pattern in suite.exclude)]
    if workloads:
        triples = [
            (name, mode, size)
            for name in _chosen_workloads(workloads, [name for name, _, _ in triples], lookup)
            for mode, size in dict.fromkeys(
                [(mode, size) for known, mode, size in triples if known == name]
                or [(mode, size) for _, mode, size in triples]
            )
        ]
    if modes:
        names = dict.fromkeys(name for name, _, _ in triples)
        triples = [
            (name, canonical(mode), size)
            for name in names
            for mode in modes
            for size in _sizes(canonical(mode), world_sizes or suite.world_sizes)
        ]
    if not triples:
        raise UserError(f"{file.path}: no case is left", "the excludes leave nothing to run")
    return [_case(file, lookup(name), mode, size, changed) for name, mode, size in _in_order(triples)]


def _in_order(triples: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """By workload, eager first, as it is the reference of the others.

    A workload and its peer take turns, mode by mode: what is set side by side was measured side by side.
    """
    names = list(dict.fromkeys(name for name, _, _ in triples))
    modes = list(dict.fromkeys((mode, size) for _, mode, size in triples))

    def place(triple: tuple[str, str, int]) -> tuple[int, bool, int, int]:
        name, mode, size = triple
        ours = peer_name(name)
        beside = ours if ours in names else name
        return names.index(beside), mode != EAGER, modes.index((mode, size)), names.index(name)

    return sorted(dict.fromkeys(triples), key=place)


def _sizes(mode: str, world_sizes: Sequence[int]) -> list[int]:
    return list(world_sizes) if parallel(mode) else [1]


def _chosen_workloads(chosen: list[str], in_suite: list[str], lookup: Lookup) -> list[str]:
    names: dict[str, None] = {}
    for name in chosen:
        if name in FAMILIES and name not in WORKLOADS:
            of_family = [known for known in in_suite if known in WORKLOADS and WORKLOADS[known].family.name == name]
            names |= dict.fromkeys(of_family or [FAMILIES[name].smallest])
        else:
            lookup(name)
            names[name] = None
    return list(names)


def _changes(changes: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: not of the form SETTING=VALUE", "for example --set steps=50")
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


def _case(file: SuiteFile, chosen: Workload, mode: str, world_size: int, changed: dict[str, Any]) -> Case:
    values = dict(file.suite.settings)
    for override in file.suite.override:
        if override.matches(chosen.name, mode):
            values |= override.settings
    values |= changed
    settings = Settings.model_validate(values).model_dump()
    settings |= {key: value for key, value in chosen.size.settings.items() if settings.get(key) is None}
    layout = degrees(mode, world_size, settings)
    config = _config(chosen, settings | layout | batches(mode, settings, layout))
    return Case(chosen.name, mode, world_size, config, refusal(chosen.family, mode, world_size, config))


def _config(chosen: Workload, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings and model as one dictionary, without what the family has no use for."""
    family, model = chosen.family, chosen.size.model
    config = {"family": family.name, "model": dict(model)} | settings
    if chosen.foreign:
        config["foreign"] = chosen.foreign
    if config["sequence_length"] is None:
        del config["sequence_length"]
    elif "n_positions" in model and config["sequence_length"] > model["n_positions"]:
        raise UserError(
            f"{chosen.name}: sequence_length = {config['sequence_length']} is longer than the model's "
            f"{model['n_positions']}",
            f"--set sequence_length={model['n_positions']}, or a larger size",
        )
    if not family.base:
        del config["lora_rank"], config["base_steps"]
    nsp = config.pop("nsp")
    if family.objective == "masked":
        config["masked"] = max(1, round(MASKED_FRACTION * config["sequence_length"]))
        if family.name in ("bert", "hf-bert"):
            config["model"]["nsp"] = nsp
    return config
