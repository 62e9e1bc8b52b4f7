"""The working folder, the user, the encoding of text, and PATH."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from llmbench.doctor.checks import environment_job, environment_settings  # noqa: F401 (their checks are of this area)
from llmbench.doctor.checks.environment_leftovers import LEFTOVERS, SETTINGS, assignments, is_on
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context
from llmbench.results.redact import environment as shown_variables

__all__ = ["LEFTOVERS", "SETTINGS", "is_on"]

GONE = fault(
    "environment.folder.gone",
    "fail",
    "The working folder was deleted",
    cause="everything that looks at a relative path fails",
    fix='cd "$HOME"',
    script='cd "$HOME"',
)
UNREADABLE = fault(
    "environment.folder.unreadable",
    "warn",
    "The working folder cannot be read by this user",
    cause="Python puts it first on its path and cannot look into it; relative paths fail",
    fix='cd "$HOME"',
    script='cd "$HOME"',
)


@check("environment.folder", "The working folder exists")
def folder(context: Context) -> Iterator[Finding]:
    try:
        here = os.getcwd()
        os.stat(".")
    except FileNotFoundError:
        yield GONE.found("the current working directory no longer exists (it was deleted)")
        return
    except OSError as error:
        yield UNREADABLE.found(f"the current working directory cannot be reached: {error.strerror}", verdict="fail")
        return
    try:
        os.listdir(here)
    except FileNotFoundError:
        yield GONE.found(f"the current working directory {here} no longer exists (it was deleted or moved)")
    except OSError as error:
        yield UNREADABLE.found(f"the current working directory {here} cannot be read: {error.strerror}")
    else:
        yield passed(here)


NO_HOME = fault(
    "environment.user.home-missing",
    "warn",
    "HOME is no folder",
    cause="caches, tokens and settings of torch, Triton and Hugging Face belong there: each fails or falls back to a "
    "temporary folder",
    fix="export HOME=<home>",
)
OTHER_HOME = fault(
    "environment.user.home-other",
    "warn",
    "HOME belongs to another user",
    cause="as with sudo: caches and settings of that user are read, and files are left there that he cannot change",
    fix="export HOME=<home>  (sudo -H sets it)",
)
NOBODY = fault(
    "environment.user.unknown",
    "warn",
    "This user has no name",
    cause="getpass.getuser() raises, so that torch.compile (torch before 2.13) and others that name a cache folder "
    "after the user fail: 'getpwuid(): uid not found'",
    fix="export USER=<user>  (docker run -e USER=<user>)",
    link="https://github.com/pytorch/pytorch/issues/140765",
)


@check("environment.user", "The user has a name and a home", needs=("python.starts", "environment.folder"))
def user(context: Context) -> Iterator[Finding]:
    """Asks the interpreter for the user's name and home, as libraries do. Others of this area read what it found."""
    outcome = context.probe("user")
    told = outcome.answer
    context.facts["text"] = {name: told.get(name) for name in ("encoding", "stdout", "locale_error")}
    if "user_error" not in told:
        yield skipped(f"the process that asks for the user {outcome.ending}")
        return
    home, found = context.environ.get("HOME"), []
    account_home = told.get("account_home") or "$PWD"
    if home and not os.path.isdir(home):
        found.append(NO_HOME.found(f"HOME={home} is not a folder", home=account_home))
    elif home and _of_another(home):
        found.append(
            OTHER_HOME.found(
                f"HOME={home} belongs to user {_owner(home)}, not to this one ({os.getuid()})", home=account_home
            )
        )
    if told["user_error"]:
        found.append(NOBODY.found(f"getpass.getuser() raises {told['user_error']}", user=f"user{os.getuid()}"))
    yield from found
    if not found:
        unset = "" if home else "; HOME is not set, the account's home counts"
        yield passed(f"{told['user']}, home {told['home']}{unset}")


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return os.getuid()


def _of_another(path: str) -> bool:
    """A home of the system (``/``, owned by root) is what containers give to users without one."""
    owner = _owner(path)
    return owner != os.getuid() and owner != 0


