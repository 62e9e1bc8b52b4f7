"""Help and lists: quick, complete, and without what makes a start slow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import Command

COMMANDS = ("doctor", "run", "report", "compare", "history", "scan", "list", "gate", "submit")
SUBMIT = ("slurm", "kubernetes", "status", "fetch", "cancel")


@pytest.mark.parametrize("command", SUBMIT)
def test_help_of_each_way_to_submit_has_examples(llmbench: Command, command: str) -> None:
    done = llmbench("submit", command, "--help", COLUMNS="120")
    assert done.returncode == 0
    assert f"llmbench submit {command}" in done.stdout.split("Examples", 1)[1]


def test_help_of_submit_names_its_commands(llmbench: Command) -> None:
    done = llmbench("submit", "--help", COLUMNS="120")
    assert all(command in done.stdout for command in SUBMIT)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_examples(llmbench: Command, command: str) -> None:
    done = llmbench(command, "--help", COLUMNS="120")
    assert done.returncode == 0
    assert f"llmbench {command} " in done.stdout.lower().split("example", 1)[1]


def test_help_names_the_commands_and_exit_codes(llmbench: Command) -> None:
    done = llmbench("--help", COLUMNS="120")
    assert all(command in done.stdout for command in COMMANDS)
    assert "Exit codes" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["run", "smoke", "--plan"], ["list", "workloads"]])
def test_start_imports_neither_torch_nor_pandas_nor_numpy(arguments: list[str], environment: dict[str, str]) -> None:
    code = (
        "import sys; sys.argv = ['llmbench', *sys.argv[1:]]\n"
        "from llmbench.start import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_command_is_a_usage_error(llmbench: Command) -> None:
    done = llmbench("rnu")
    assert done.returncode == 2
    assert "rnu" in done.stderr


@pytest.mark.parametrize("what", ["workloads", "suites", "checks", "settings"])
def test_lists(llmbench: Command, what: str) -> None:
    assert len(llmbench("list", what).stdout.splitlines()) > 2
    assert json.loads(llmbench("list", what, "--json").stdout)


def test_modes_are_listed_with_what_combines_them(llmbench: Command) -> None:
    from llmbench.suite.modes import COMPOSED, MODES, canonical

    listed = {row["mode"]: row["here"] for row in json.loads(llmbench("list", "modes", "--json").stdout)}
    composed = [mode.name for mode in COMPOSED]
    assert set(listed) == {"eager", "fp32", *MODES, *composed}
    assert [canonical(name) for name in composed] == composed
    assert listed["fsdp+tp"] == "yes"
    # The last row has a + as well: the advice below it is what is asked for.
    advice = llmbench("list", "modes", "--python", "/bin/false").stdout.splitlines()[-1]
    assert advice.startswith("Combine them with +")


def test_schema_is_json_schema(llmbench: Command) -> None:
    import jsonschema

    schemas = json.loads(llmbench("list", "schema").stdout)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_completion_knows_suites_workloads_and_modes() -> None:
    from llmbench.cli.names import complete_mode, complete_suite, complete_workload

    assert sorted(complete_suite("sm")) == ["smoke", "smoke-ddp"]
    assert complete_workload("gpt-1") == ["gpt-124m", "gpt-1.5b"]
    assert complete_mode("compile+b") == ["compile+bf16", "compile+bf16-params"]


def test_version(llmbench: Command) -> None:
    from llmbench import __version__

    assert llmbench("--version").stdout.split() == ["llmbench", __version__]
