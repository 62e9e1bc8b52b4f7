"""A suite: a TOML file that names cases as a matrix of workloads and modes, with includes, excludes and overrides."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmbench.errors import UserError, nearest
from llmbench.paths import suites_folder
from llmbench.suite.modes import EAGER, MODES, any_mode_matches, canonical
from llmbench.suite.toml import Lines, Location
from llmbench.suite.workloads import FAMILIES, WORKLOADS, Lookup, workload


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Settings(Strict):
    """What a suite can set, for all its cases or for some. ``None``: the workload's size decides."""

    steps: int = Field(100, ge=10, description="training steps; the last ones, after warm-up, are timed")
    micro_batch_size: int | None = Field(None, ge=1, description="sequences (samples) of one step of one process")
    sequence_length: int | None = Field(None, ge=8, description="tokens of one sequence")
    learning_rate: float | None = Field(None, gt=0, description="peak; linear warm-up, then cosine to a tenth")
    warmup_fraction: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which the rate rises; if any, at least 20"
    )
    weight_decay: float = Field(0.1, ge=0, description="of matrices; never of biases and norms")
    clip_norm: float = Field(1.0, ge=0, description="global norm of the gradient; 0 is off")
    seed: int = Field(1234, ge=0, description="of the weights and of the order of the data")
    threads: int | None = Field(None, ge=1, description="CPU threads of the worker; torch decides if unset")
    deadline_seconds: float = Field(900, gt=0, description="a case that takes longer is stopped")
    eval_batches: int = Field(8, ge=1, description="batches of held-out data; fewer if there are fewer")
    interval_target: float = Field(
        0.02, gt=0, description="timed until the 95 % interval of the throughput is within ± this share of it"
    )
    budget_seconds: float = Field(
        10, ge=0, description="no timing beyond the training steps after this; a quarter of the deadline at most"
    )
    scaling: Literal["strong", "weak"] = Field(
        "strong", description="strong: ranks share the batch of one process; weak: every rank has as much"
    )
    tensor_parallel_size: int | None = Field(None, ge=1, description="of fsdp+tp; 2 if the world size is even")
    pipeline_micro_batches: int = Field(4, ge=1, description="of pp: into how many parts a batch is split")
    lora_rank: int = Field(8, ge=1)
    base_steps: int = Field(60, ge=1, description="steps that train LoRA's base before it is frozen")
    nsp: bool = Field(False, description="BERT: next-sentence prediction beside the masked words")


class Pattern(Strict):
    """Cases by shell patterns of workload and mode."""

    workload: str = "*"
    mode: str = "*"

    def matches(self, workload: str, mode: str) -> bool:
        return fnmatchcase(workload, self.workload) and fnmatchcase(mode, self.mode)


class Override(Pattern):
    settings: dict[str, Any]


class Include(Strict):
    workload: str
    mode: str = EAGER
    world_size: int = Field(1, ge=1)


class Suite(Strict):
    """A suite file."""

    description: str = ""
    workloads: list[str] = []
    modes: list[str] = Field([EAGER], min_length=1)
    ladder: list[str] = []  # techniques, one added after the other: modes that build on one another
    world_sizes: list[Annotated[int, Field(ge=1)]] = Field([1], min_length=1)
    settings: dict[str, Any] = {}
    override: list[Override] = []
    include: list[Include] = []
    exclude: list[Pattern] = []