NO_LOCALE = fault(
    "environment.encoding.locale",
    "warn",
    "The language settings name a locale that is not installed",
    cause="programs complain, and what calls setlocale fails with 'unsupported locale setting'",
    fix="export LC_ALL=C.UTF-8 LANG=C.UTF-8",
    script="export LC_ALL=C.UTF-8 LANG=C.UTF-8",
)
NOT_UTF8 = fault(
    "environment.encoding.ascii",
    "warn",
    "Python reads and writes text in another encoding than UTF-8",
    cause="data sets, tokenizers and logs hold UTF-8: UnicodeDecodeError or UnicodeEncodeError ends the program",
    fix="export PYTHONUTF8=1; unset PYTHONIOENCODING",
    link="https://docs.python.org/3/library/os.html#utf8-mode",
    script="export PYTHONUTF8=1; unset PYTHONIOENCODING",
)
BAD_BYTES = fault(
    "environment.encoding.bytes",
    "warn",
    "A variable holds bytes that are no UTF-8",
    cause="printing or storing it raises UnicodeEncodeError, and what it names (a file, an interface) is not found",
    fix="unset <name>, or set it anew in a UTF-8 terminal",
)


@check("environment.encoding", "Text is UTF-8", needs=("environment.user",))
def encoding(context: Context) -> Iterator[Finding]:
    told, found = context.facts.get("text", {}), []
    settings = [name for name in ("LC_ALL", "LC_CTYPE", "LANG") if context.environ.get(name)]
    if told.get("locale_error"):
        found.append(NO_LOCALE.found(f"{assignments(context.environ, settings)}: {told['locale_error']}"))
    wrong = {
        what: told[what]
        for what in ("encoding", "stdout")
        if told.get(what) and told[what].lower().replace("-", "").replace("_", "") not in ("utf8", "utf8sig")
    }
    if wrong:
        causes = [
            *settings,
            *(n for n in ("PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE") if n in context.environ),
        ]
        found.append(
            NOT_UTF8.found(f"Python's encoding is {', '.join(wrong.values())} ({assignments(context.environ, causes)})")
        )
    for name in _not_text(context.environ):
        found.append(
            BAD_BYTES.found(f"{name}={_escaped(context.environ[name])} holds bytes that are no UTF-8", name=name)
        )
    yield from found
    if not found:
        yield passed(f"{told.get('encoding')}, {assignments(context.environ, settings) or 'no language is set'}")


def _not_text(environ: Mapping[str, str]) -> list[str]:
    """Of the variables that training reads: those that Python could only decode with surrogates."""
    return [name for name in shown_variables(environ) if _escaped(environ[name]) != environ[name]]


def _escaped(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


NO_SYSTEM_PATH = fault(
    "environment.path.system",
    "warn",
    "PATH lacks the folders of the system",
    cause="compilers, ldconfig and nvidia-smi are not found: torch.compile and Triton fail",
    fix='export PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"',
    script='export PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"',
)
RELATIVE_PATH = fault(
    "environment.path.relative",
    "warn",
    "PATH holds a relative folder",
    cause="which program runs depends on the working folder: a file called gcc or python there is run instead",
    fix="remove the entry from PATH in the start files of your shell (an empty one, as in '::', is the working folder)",
)


@check("environment.path", "PATH leads to the programs")
def path(context: Context) -> Iterator[Finding]:
    entries = context.environ.get("PATH", "").split(":")
    relative = [entry for entry in entries if not entry.startswith("/")] if "PATH" in context.environ else []
    found = []
    if not any(os.path.exists(os.path.join(entry, "sh")) for entry in entries if entry):
        text = context.environ.get("PATH")
        found.append(
            NO_SYSTEM_PATH.found("PATH is not set" if text is None else f"PATH={text} holds no folder with sh")
        )
    elif relative:
        named = ", ".join(entry or "(empty)" for entry in relative[:3])
        found.append(RELATIVE_PATH.found(f"PATH holds {len(relative)} relative folders: {named}"))
    yield from found
    if not found:
        mine = str(Path(context.python).parent)
        note = "" if mine in entries else f"; {mine} of the interpreter under test is not among them"
        yield passed(f"{len(entries)} folders{note}")
