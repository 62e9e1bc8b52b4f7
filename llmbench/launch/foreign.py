"""Workloads that are not built in: ``hf:CONFIG_DIR``, ``module:attribute``, and entry points beside torch.

Only the target's interpreter can import them, so it is asked, in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmbench.data.vocabulary import SMALLEST
from llmbench.errors import UserError, nearest
from llmbench.launch.target import with_paths
from llmbench.paths import PACKAGE
from llmbench.suite.load import Settings
from llmbench.suite.workloads import FAMILIES, HF, OWN, WORKLOADS, Lookup, Size, Tokenizer, Workload, foreign, workload

ASK_SECONDS = 180.0  # to import torch and transformers, from a cold network disk
HF_PREFIX = f"{HF}:"
MOST_WORDS = 50257  # the largest vocabulary of our own sizes: the same text is then cut in the same way for them
LONGEST = 512  # tokens of a sequence, unless --set sequence_length says otherwise
HF_BATCH = 8
OF_SIZE = ("micro_batch_size", "sequence_length", "learning_rate")  # settings that a workload has defaults for


@dataclass(frozen=True)
class Place:
    """Where a workload is imported: interpreter, working folder, and folders in front of the import path."""

    python: str
    folder: str | None = None
    paths: tuple[str, ...] = ()


def lookup(python: str, folder: str | None = None, paths: Sequence[str] = ()) -> Lookup:
    """Finds workloads for a run with this interpreter: those that are built in, and foreign ones.

    Args:
        folder, paths: of its processes, as for ``Target``.

    Each is asked for once. The result raises ``UserError`` if there is no such workload, it is none, or two folders
    of configurations have one name.
    """
    found: dict[str, Workload] = {}

    def find(name: str) -> Workload:
        if name in WORKLOADS or (":" not in name and name in FAMILIES):
            return workload(name)
        if name not in found:
            new = _describe(Place(python, folder, tuple(paths)), name)
            for other, known in found.items():
                if known.name == new.name:
                    raise UserError(f"{other} and {name} would both be {new.name}", "rename one of the folders")
            found[name] = new
        return found[name]

    return find


def describe(python: str, name: str) -> Workload:
    """A foreign workload.

    Args:
        python: the interpreter that trains.
        name: ``hf:CONFIG_DIR``, ``module:attribute``, or the name of an entry point of the group
            ``llmbench.workloads`` that is installed beside torch.

    Raises:
        UserError: there is no such workload, or it is none.
    """
    return _describe(Place(python), name)


def _describe(place: Place, name: str) -> Workload:
    return _hf(place, Path(name.removeprefix(HF_PREFIX))) if name.startswith(HF_PREFIX) else _own(place, name)


def _own(place: Place, name: str) -> Workload:
    if ":" in name and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise UserError(f"workload {name}: not of the form module:attribute", "for example toy.workload:Toy")
    answer = _ask(place, {"name": name}, name)
    if "unknown" in answer:
        hint = nearest(name, [*WORKLOADS, *FAMILIES, *answer["unknown"]])
        raise UserError(f"unknown workload {name!r}", f"{hint}; one of your own is named by module:attribute")
    if "error" in answer:
        kind, text = answer["error"]
        text = text if kind == "NotAWorkload" else f"{kind}: {_last_line(text)}"
        raise UserError(f"workload {name}: {text}", "docs/extending.md shows a workload of one's own")
    found = answer["found"]
    settings = _settings(found, name)
    about = {
        "family": OWN,
        "source": found["source"],
        "title": found["title"],
        "unit": found["unit"],
        "tokenizer": found["tokenizer"],
        "objective": "own",
        "parameters": None,
    }
    return foreign(name, Size(found["model"], settings), about)


def _settings(found: dict[str, Any], name: str) -> dict[str, Any]:
    """The defaults that a class gives, checked as those of a suite are."""
    settings: dict[str, Any] = found["settings"]
    for key in settings:
        if key not in OF_SIZE:
            raise UserError(f"workload {name}: settings: unknown key {key!r}", f"a workload sets {', '.join(OF_SIZE)}")
    text = found["tokenizer"] is not None or found["unit"] == "tokens/s"
    for key in OF_SIZE:
        if key not in settings and (text or key != "sequence_length"):
            raise UserError(f"workload {name}: settings: {key!r} is missing", "its case needs a default for it")
    try:
        Settings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"workload {name}: settings: {first['loc'][0]} = {first['input']!r}: {first['msg']}") from None
    return settings


def _hf(place: Place, folder: Path) -> Workload:
    file = folder / "config.json" if folder.is_dir() else folder
    values = _config(file)
    answer = _ask(place, {"hf": values}, str(file))
    if "error" in answer:
        kind, text = answer["error"]
        field = _field(text, values)
        raise UserError(f"{file}{field}: {_last_line(text)}", f"{kind}, as transformers in {place.python} reads it")
    # Without transformers the case will be skipped; what the file itself says is enough to plan it.
    found = answer.get("found") or _as_written(values)
    vocab_size, n_positions = found["vocab_size"], found["n_positions"] or 2048
    tokenizer: Tokenizer = "wordpiece" if found["objective"] == "masked" else "bpe"
    if vocab_size < SMALLEST[tokenizer]:
        least = f"a {tokenizer} vocabulary has at least {SMALLEST[tokenizer]} tokens"
        raise UserError(f"{file}: vocab_size = {vocab_size} is too small", least)
    parameters = found["parameters"]
    about = {
        "family": HF,
        "hf": values,
        "title": f"{found['architecture']} of transformers",
        "unit": "tokens/s",
        "tokenizer": tokenizer,
        "objective": found["objective"],
        "parameters": parameters,
    }
    model = {"vocab_size": min(vocab_size, MOST_WORDS), "n_positions": n_positions}
    settings = {
        "micro_batch_size": HF_BATCH,
        "sequence_length": min(n_positions, LONGEST),
        "learning_rate": _learning_rate(parameters or 1e8, found["objective"]),
    }
    name = re.sub(r"[^\w.-]+", "-", file.resolve().parent.name if file.name == "config.json" else file.stem)
    return foreign(f"{HF_PREFIX}{name}", Size(model, settings), about)


def _config(file: Path) -> dict[str, Any]:
    """A ``config.json``, without what is not of the model.

    Raises:
        UserError: it cannot be read, is no JSON object, or tells of a model that cannot be made from it alone.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "hf:FOLDER names a folder with the config.json of a model"
        raise UserError(f"{file}: {error.strerror}", hint) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: no JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply to be a configuration") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: not a JSON object")
    if not isinstance(values.get("model_type"), str):
        raise UserError(f"{file}: model_type is missing", 'for example "model_type": "llama"')
    for key, why in (
        ("auto_map", "the model needs code of its own, which llmbench does not run"),
        ("quantization_config", "weights that are quantized cannot be trained; take the field out"),
    ):
        if values.get(key):
            raise UserError(f"{file}: {key}: {why}")
    return {key: value for key, value in values.items() if key not in ("_name_or_path", "id2label", "label2id")}


