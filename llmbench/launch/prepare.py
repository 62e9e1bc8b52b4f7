"""What cases need before they can start: token files, LoRA's base, and the measured peaks; all kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llmbench.data.sources import generated, load
from llmbench.data.text import Text
from llmbench.data.tokens import TokenFiles, prepare, require
from llmbench.errors import UserError
from llmbench.launch.diagnose import diagnose
from llmbench.launch.trains import Trains
from llmbench.paths import cache_folder
from llmbench.results.files import write_atomically
from llmbench.suite.cases import Case
from llmbench.suite.workloads import FAMILIES

OnProgress = Callable[[str], None]
BASE_DIALECT = "base"
BASE_SECONDS = 3600.0
PEAK_SECONDS = 300.0
ONE_PROCESS = {"data_parallel": 1, "tensor_parallel": 1, "pipeline_stages": 1, "grad_accum": 1}


class Data:
    """The token files of a run's cases, made when first asked for.

    Args:
        text: what the run trains on.
    """

    def __init__(self, text: Text, on_progress: OnProgress = lambda message: None) -> None:
        self.text = text
        self._on_progress = on_progress
        self._files: dict[tuple[str, str, str], TokenFiles] = {}

    def of(self, case: Case) -> dict[str, Any]:
        """The ``data`` of the case's job; empty for a workload without text.

        Raises:
            UserError: the text is shorter than one batch.
        """
        files = self._tokens(case, self.text)
        if files is None:
            return {}
        config = case.config
        require(
            files,
            batch_tokens=config["global_batch_size"] * config["sequence_length"],
            sequence=config["sequence_length"],
            what=case.workload,
        )
        return _as_job(files)

    def of_base(self, case: Case) -> dict[str, Any]:
        """The ``data`` of the job that trains LoRA's base: another text, cut by the same tokenizer."""
        files = self._tokens(case, generated(BASE_DIALECT))
        assert files is not None
        return _as_job(files)

    def sha256(self) -> dict[str, str]:
        """Of the text's splits, and of the token files made so far, by name."""
        found = {"train": self.text.train.sha256, "valid": self.text.valid.sha256}
        return found | {f"tokens of {kind} {size}": files.sha256 for (kind, size, _), files in self._files.items()}

    def _tokens(self, case: Case, text: Text) -> TokenFiles | None:
        kind = case.family.tokenizer
        if kind is None:
            return None
        vocab_size = case.config["model"]["vocab_size"]
        key = (kind, str(vocab_size), text.sha256)
        if key not in self._files:
            self._files[key] = prepare(text, kind, vocab_size, tokenizer_text=self.text, on_progress=self._on_progress)
        return self._files[key]


def load_data(argument: str | None, cases: Sequence[Case], on_progress: OnProgress) -> Data:
    """The text of ``--data``, cut for each of the cases.

    Raises:
        UserError: there is no such text, or it is too short.
    """
    data = Data(load(argument), on_progress)
    for case in cases:
        data.of(case)
    return data


def _as_job(files: TokenFiles) -> dict[str, Any]:
    return {
        "train": str(files.train),
        "valid": str(files.valid),
        "vocab_size": files.vocab_size,
        "special": files.special,
        "floor": files.floor,
        "sha256": files.sha256,
    }


class BaseError(Exception):
    """LoRA's base could not be trained."""


