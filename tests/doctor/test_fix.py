"""The script of --fix: complete, safe, and right for the shell that reads it."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from llmbench.doctor.fix import fix_script
from llmbench.doctor.model import Fault, Finding, passed

from .made import diagnosis, failed, warned

LEFT_OVER = Fault("a.b.left-over", "warn", "t", "c", "unset <name>", script="unset <name>")


def script_of(*found: tuple[str, Finding]) -> str:
    script = fix_script(diagnosis(*found).to_json())
    done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, ""), script
    return script


def sourced(script: str, after: str) -> str:
    return subprocess.run(["sh", "-c", f"{script}\n{after}"], text=True, capture_output=True, check=True).stdout


def test_safe_fixes_are_commands_and_others_comments() -> None:
    script = script_of(
        ("a.b", LEFT_OVER.found("A is set", name="A")),
        ("c.d", failed("no compiler", fix="apt-get install g++; reboot")),
        ("e.f", passed("")),
    )
    code = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert code == ["unset A"]
    assert "# FAIL c.d: no compiler\n# To be done by hand: apt-get install g++; reboot\n" in script
    assert "# WARN a.b.left-over: A is set\nunset A\n" in script
    assert ". ./fix.sh" in script.splitlines()[4]


def test_sourcing_it_changes_the_shell() -> None:
    script = script_of(("a.b", LEFT_OVER.found("A is set", name="A")))
    assert sourced(f"A=1\n{script}", 'echo "${A-gone}"') == "gone\n"


@pytest.mark.parametrize(
    "text", ["x\nrm -rf /", "x\r\nreboot", "$(reboot)", "`reboot`", "'; reboot; '", "\x1b]0;x\x07"]
)
def test_nothing_that_was_read_becomes_a_command(text: str) -> None:
    script = script_of(("a.b", LEFT_OVER.found(text, name="A", fix=text)), ("c.d", warned(text, text, text)))
    assert [line for line in script.splitlines() if line and line[0] not in "#:"] == []


@pytest.mark.parametrize("value", ["a b", "$(echo x)", "it's", "-rf", "x;y", '"'])
def test_values_are_quoted(value: str) -> None:
    fault = Fault("a.b.c", "warn", "t", "c", "f", script="printf %s <value>")
    assert sourced(script_of(("a.b", fault.found("", value=value))), "") == value


@pytest.mark.parametrize("value", ["a b", "it's", "a"])
def test_what_is_quoted_stays_as_it_is(value: str) -> None:
    fault = Fault("a.b.c", "warn", "t", "c", "f", script="printf %s <value>")
    assert sourced(script_of(("a.b", fault.found("", value=shlex.quote(value)))), "") == value


def test_several_values_are_several_words() -> None:
    fault = Fault("a.b.c", "warn", "t", "c", "f", script="unset <names>")
    script = script_of(("a.b", fault.found("", names=("A", "B"))))
    assert "\nunset A B\n" in script


@pytest.mark.parametrize("script", ["export A=<free space>", "export HF_TOKEN=hf_SECRETabcdefghijklmnop"])
def test_what_is_not_complete_is_left_to_a_person(script: str) -> None:
    written = script_of(("a.b", warned("", fix="do it", script=script)))
    assert "# To be done by hand: do it" in written
    assert "\nexport" not in written


def test_the_same_fix_stands_there_once() -> None:
    found = LEFT_OVER.found("A is set", name="A")
    assert script_of(("a.b", found), ("c.d", found)).count("\nunset A\n") == 1


def test_nothing_to_fix() -> None:
    assert "# Nothing to fix.\n" in script_of(("a.b", passed("")))
