"""How pip is configured: where it installs from, and to."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from llmbench.doctor import system
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

PIP_CONFIG = fault(
    "python.pip.config",
    "warn",
    "pip's configuration cannot be read",
    cause="pip ends with an error at every call, so nothing can be installed",
    fix="mend or remove <file>",
    link="https://pip.pypa.io/en/stable/topics/configuration/",
)
PIP_ELSEWHERE = fault(
    "python.pip.elsewhere",
    "warn",
    "pip is told to install elsewhere",
    cause="pip puts packages where this environment does not look first: what you install is not what is imported",
    fix="<undo>",
    link="https://pip.pypa.io/en/stable/topics/configuration/",
)
PIP_INDEX = fault(
    "python.pip.index",
    "warn",
    "pip has no index to install from",
    cause="pip finds no package at all: 'No matching distribution found for torch'",
    fix="<undo>",
    link="https://pip.pypa.io/en/stable/cli/pip_install/",
)
PIP_CPU = fault(
    "python.pip.cpu",
    "warn",
    "pip takes torch from the index of CPU builds, on a machine with a GPU",
    cause="every install or upgrade of torch brings a build without CUDA",
    fix="<undo>",
    link="https://pytorch.org/get-started/locally/",
)
PIP_CONSTRAINT = fault(
    "python.pip.constraint",
    "warn",
    "pip's constraints file is gone",
    cause="pip ends with an error at every install",
    fix="<undo>",
    link="https://pip.pypa.io/en/stable/user_guide/#constraints-files",
)
PIP_MANAGED = fault(
    "python.pip.managed",
    "warn",
    "This Python belongs to the system: pip refuses to install torch",
    cause="the distribution marks its Python as externally managed (PEP 668)",
    fix="<python> -m venv ~/torch && ~/torch/bin/python -m pip install torch; then: "
    "llmbench doctor --python ~/torch/bin/python",
    link="https://peps.python.org/pep-0668/",
)


@check("python.pip", "pip can install packages", needs=("python.starts",))
def pip(context: Context) -> Iterator[Finding]:
    python = context.facts["python"]
    settings, broken = _pip_settings(context)
    faults = [*broken, *_pip_faults(context, settings)]
    if python["managed"] and not python["virtual_environment"] and not python["torch"]:
        faults.append(PIP_MANAGED.found(f"{python['prefix']}: EXTERNALLY-MANAGED beside its standard library"))
    yield from faults
    if faults:
        return
    index = f"; index {_place(settings['index-url'][1])}" if "index-url" in settings else ""
    if python["pip"]:
        yield passed(f"pip is there{index}")
    else:
        # Many environments are made by other installers and never need it.
        yield skipped(f"no pip in this environment; where a fix needs it: {context.python} -m ensurepip")


Settings = dict[str, tuple[str, str]]
"""By name as on pip's command line: where it is set, and the value."""


def _pip_settings(context: Context) -> tuple[Settings, list[Finding]]:
    """As pip reads them: files of the system, the user and the environment, then variables."""
    home = context.environ.get("HOME") or "/nowhere"
    configuration = context.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    prefix = context.facts["python"]["prefix"]
    users = [os.path.join(home, ".pip", "pip.conf"), os.path.join(configuration, "pip", "pip.conf")]
    files = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf", *users, os.path.join(prefix, "pip.conf")]
    files.append(context.environ.get("PIP_CONFIG_FILE", ""))
    settings: Settings = {}
    broken = []
    for path in files:
        text = system.read(path) if path and os.path.isfile(path) else None
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(text or "")
        except configparser.Error as error:
            # The message quotes the file, which may hold a password.
            evidence = f"{path} is no valid configuration: {type(error).__name__}, line {getattr(error, 'lineno', '?')}"
            broken.append(PIP_CONFIG.found(evidence, file=path))
            continue
        for section in [name for name in ("global", "install") if parser.has_section(name)]:
            settings.update({key.replace("_", "-"): (path, value.strip()) for key, value in parser.items(section)})
    for name, value in context.environ.items():
        if name.startswith("PIP_") and value:
            settings[name[4:].lower().replace("_", "-")] = (name, value)
    return settings, broken


def _pip_faults(context: Context, settings: Settings) -> Iterator[Finding]:
    for name in ("target", "prefix", "root", "user"):
        if name in settings and settings[name][1].lower() not in ("0", "false", "no", "off"):
            where, value = settings[name]
            yield PIP_ELSEWHERE.found(f"{where} sets pip's --{name} to {value}", undo=_undo(where, name))
    for name in ("constraint", "requirement"):
        where, value = settings.get(name, ("", ""))
        gone = [file for file in value.split() if file.startswith("/") and not os.path.exists(file)]
        if gone:
            yield PIP_CONSTRAINT.found(f"{where} names {gone[0]}, which does not exist", undo=_undo(where, name))
    links = settings.get("find-links", ("", ""))[1].split()
    if settings.get("no-index", ("", "0"))[1].lower() in ("1", "true", "yes", "on"):
        if not any(_exists(link) for link in links):
            where = settings["no-index"][0]
            found = f"find-links is {_place(links[0])}, which does not exist" if links else "there is no find-links"
            yield PIP_INDEX.found(f"{where} sets --no-index, and {found}", undo=_undo(where, "no-index"))
        return
    where, value = settings.get("index-url", ("", ""))
    if value and not _exists(value):
        evidence = f"{where} sets index-url to {_place(value)}, which is no index or does not exist"
        yield PIP_INDEX.found(evidence, undo=_undo(where, "index-url"))
    for name in ("index-url", "extra-index-url"):
        where, value = settings.get(name, ("", ""))
        if re.search(r"/whl/(?:[a-z]+/)?cpu\b", value) and nvidia_devices():
            evidence = f"{where} sets {name} to {_place(value)}, and there is {nvidia_devices()[0]}"
            yield PIP_CPU.found(evidence, undo=_undo(where, name))


def _exists(url: str) -> bool:
    """Whether an index may be there: the network is not asked, but a folder must exist."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return os.path.exists(unquote(parts.path))
    return bool(parts.hostname) and parts.scheme in ("http", "https")


def _place(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url.split()[0])
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else parts.path


def _undo(where: str, name: str) -> str:
    return f"unset {where}" if where.startswith("PIP_") else f"take {name} out of {where}"