class SuiteFile:
    """A suite that was read and checked.

    Args:
        path: the TOML file.
        lookup: finds workloads by name.

    Raises:
        UserError: unreadable, no TOML, or a key, workload, mode or value that is wrong; file, line and key are named.
    """

    def __init__(self, path: Path, lookup: Lookup = workload) -> None:
        self.path = path
        self._lookup = lookup
        self.name = path.stem
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: wrong syntax, or a number of too many digits
            raise UserError(f"{path}: {error}", "see https://toml.io for the syntax") from None
        self._lines = Lines(text)
        try:
            self.suite = Suite.model_validate(document)
            self.settings_of((), self.suite.settings)
        except ValidationError as error:
            raise self._invalid(error, Suite) from None
        self._check()

    def settings_of(self, location: Location, values: dict[str, Any]) -> Settings:
        """``values`` checked as settings; errors name the line below ``location``."""
        try:
            return Settings.model_validate(values)
        except ValidationError as error:
            raise self._invalid(error, Settings, (*location, "settings")) from None

    def wrong(self, message: str, hint: str | None, location: Location) -> UserError:
        line = self._lines.find(location)
        return UserError(f"{self.path}, line {line}: {message}" if line else f"{self.path}: {message}", hint)

    def _invalid(self, error: ValidationError, model: type[BaseModel], below: Location = ()) -> UserError:
        first = error.errors()[0]
        location = below + first["loc"]
        key = location[-1]
        if first["type"] == "extra_forbidden":
            tables: dict[str, type[BaseModel]] = {"override": Override, "include": Include, "exclude": Pattern}
            table = tables.get(str(location[0]), model)
            known = Settings if "settings" in location[:-1] else table
            return self.wrong(f"unknown key {key!r}", nearest(str(key), known.model_fields), location)
        if first["type"] == "missing":
            return self.wrong(f"key {key!r} is missing", None, location)
        name = next((part for part in reversed(location) if isinstance(part, str)), "")
        return self.wrong(f"{name} = {first['input']!r}: {_lower(first['msg'])}", None, location)

    def _check(self) -> None:
        suite = self.suite
        for index, name in enumerate(suite.workloads):
            self._known_workload(name, ("workloads", index))
        for index, name in enumerate(suite.modes):
            self._known_mode(name, ("modes", index))
        for index, include in enumerate(suite.include):
            self._known_workload(include.workload, ("include", index, "workload"))
            self._known_mode(include.mode, ("include", index, "mode"))
        if suite.ladder and "modes" in suite.model_fields_set:
            raise self.wrong("modes and ladder exclude each other", "a ladder says which modes there are", ("ladder",))
        for index in range(len(suite.ladder)):
            self._known_mode("+".join(suite.ladder[: index + 1]), ("ladder", index))
        if not suite.workloads and not suite.include:
            raise self.wrong("no workloads", f"workloads = [...] with names of: {', '.join(WORKLOADS)}", ("workloads",))
        for index, override in enumerate(suite.override):
            self.settings_of(("override", index), override.settings)
            self._meets(override, ("override", index))
        for index, exclude in enumerate(suite.exclude):
            self._meets(exclude, ("exclude", index))

    def _known_workload(self, name: str, location: Location) -> None:
        try:
            self._lookup(name)
        except UserError as error:
            raise self.wrong(error.message, error.hint, location) from None

    def _known_mode(self, name: str, location: Location) -> None:
        try:
            canonical(name)
        except UserError as error:
            raise self.wrong(error.message, error.hint, location) from None

    def _meets(self, pattern: Pattern, location: Location) -> None:
        """Raises: UserError: no workload or no mode can match the pattern, which is a typing error."""
        names = [*WORKLOADS, *self.suite.workloads, *(include.workload for include in self.suite.include)]
        if not any(fnmatchcase(name, pattern.workload) for name in names):
            hint = nearest(pattern.workload, [*WORKLOADS, *(f"{family}-*" for family in FAMILIES)])
            raise self.wrong(f"no workload matches {pattern.workload!r}", hint, (*location, "workload"))
        if not any_mode_matches(pattern.mode):
            hint = _mode_hint(pattern.mode)
            raise self.wrong(f"no mode matches {pattern.mode!r}", hint, (*location, "mode"))


def _mode_hint(pattern: str) -> str:
    """What was likely meant: the right spelling, or the nearest names."""
    try:
        return f"did you mean {canonical(pattern)}?"
    except UserError as error:
        return error.hint or nearest(pattern, [EAGER, *MODES])


def find(name: str, lookup: Lookup = workload) -> SuiteFile:
    """A suite by the name of a shipped one, or by the path of a TOML file.

    Raises:
        UserError: there is no such suite (nearest names suggested), or it is wrong.
    """
    known = shipped()
    if name in known:  # a file that happens to be called ``ci`` does not hide it; ``./ci`` names the file
        return SuiteFile(known[name], lookup)
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        raise UserError(f"unknown suite {name!r}", f"{nearest(name, known)}; or give the path of a TOML file")
    if not path.exists():
        raise UserError(f"{name}: no such file", f"shipped suites: {', '.join(known)}")
    return SuiteFile(path, lookup)


def shipped() -> dict[str, Path]:
    """The suites that come with llmbench, by name."""
    return {path.stem: path for path in sorted(suites_folder().glob("*.toml"))}


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