def lora_base(target: Trains, case: Case, data: Data, device: str, log: Path, on_progress: OnProgress) -> Path:
    """The weights on which a LoRA case builds, trained if they are not in the cache.

    Raises:
        BaseError: the job that trains them failed.
    """
    size = case.workload.removeprefix(f"{case.family.name}-")
    batch = case.config["global_batch_size"] // (
        case.config["data_parallel"] if case.config["scaling"] == "weak" else 1
    )
    config = (
        case.training
        | ONE_PROCESS
        | {
            "family": "gpt",
            "steps": case.config["base_steps"],
            "learning_rate": FAMILIES["gpt"].sizes[size].settings["learning_rate"],
            "global_batch_size": batch,
            "micro_batch_size": batch,
        }
    )
    del config["of"]
    tokens = data.of_base(case)
    key = {
        "config": config,
        "weights": "qkv by head",
        "tokens": tokens["sha256"],
        "torch": target.hello["torch"],
        "device": device,
    }
    weights = cache_folder() / "bases" / f"{_hash(key)}.pt"
    if weights.exists():
        return weights
    on_progress(f"training the base of {case.workload} ({config['steps']} steps)")
    weights.parent.mkdir(parents=True, exist_ok=True)
    job = {
        "kind": "base",
        "config": config,
        "device": device,
        "data": tokens,
        "weights": str(weights),
        "threads": case.config["threads"],
    }
    outcome = target.run(job, log, BASE_SECONDS)
    if outcome.code != 0:
        error = (outcome.result or {}).get("error")
        raise BaseError(f"{error['type']}: {error['message']}" if error else f"exit code {outcome.code}")
    return weights


def parity_reference(
    target: Trains, case: Case, precisions: Iterable[str], data: dict[str, Any], device: str, file: Path, log: Path
) -> dict[str, Any]:
    """What the first step of a training should give, by eager in fp64: see ``worker/measure/parity.py``.

    Args:
        precisions: of the modes that will be held against it.
        data: of the case's job.
        file: where the gradients go.

    Returns:
        Facts of the reference; ``reason`` alone where it could not be computed (no memory, no time …).
    """
    job = {
        "kind": "reference",
        "config": case.config | ONE_PROCESS,
        "device": device,
        "data": data,
        "threads": case.config["threads"],
        "precisions": sorted(precisions),
        "gradients": str(file),
        "count_flops": case.flops_per_step is None,
    }
    outcome = target.run(job, log, case.config["deadline_seconds"])
    if outcome.code == 0 and outcome.result and "unavailable" not in outcome.result:
        return outcome.result
    failure = diagnose(case, outcome, case.config["deadline_seconds"])
    return {"reason": failure[1].message if failure else "no result"}


def measured_peaks(
    target: Trains, environment: dict[str, Any], device: str, log: Path
) -> tuple[dict[str, float | None], float | None]:
    """TFLOP/s of matmuls on this machine by arithmetic, and bytes per second of a copy.

    From the cache where they were measured before; empty and None on failure.
    """
    key = {
        "measured": ["fp32", "tf32", "bf16", "fp16", "fp8", "bandwidth"],
        "devices": environment["devices"],
        "cpu": environment["host"]["cpu"],
        "torch": environment["torch"],
        "variables": environment["variables"],
    }
    file = cache_folder() / "peaks" / f"{_hash(key)}.json"
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found["peaks"], found["bandwidth"]
    outcome = target.run({"kind": "peaks", "device": device}, log, PEAK_SECONDS)
    if outcome.code != 0 or outcome.result is None:
        return {}, None
    found = {"peaks": outcome.result["peaks"], "bandwidth": outcome.result.get("bandwidth")}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(found))
    return found["peaks"], found["bandwidth"]


def describe(
    target: Trains, device: str, log: Path, modes: Sequence[str] = (), *, every_package: bool = False
) -> dict[str, Any]:
    """The machine as torch sees it.

    Args:
        modes: ingredients of modes; ``modes`` of the result says what each lacks there.
        every_package: ``packages`` is to name all that is installed, not only what speed hangs on.

    Raises:
        UserError: the device cannot be used.
    """
    outcome = target.run(
        {"kind": "describe", "device": device, "modes": list(modes), "every_package": every_package}, log, PEAK_SECONDS
    )
    if outcome.result is None:
        raise UserError(f"{target.python}: torch died when asked for its devices", "`llmbench doctor` finds the cause")
    if "error" in outcome.result:
        raise UserError(
            f"--device {device}: {outcome.result['error']['message']}", "use --device cpu, or ask `llmbench doctor`"
        )
    return outcome.result


def _hash(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
