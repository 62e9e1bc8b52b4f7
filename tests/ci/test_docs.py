"""docs/ci.md: what can be copied from it is valid, and names what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from llmbench.ci.workflow import template
from llmbench.cli import app
from tests.ci import actions

PAGE = (actions.CHECKOUT / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ (llmbench .*)$", PAGE, re.MULTILINE)


def test_there_is_something_to_check() -> None:
    assert len(BLOCKS) == 5
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_valid_where_it_belongs(block: str, tmp_path: Path) -> None:
    document = yaml.safe_load(block)
    if isinstance(document, list):  # steps
        document = {"on": "push", "jobs": {"one": {"runs-on": "ubuntu-latest", "steps": document}}}
    file = tmp_path / "block.yml"
    file.write_text(yaml.safe_dump({"on" if key is True else key: value for key, value in document.items()}))
    schema = "github-workflows" if "jobs" in document else "gitlab-ci"
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_block_gives_the_action_inputs_that_it_has() -> None:
    known = actions.load()["inputs"].keys()
    used = [
        step["with"]
        for block in BLOCKS
        if isinstance(document := yaml.safe_load(block), dict)
        for job in document.get("jobs", {}).values()
        for step in job["steps"]
        if "/llmbench@" in step.get("uses", "")
    ]
    assert len(used) == 2
    assert all(given.keys() <= known for given in used)


def table(after: str) -> dict[str, str]:
    """First and second column of the first table behind a text."""
    rows = re.search(r"^\|.*?(?=^\n)", PAGE[PAGE.index(after) :], re.MULTILINE | re.DOTALL)
    assert rows
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]
    return {name: row[1] for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def test_every_input_and_output_of_the_action_is_told() -> None:
    action = actions.load()
    inputs = table("| input |")
    assert inputs.keys() == action["inputs"].keys()
    for name in ("suite", "cand", "python", "self", "strict", "comment", "artifact"):
        assert inputs[name] == f"`{action['inputs'][name]['default']}`"
    assert table("| output |").keys() == action["outputs"].keys()


def test_every_variable_of_the_template_is_told() -> None:
    told = table("There are two jobs")
    document: dict[str, Any] = yaml.safe_load(template("gitlab"))
    assert told.keys() == document["variables"].keys() | {"LLMBENCH_TOKEN"}
    for name in ("LLMBENCH_SUITE", "LLMBENCH_CAND", "LLMBENCH_PYTHON"):
        assert told[name] == f"`{document['variables'][name]}`"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_options_that_it_is_given(command: str) -> None:
    words = shlex.split(command)[1:]
    found: click.Command = typer.main.get_command(app)
    while isinstance(found, click.Group) or hasattr(found, "commands"):
        found = found.commands[words.pop(0)]  # type: ignore[union-attr]
    known = {option for parameter in found.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
