"""Runs the steps of a composite action as GitHub's runner does, as far as ours needs it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<operator>&&|\|\||==|!=|\(|\))|(?P<name>[A-Za-z_][\w.-]*))")
_PYTHON = {"&&": " and ", "||": " or ", "==": "==", "!=": "!=", "(": "(", ")": ")"}


@dataclass
class Finished:
    """What became of a run of the action.

    Attributes:
        ran: names of the steps with a script that were run.
        used: of the steps that use another action, its name and what it was given.
        failed: whether the action as a whole failed.
        code: exit code of the step that failed first.
        log: stdout and stderr of all steps.
    """

    outputs: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: bool = False
    code: int = 0
    log: str = ""


def load() -> dict[str, Any]:
    return yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))


def evaluate(expression: str, context: Mapping[str, Any]) -> Any:
    """An expression of names, strings and ``&& || == != ()``; what is not there is the empty string."""
    python, place = "", 0
    while expression[place:].strip():
        found = _TOKEN.match(expression, place)
        assert found, f"not understood: {expression[place:]}"
        place = found.end()
        if found["text"]:
            python += repr(found["text"][1:-1].replace("''", "'"))
        elif found["operator"]:
            python += _PYTHON[found["operator"]]
        elif found["name"] == "always":
            python += "bool"
            place = found.end()
            assert expression[place : place + 2] == "()"
            python, place = python.removesuffix("bool") + "True", place + 2
        else:
            python += repr(look_up(found["name"], context))
    return eval(python, {"__builtins__": {}})


def look_up(name: str, context: Mapping[str, Any]) -> Any:
    found: Any = context
    for part in name.split("."):
        found = found.get(part, "") if isinstance(found, Mapping) else ""
    return found


def filled(text: str, context: Mapping[str, Any]) -> str:
    return _EXPRESSION.sub(lambda found: str(evaluate(found[1], context)), text)


def run(
    action: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    folder: Path,
    temporary: Path,
    github: Mapping[str, Any],
    variables: Mapping[str, str],
    answers: Mapping[str, Mapping[str, str]] | None = None,
) -> Finished:
    """Runs every step.

    Args:
        folder: the workspace.
        github: the context of that name.
        variables: of the environment, beside those that the runner sets.
        answers: outputs of the steps that use another action, by their id.
    """
    done = Finished()
    temporary.mkdir(parents=True, exist_ok=True)
    context: dict[str, Any] = {"github": github, "runner": {"temp": str(temporary)}, "steps": {}}
    defaults = {name: filled(given.get("default", ""), context) for name, given in action["inputs"].items()}
    assert inputs.keys() <= defaults.keys()
    context["inputs"] = defaults | dict(inputs)
    for number, step in enumerate(action["runs"]["steps"]):
        condition = step.get("if", "")
        always = "always()" in condition
        asked = evaluate(_EXPRESSION.sub(r"\1", condition), context) if condition else True
        if not asked or (done.failed and not always):
            continue
        if "uses" in step:
            done.used[step["name"]] = {"uses": step["uses"]} | {
                name: filled(str(value), context) for name, value in step["with"].items()
            }
            outputs = dict((answers or {}).get(step.get("id", ""), {}))
        else:
            outputs = _script(step, context, number, folder, temporary, variables, done)
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": outputs}
    done.outputs = {name: filled(given["value"], context) for name, given in action["outputs"].items()}
    return done


def _script(
    step: Mapping[str, Any],
    context: Mapping[str, Any],
    number: int,
    folder: Path,
    temporary: Path,
    variables: Mapping[str, str],
    done: Finished,
) -> dict[str, str]:
    assert step["shell"] == "bash"
    script, written = temporary / f"step-{number}.sh", temporary / f"output-{number}"
    script.write_text(step["run"], encoding="utf-8")
    written.touch()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(temporary),
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(folder),
        "GITHUB_OUTPUT": str(written),
        "GITHUB_REPOSITORY": "somebody/project",
        "GITHUB_WORKFLOW": "llmbench",
        "RUNNER_TEMP": str(temporary),
    }
    environment |= {name: filled(str(value), context) for name, value in step.get("env", {}).items()}
    ended = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env=environment | dict(variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    done.ran.append(step["name"])
    done.log += ended.stdout + ended.stderr
    if ended.returncode:
        done.code = done.code or ended.returncode
        done.failed = True
    return outputs_of(written.read_text(encoding="utf-8"))


def outputs_of(text: str) -> dict[str, str]:
    """``name=value`` and ``name<<END … END``."""
    found, lines = {}, iter(text.split("\n"))
    for line in lines:
        if "<<" in line and "=" not in line.partition("<<")[0]:
            name, _, end = line.partition("<<")
            held = []
            for inner in lines:
                if inner == end:
                    break
                held.append(inner)
            else:
                raise AssertionError(f"{name} has no end")
            found[name] = "\n".join(held)
        elif line:
            name, separator, value = line.partition("=")
            assert separator, f"not understood by the runner: {line}"
            found[name] = value
    return found