def _field(text: str, values: dict[str, Any]) -> str:
    """The field that an error of transformers is about: the one that it names."""
    named = [key for key in values if re.search(rf"\b{re.escape(key)}\b", text)]
    return f": {named[0]}" if named else ""


def _as_written(values: dict[str, Any]) -> dict[str, Any]:
    architecture = " ".join(map(str, values.get("architectures") or [values["model_type"]]))
    positions = values.get("max_position_embeddings") or values.get("n_positions")
    vocab_size = values.get("vocab_size")
    return {
        "objective": "masked" if "MaskedLM" in architecture else "causal",
        "architecture": architecture,
        "vocab_size": vocab_size if isinstance(vocab_size, int) else MOST_WORDS,
        "n_positions": positions if isinstance(positions, int) else None,
        "parameters": None,
    }


def _learning_rate(parameters: float, objective: str) -> float:
    """By Kaplan et al. 2020 (arXiv 2001.08361, eq. D.1); from BERT base up 1e-4, as Devlin et al. 2019 took."""
    if objective == "masked" and parameters > 5e7:
        return 1e-4
    return float(f"{max(1e-4, 0.003239 - 0.0001395 * math.log(parameters)):.2g}")


def _ask(place: Place, question: dict[str, Any], what: str) -> dict[str, Any]:
    """What the interpreter says of a workload, asked in a process of its own that ends with the answer."""
    script = str(PACKAGE / "worker" / "workloads" / "describe.py")
    python = place.python
    try:
        process = subprocess.Popen(
            [python, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=place.folder,
            env=with_paths(os.environ, place.paths),
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        hint = "name a Python interpreter, such as VENV/bin/python"
        raise UserError(f"--python {python}: {error.strerror}", hint) from None
    try:
        out, err = process.communicate(json.dumps(question), timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{what}: {python} gave no answer for {ASK_SECONDS:.0f} s while it was imported") from None
    finally:
        _kill(process)
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        code = process.returncode
        died = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        raise UserError(f"{what}: {python} died while it was imported: {died}; {_last_line(err)}") from None
    if "broken" in answer:
        kind, text = answer["broken"]
        raise UserError(
            f"{python} cannot import torch: {kind}: {_last_line(text)}",
            f"`llmbench doctor --python {python}` finds the cause; `--python PATH` trains with another interpreter",
        )
    return answer


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends the process and all that it started, however the question ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
