"""Where torch.compile keeps what it builds, and the variables that steer it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

_USERS = {"inductor": "torch.compile", "triton": "Triton"}
_VARIABLES = {"inductor": "TORCHINDUCTOR_CACHE_DIR", "triton": "TRITON_CACHE_DIR"}
_LONG_LOCK = 600.0
"""Seconds: torch.compile gives up waiting for a lock after as many."""
_STALE = 1800.0
"""Seconds without any change in the folder of an extension that is said to be built."""

_ELSEWHERE = "export <variable>=<folder that you can write, on a local disk>"
_DENIED = fault(
    "compile.cache.denied",
    "fail",
    "The cache folder of torch.compile cannot be written",
    cause="<user> writes every kernel there before it can be loaded: it fails",
    fix=f"{_ELSEWHERE}",
)
_FOREIGN = fault(
    "compile.cache.foreign",
    "fail",
    "The cache folder of torch.compile belongs to somebody else",
    cause="<user> fails with 'Permission denied': another user, or root in a container that shares the folder, made it "
    "under the same name",
    fix=f"{_ELSEWHERE}; or chown -R what is named to yourself",
    link="https://github.com/pytorch/pytorch/issues/121122",
)
_NOEXEC = fault(
    "compile.cache.noexec",
    "fail",
    "The cache folder of torch.compile forbids to load libraries",
    cause="<user> loads the kernels that it builds from there, and fails with 'failed to map segment from shared "
    "object': "
    "the file system is mounted noexec",
    fix="export <variable>=<folder on a file system without noexec>, such as one below your home; or mount -o "
    "remount,exec it",
    link="https://github.com/pytorch/pytorch/issues/91005",
)
_NO_LOCKS = fault(
    "compile.cache.locks",
    "fail",
    "The cache folder of torch.compile cannot lock files",
    cause="<user> locks a file for each kernel that it builds; on a network file system without locks this fails "
    "or hangs",
    fix=_ELSEWHERE,
)
_HELD = fault(
    "compile.cache.held",
    "warn",
    "A process holds a lock of torch.compile for long",
    cause="whoever compiles the same kernel waits for it, and fails after ten minutes: the holder hangs or was stopped",
    fix="look at it with ps -o pid,stat,etime,cmd -p <process>, and end it if it hangs: kill <process>",
)
_BATON = fault(
    "compile.cache.baton",
    "warn",
    "A lock was left where C++ extensions are built",
    cause="torch.utils.cpp_extension.load waits for this file to vanish, without end and without a word: the "
    "build that "
    "made it was killed",
    fix="if nobody builds it now: rm -f <lock>",
)


@check(
    "compile.cache",
    "What torch.compile builds can be kept and loaded",
    deadline=15,
    needs=("python.starts",),
    follows=("storage.temporary", "storage.extensions"),
)
def cache(context: Context) -> Iterator[Finding]:
    """Makes, locks and maps a file in the folders of inductor and Triton, found as these find them."""
    outcome = context.probe("compile_cache", {"stale_seconds": _STALE})
    found = outcome.answer
    if "inductor" not in found and not outcome.timed_out:
        yield skipped(f"looking at the folders {outcome.ending}")
        return
    faults = []
    for name in _VARIABLES:
        if name in found:
            faults += list(_judge(name, found[name], found.get(f"{name}_locks", [])))
    faults += [
        _BATON.found(
            f"{baton['path']}: nothing has changed beside it for {_span(baton['seconds'])}", lock=baton["path"]
        )
        for baton in found.get("stale", [])
    ]
    if outcome.timed_out:
        name = next((name for name in ("inductor", "triton") if name not in found), "inductor")
        faults.append(
            _NO_LOCKS.found(
                f"looking at the folder of {_USERS[name]} {outcome.ending}",
                cause="a file system below it does not answer: torch.compile hangs there too",
                variable=_VARIABLES[name],
            )
        )
    yield from faults
    if not faults:
        shown = ", ".join(found[name]["path"] for name in _VARIABLES if name in found)
        yield passed(f"{shown}: files can be made, locked and mapped as code")


def _judge(name: str, found: dict[str, Any], locks: list[dict[str, Any]]) -> Iterator[Finding]:
    values: dict[str, Any] = {"user": _USERS[name], "variable": _VARIABLES[name]}
    path = found["path"]
    named = f"{found['variable']}={path}" if found["variable"] in _VARIABLES.values() else path
    where = "" if found["looked_at"] == path else f" ({found['looked_at']})"
    if found.get("error"):
        denied = found.get("errno") in ("EACCES", "EPERM")
        strange = denied and found.get("owner") not in (None, _me(), "root" if where else None)
        theirs = f", it belongs to {found['owner']}" if "owner" in found else ""
        yield (_FOREIGN if strange and not where else _DENIED).found(
            f"the cache folder {named} of {_USERS[name]}{where} cannot be written: {found['error']}{theirs}", **values
        )
        return
    if found.get("foreign"):
        foreign = found["foreign"]
        yield _FOREIGN.found(f"{foreign['path']} cannot be written: it belongs to {foreign['owner']}", **values)
    if found.get("map"):
        yield _NOEXEC.found(
            f"a file in the cache folder {named} of {_USERS[name]}{where} cannot be mapped as code "
            f"(noexec): {found['map']}",
            **values,
        )
    if found.get("lock"):
        yield _NO_LOCKS.found(f"a file in the cache folder {named}{where} cannot be locked: {found['lock']}", **values)
    for lock in locks:
        if lock["seconds"] > _LONG_LOCK or lock["state"] == "T":
            stopped = ", which is stopped" if lock["state"] == "T" else ""
            yield _HELD.found(
                f"{lock['path']} is held since {_span(lock['seconds'])} by process {lock['pid']}{stopped}",
                process=lock["pid"],
            )


def _me() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds > 2 * 3600 else f"{seconds / 60:.0f} min"


_NAMELESS = fault(
    "compile.user.nameless",
    "fail",
    "The user has no name",
    cause="torch asks for the name of the user to find its cache folder, and fails with 'getpwuid(): uid not "
    "found': the "
    "container runs as a user id that its /etc/passwd does not list",
    fix="export USER=<any name>, or export TORCHINDUCTOR_CACHE_DIR=<folder>",
)


@check("compile.user", "torch.compile can name its user", needs=("torch.import",))
def user(context: Context) -> Iterator[Finding]:
    """getpass.getuser, which older torch calls unprotected: variables first, then the list of users."""
    names = [name for name in ("LOGNAME", "USER", "LNAME", "USERNAME") if context.environ.get(name)]
    if names:
        yield passed(f"{names[0]} is set")
        return
    try:
        yield passed(f"{pwd.getpwuid(os.getuid()).pw_name}, in the list of users")
        return
    except KeyError:
        evidence = f"user id {os.getuid()} is in no list of users, and neither USER nor LOGNAME is set"
    if context.environ.get("TORCHINDUCTOR_CACHE_DIR") or _asks_with_care(context):
        yield passed(f"{evidence}; this torch copes with it")
    else:
        yield _NAMELESS.found(evidence)


def _asks_with_care(context: Context) -> bool:
    folder = Path(context.facts["torch"]["file"]).parent / "_inductor" / "runtime"
    sources = [_text(folder / name) for name in ("cache_dir_utils.py", "runtime_utils.py")]
    asking = [source for source in sources if "getpass.getuser()" in source]
    return all(re.search(r"try:\s+\w+ = getpass\.getuser\(\)", source) for source in asking)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


_NUMBER = fault(
    "compile.settings.number",
    "fail",
    "A variable of torch.compile holds no number",
    cause="torch turns <variable> into a number when torch.compile is first used, and raises ValueError",
    fix="unset <variable>, or set it to a whole number",
)
_SWITCH = fault(
    "compile.settings.switch",
    "warn",
    "A switch of torch.compile is neither 0 nor 1",
    cause="torch knows only 0 and 1 for <variable>: any other word does not do what it says",
    fix="export <variable>=1, or =0",
)
_CHOICE = fault(
    "compile.settings.choice",
    "fail",
    "A variable of torch.compile holds a value that it does not know",
    cause="torch.compile fails when it reads <variable>",
    fix="unset <variable>, or set it to one of: <choices>",
)
_UNKNOWN = fault(
    "compile.settings.unknown",
    "warn",
    "A variable of torch.compile has a name that torch does not know",
    cause="no part of this torch reads <variable>: it is misspelt, or of another version, and has no effect",
    fix="unset <variable>, or correct its name",
)
_JOBS = fault(
    "compile.settings.jobs",
    "warn",
    "MAX_JOBS is no number",
    cause="torch ignores it: builds of C++ extensions start a compiler for every CPU, and may run out of memory",
    fix="export MAX_JOBS=4, or unset MAX_JOBS",
)

# How torch's sources read a variable.
_AS_NUMBER = r'(?:int|float)\(\s*os\.(?:environ\.get\(|getenv\(|environ\[)\s*"(\w+)"'
_AS_SWITCH = (
    r'os\.(?:environ\.get|getenv)\(\s*"(\w+)"(?:[^()]|\(\))*\)\s*==\s*"1"',
    r'get_tristate_env\(\s*"(\w+)"',
    r'Config\((?=[^)]*\b(?:True|False)\b)[^)]*?env_name_(?:force|default)="(\w+)"',
)
_CHOICES = {"TORCHINDUCTOR_WORKER_START": ("subprocess", "fork", "spawn")}


@check("compile.settings", "Variables of torch.compile hold what torch can read", needs=("torch.import",))
def settings(context: Context) -> Iterator[Finding]:
    """Looks up in the sources of the installed torch how each variable is read."""
    torch = Path(context.facts["torch"]["file"]).parent
    named = {k: v for k, v in context.environ.items() if k.startswith(("TORCHINDUCTOR_", "TORCHDYNAMO_"))}
    faults = list(_wrong(torch, named)) if named else []
    jobs = context.environ.get("MAX_JOBS")
    if jobs and not jobs.strip().isdigit():
        faults.append(_JOBS.found(f"MAX_JOBS={jobs}"))
    yield from faults
    if not faults:
        yield passed(f"{len(named)} are set" if named else "none is set")


def _wrong(torch: Path, named: dict[str, str]) -> Iterator[Finding]:
    sources = "".join(_text(torch / area / "config.py") for area in ("_inductor", "_dynamo"))
    if not sources:
        return
    numbers = set(re.findall(_AS_NUMBER, sources))
    switches = {name for pattern in _AS_SWITCH for name in re.findall(pattern, sources)}
    for name, value in named.items():
        shown = f"{name}={value}"
        if name in numbers and not _is_number(value):
            yield _NUMBER.found(shown, variable=name)
        elif name in _CHOICES and value not in _CHOICES[name]:
            yield _CHOICE.found(shown, variable=name, choices=", ".join(_CHOICES[name]))
        elif name in switches and value not in ("0", "1", ""):
            yield _SWITCH.found(shown, variable=name)
        elif name not in sources and not _is_read(torch, name):
            yield _UNKNOWN.found(f"{shown}: the name does not occur in {torch}", variable=name)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_read(torch: Path, name: str) -> bool:
    """Whether a source file of torch names the variable."""
    folders = ("_inductor", "_dynamo", "_functorch", "utils", "fx", "_higher_order_ops")
    return any(name in _text(path) for folder in folders for path in (torch / folder).rglob("*.py"))
