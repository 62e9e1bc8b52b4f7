from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.suite.cases import resolve
from llmbench.suite.load import SuiteFile, find, shipped

# What is wrong, where (`#!` stands on the line), what is said of it, and what is advised.
FAULTS: dict[str, tuple[str, str, str]] = {
    "an unknown key": ("workloads = ['gpt-tiny']\nmods = ['eager'] #!", "unknown key 'mods'", "modes"),
    "an unknown table": (
        "workloads = ['gpt-tiny']\n[[overide]] #!\nmode = 'eager'",
        "unknown key 'overide'",
        "override",
    ),
    "an unknown setting": ("workloads = ['gpt-tiny']\n[settings]\nstep = 20 #!", "unknown key 'step'", "steps"),
    "an unknown setting in an inline table": (
        "workloads = ['gpt-tiny']\nmodes = ['eager']\nsettings = { steps = 20, sed = 1 } #!",
        "unknown key 'sed'",
        "seed",
    ),
    "an unknown setting by a dotted key": (
        "workloads = ['gpt-tiny']\nsettings.steps = 20\nsettings.sed = 1 #!",
        "unknown key 'sed'",
        "seed",
    ),
    "an unknown key of the second override": (
        "workloads = ['gpt-tiny']\n[[override]]\nsettings = {}\n[[override]]\nsettings = {}\nmod = 'eager' #!",
        "unknown key 'mod'",
        "mode",
    ),
    "an unknown setting of the second override": (
        "workloads = ['gpt-tiny']\n[[override]]\n[override.settings]\nsteps = 20\n"
        "[[override]]\n[override.settings]\nstepz = 20 #!",
        "unknown key 'stepz'",
        "steps",
    ),
    "an unknown key of an include": (
        "[[include]]\nworkload = 'gpt-tiny'\n[[include]]\nworkload = 'gpt-tiny'\nmodes = ['eager'] #!",
        "unknown key 'modes'",
        "mode",
    ),
    "an unknown key of an exclude": ("workloads = ['gpt-tiny']\n[[exclude]]\nmood = 'eager' #!", "'mood'", "mode"),
    "an unknown workload": ("workloads = ['gtp-tiny'] #!", "unknown workload 'gtp-tiny'", "gpt-tiny"),
    "an unknown workload in an array over several lines": (
        "workloads = [\n  'gpt-tiny',  # 'bert-tny'\n  'bert-tny', #!\n  'lora-tiny',\n]",
        "unknown workload 'bert-tny'",
        "bert-tiny",
    ),
    "a family instead of a workload": ("workloads = ['gpt'] #!", "unknown workload 'gpt'", "did you mean gpt-tiny"),
    "an unknown workload of an include": (
        "[[include]]\nworkload = 'gpt-tiny'\n[[include]]\nworkload = 'gpt-tny' #!",
        "unknown workload 'gpt-tny'",
        "gpt-tiny",
    ),
    "an unknown mode": ("workloads = ['gpt-tiny']\nmodes = [\n'eager',\n'bf61', #!\n]", "unknown mode 'bf61'", "bf16"),
    "an unknown part of a mode": (
        "workloads = ['gpt-tiny']\nmodes = ['eager', 'compiled+bf16'] #!",
        "unknown mode 'compiled'",
        "compile",
    ),
    "an unknown mode of an include": (
        "[[include]]\nworkload = 'gpt-tiny'\nmode = 'compil' #!",
        "unknown mode 'compil'",
        "compile",
    ),
    "eager and more": ("workloads = ['gpt-tiny']\nmodes = ['eager+bf16'] #!", "cannot be combined", "leave one of"),
    "a mode twice": ("workloads = ['gpt-tiny']\nmodes = ['bf16+bf16'] #!", "bf16 is there twice", "take one"),
    "a text for a number": ("workloads = ['gpt-tiny']\n[settings]\nsteps = '20' #!", "steps = '20'", "valid integer"),
    "a truth for a number": ("workloads = ['gpt-tiny']\n[settings]\nsteps = true #!", "steps = True", "valid integer"),
    "a text for an array": ("modes = ['eager']\nworkloads = 'gpt-tiny' #!", "workloads = 'gpt-tiny'", "valid list"),
    "a number in an array": ("workloads = [\n  'gpt-tiny',\n  124, #!\n]", "workloads = 124", "valid string"),
    "an array in an array": ("workloads = [\n  ['gpt-tiny'], #!\n]", "workloads = ['gpt-tiny']", "valid string"),
    "a table for an array of tables": (
        "workloads = ['gpt-tiny']\n[exclude] #!\nmode = 'eager'",
        "exclude = {'mode': 'eager'}",
        "valid list",
    ),
    "a number below its least": ("workloads = ['gpt-tiny']\n[settings]\nsteps = 9 #!", "steps = 9", "equal to 10"),
    "a number above its most": (
        "workloads = ['gpt-tiny']\n[[override]]\nsettings = {}\n[[override]]\nsettings.warmup_fraction = 1.01 #!",
        "warmup_fraction = 1.01",
        "equal to 1",
    ),
    "not a number": ("workloads = ['gpt-tiny']\n[settings]\nlearning_rate = nan #!", "learning_rate = nan", ""),
    "infinity": ("workloads = ['gpt-tiny']\n[settings]\ndeadline_seconds = inf #!", "inf", "finite"),
    "a choice that there is not": (
        "workloads = ['gpt-tiny']\n[settings]\nscaling = 'week' #!",
        "scaling = 'week'",
        "'weak'",
    ),
    "a missing key": (
        "workloads = ['gpt-tiny']\n[[override]]\nsettings = {}\n[[override]] #!\nmode = 'eager'",
        "key 'settings' is missing",
        "",
    ),
    "an include without a workload": ("[[include]] #!\nmode = 'eager'", "key 'workload' is missing", ""),
    "no processes": ("workloads = ['gpt-tiny']\nworld_sizes = [\n1,\n0, #!\n]", "world_sizes = 0", "equal to 1"),
    "an unknown technique": ("workloads = ['gpt-tiny']\nladder = [\n'bf16',\n'fusd', #!\n]", "'fusd'", "fused"),
    "two choices on a ladder": ("workloads = ['gpt-tiny']\nladder = [\n'bf16',\n'fp16', #!\n]", "precision", "one"),
    "a ladder and modes": ("workloads = ['gpt-tiny']\nmodes = ['bf16']\nladder = ['bf16'] #!", "exclude", "ladder"),
    "no mode": ("workloads = ['gpt-tiny']\nmodes = [] #!", "modes = []", "at least 1"),
    "no workload": ("modes = ['eager']\nworkloads = [] #!", "no workloads", "gpt-tiny"),
    "an exclude that matches no workload": (
        "workloads = ['gpt-tiny']\n[[exclude]]\nmode = 'bf16'\nworkload = 'gtp-*' #!",
        "no workload matches 'gtp-*'",
        "gpt-*",
    ),
    "an exclude that matches no mode": (
        "workloads = ['gpt-tiny']\n[[exclude]]\nworkload = 'gpt-*'\nmode = 'bf61' #!",
        "no mode matches 'bf61'",
        "bf16",
    ),
    "an exclude of a mode in another spelling": (
        "workloads = ['gpt-tiny']\nmodes = ['bf16+compile']\n[[exclude]]\nmode = 'bf16+compile' #!",
        "no mode matches 'bf16+compile'",
        "compile+bf16",
    ),
    "an override that matches no workload": (
        "workloads = ['gpt-tiny']\n[[override]]\nsettings = {}\n[[override]]\nsettings = {}\nworkload = 'brt-*' #!",
        "no workload matches 'brt-*'",
        "bert-*",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_file_and_line(name: str, suite: Callable[..., Path]) -> None:
    text, said, advised = FAULTS[name]
    (line,) = (number for number, line in enumerate(text.split("\n"), start=1) if "#!" in line)
    path = suite(text)
    with pytest.raises(UserError) as error:
        SuiteFile(path)
    assert error.value.message.startswith(f"{path}, line {line}: ")
    assert said in error.value.message
    assert advised in f"{error.value.message} {error.value.hint}"


def test_no_workloads_at_all(suite: Callable[..., Path]) -> None:
    path = suite("")
    with pytest.raises(UserError, match="no workloads") as error:
        SuiteFile(path)
    assert error.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("workloads = ['gpt-tiny'\nmodes = 3", "line 2"),
        ("workloads = ['gpt-tiny']\nworkloads = []\n", "line 2"),
        (f"x = {'[' * 5000}", "recursion"),
        (f"x = {'9' * 5000}", "digits"),
    ],
)
def test_what_is_no_toml(text: str, where: str, suite: Callable[..., Path]) -> None:
    path = suite(text)
    with pytest.raises(UserError) as error:
        SuiteFile(path)
    assert error.value.message.startswith(f"{path}: ")
    assert where in error.value.message


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"description = '\xff'")
    with pytest.raises(UserError, match=r"mine\.toml: not UTF-8 at byte 15"):
        SuiteFile(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.toml: no such file") as error:
        find(str(tmp_path / "gone.toml"))
    assert "smoke" in str(error.value.hint)
    with pytest.raises(UserError, match=r"gone\.toml: No such file"):
        SuiteFile(tmp_path / "gone.toml")
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(UserError, match=r"folder\.toml: Is a directory"):
        find(str(folder))


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown suite 'smok'") as error:
        find("smok")
    assert "did you mean smoke or smoke-ddp?" in str(error.value.hint)


def test_a_file_of_the_name_of_a_shipped_suite_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ci").write_text("workloads = ['gpt-small']\n")
    monkeypatch.chdir(tmp_path)
    assert find("ci").path == shipped()["ci"]
    assert find("./ci").suite.workloads == ["gpt-small"]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_suite_has_cases(name: str) -> None:
    file = find(name)
    assert file.name == name
    assert file.suite.description
    cases = resolve(file)
    assert all(case.refused is None for case in cases)
    assert len({case.id for case in cases}) == len(cases)
    assert all(any(case.mode == "eager" for case in cases if case.workload == w) for w in file.suite.workloads)


def test_smoke_has_every_workload_in_the_basic_modes_at_its_smallest_size() -> None:
    families = {case.family.smallest for case in resolve(find("smoke"))}
    assert {case.id for case in resolve(find("smoke"))} == {
        f"{workload}/{mode}/ws1" for workload in families for mode in ("eager", "compile", "bf16")
    }
