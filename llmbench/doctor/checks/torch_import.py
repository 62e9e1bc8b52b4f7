"""The import of torch: every way in which it fails has a cause and a fix of its own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.checks.installing import install, reinstall
from llmbench.doctor.checks.registry import check
from llmbench.doctor.checks.torch_import_faults import (
    ABORTS,
    BACKEND,
    CAUSES,
    CRASHES,
    DEPENDENCY,
    DIES_AFTER,
    ENDS,
    HANGS,
    LINKING,
    MISSING,
    NOISE,
    OLD_DEPENDENCY,
    OTHER_PACKAGE,
    PROVIDERS,
    RAISES,
    SIGNALS,
    SLOW,
    SYNTAX,
    VARIABLE,
)
from llmbench.doctor.model import Fault, Finding, passed
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

_SLOW_IMPORT = 15.0
_MOST_TRIALS = 4

# What of a process that imports torch is known to say, and is told elsewhere.
_HARMLESS = re.compile(
    r"numpy|_ARRAY_API|ld\.so|LD_PRELOAD|CUDA initialization|Warning:|Error processing line|^File ", re.I
)
_STACK = re.compile(r'File "|(Current )?[Tt]hread 0x|<no Python|Stack \(most recent')
_STANDARD = re.compile(r"/lib(64)?/python3\.\d+/(?!site-packages/|dist-packages/)")
_ALARMING = re.compile(r"\b(error|fatal|failed|cannot|could not|exception)\b", re.I)


@check(
    "torch.import",
    "torch imports",
    deadline=30,
    needs=("environment.folder", "python.starts"),
    follows=(
        "environment.values",
        "cpu.memory",
        "cpu.limits",
        "torch.files",
        "python.shadow",
        "python.path",
        "python.environment",
        "python.modules",
        "python.requirements",
        "torch.libraries",
    ),
)
def import_(context: Context) -> Iterator[Finding]:
    """Keeps what torch says of itself as fact ``torch``."""
    outcome = context.import_torch()
    found = outcome.answer
    if "version" not in found:
        yield _failure(context, outcome)
        return
    context.facts["torch"] = found
    if outcome.signal:
        yield DIES_AFTER.found(
            f"torch {found['version']} imports, but then its process {outcome.ending}{_where(outcome)}"
        )
        return
    if found["seconds"] > _SLOW_IMPORT:
        yield SLOW.found(f"import torch took {found['seconds']:.0f} s")
    said = _complaint(outcome.noise)
    if said:
        yield NOISE.found(f"import torch printed: {said}")
    if not said and found["seconds"] <= _SLOW_IMPORT:
        yield passed(f"torch {found['version']} in {found['seconds']:.1f} s")


def _complaint(noise: str) -> str | None:
    """The first line that speaks of an error. The stacks of a slow import are none."""
    for line in _without_stacks(noise):
        if _ALARMING.search(line) and not _HARMLESS.search(line):
            return line[:300]
    return None


def _without_stacks(noise: str) -> list[str]:
    lines = [line.strip() for line in noise.splitlines()]
    return [line for line in lines if line and not _STACK.match(line)]


def _failure(context: Context, outcome: Outcome) -> Finding:
    """The finding for an import that did not come back."""
    return (
        _told_by_exception(context, outcome)
        or _told_by_message(context, outcome)
        or _told_by_trial(context, outcome)
        or _told_by_ending(context, outcome)
    )


def _evidence(outcome: Outcome) -> str:
    return f"import torch {_ending(outcome)}{_where(outcome)}"


def _ending(outcome: Outcome) -> str:
    """How it ended; of an exception the first line that says something, and what it was raised from."""
    if outcome.error is None:
        return outcome.ending
    said = [line.strip() for line in outcome.error["message"].splitlines() if line.strip()]
    because = outcome.answer.get("failure", {}).get("because", "").partition("\n")[0]
    reason = f", since {because}" if because and because not in said else ""
    return f"raised {outcome.error['type']}{': ' + said[0] if said else ''}{reason}"


def _where(outcome: Outcome) -> str:
    """The innermost place of the import: of the exception, the crash, or the hang."""
    place = _place(outcome)
    if place is None:
        return ""
    file, line, source = place
    return f", at {file}:{line}" + (f" ({source})" if source else "")


def _place(outcome: Outcome) -> tuple[str, int, str] | None:
    frames = outcome.answer.get("failure", {}).get("frames", [])
    if frames:
        file, line, _, source = next((f for f in reversed(frames) if not _STANDARD.search(f[0])), frames[-1])
        return file, line, source
    if not (outcome.signal or outcome.timed_out):
        return None
    # The stack of the thread that crashed, or hangs, innermost first; the import machinery and the probe tell nothing.
    _, _, stack = outcome.noise.rpartition("Stack (most recent" if outcome.timed_out else "Current thread")
    places = re.findall(r'File "([^"<]+)", line (\d+)', stack.partition("\nThread 0x")[0])
    for file, line in places:
        if not file.endswith(("/probes/run.py", "/probes/torch_import.py")) and not _STANDARD.search(file):
            return file, int(line), _source(file, int(line))
    return None


def _source(file: str, line: int) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            return next((text.strip() for number, text in enumerate(lines, 1) if number == line), "")
    except OSError:
        return ""


def _told_by_exception(context: Context, outcome: Outcome) -> Finding | None:
    """Where the kind of the exception says enough: modules and names that are not there."""
    error, circumstances = outcome.error or {}, outcome.answer.get("failure", {})
    missing = error.get("module", "")
    if error.get("type") == "ModuleNotFoundError" and missing == "torch":
        return MISSING.found(f"No module named 'torch' in {context.python}", install=install(context, "torch"))
    backend = re.search(r"Failed to load the backend extension: (\S+?)\.?\s", error.get("message", "") + " ")
    if backend:
        return _backend(context, outcome, backend.group(1))
    if error.get("type") == "ModuleNotFoundError" and missing and not missing.startswith("torch."):
        return DEPENDENCY.found(
            f"{_evidence(outcome)}: {missing} is not installed", module=missing, install=install(context, missing)
        )
    if error.get("type") in ("SyntaxError", "IndentationError"):
        return SYNTAX.found(_evidence(outcome), reinstall=reinstall(context))
    wanted = circumstances.get("wanted", {})
    if wanted.get("requirement"):
        requirement = wanted["requirement"].partition(";")[0].strip()
        version = wanted.get("version", "of an unknown version")
        return OLD_DEPENDENCY.found(
            f"import torch {outcome.ending}: {wanted['module']} {version} is installed ({wanted['file']}), "
            f"and torch requires {requirement}",
            module=wanted["module"],
            install=install(context, f'"{requirement}"', "--upgrade"),
        )
    return None


def _backend(context: Context, outcome: Outcome, name: str) -> Finding:
    failure = outcome.answer.get("failure", {})
    of = next((entry for entry in failure.get("backends", []) if entry[0] == name), None)
    package = of[2] if of else name
    described = f"{of[2]} {of[3]} (entry point torch.backends: {of[0]} = {of[1]})" if of else f"the backend {name}"
    because = f": {failure['because']}" if failure.get("because") else ""
    return BACKEND.found(
        f"import torch fails: the backend extension {name} of {described} does not load{because}",
        package=package,
        command=f"{context.python} -m pip uninstall {package}, or export TORCH_DEVICE_BACKEND_AUTOLOAD=0",
    )


def _told_by_message(context: Context, outcome: Outcome) -> Finding | None:
    """Where the words of the linker, of torch or of a library are known."""
    error = outcome.error or {}
    because = outcome.answer.get("failure", {}).get("because", "")
    raised = f"{error.get('type')}: {error.get('message')}\n{because}" if error else ""
    for text in (raised, "\n".join(_without_stacks(outcome.noise))):
        for pattern, known in CAUSES:
            match = re.search(pattern, text)
            if match is None:
                continue
            values: dict[str, Any] = {name: value for name, value in match.groupdict().items() if value}
            values |= {"reinstall": reinstall(context), "folder": _package_folder(context, outcome)}
            values["provider"] = _provider(values.get("library", ""))
            evidence = _evidence(outcome)
            if match.group(0) not in evidence:
                evidence += f"; it said: {_line(text, match)}"
            if known in LINKING:
                evidence += _without_linker_variables(context)
            return known.found(evidence + _variables_named(context, text), **values)
    return None


def _without_linker_variables(context: Context) -> str:
    """Tries the import without what changes the dynamic linker, and says so if that helps."""
    names = [name for name in ("LD_LIBRARY_PATH", "LD_PRELOAD") if context.environ.get(name)]
    if not names or "version" not in context.probe("torch_import", environ=dict.fromkeys(names)).answer:
        return ""
    return f"; without {', '.join(f'{name}={context.environ[name]}' for name in names)} it succeeds"


def _provider(library: str) -> str:
    return next((provider for start, provider in PROVIDERS if library.startswith(start)), "another package")


def _line(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    return text[start:].splitlines()[0][:300]


def _variables_named(context: Context, text: str) -> str:
    """Of what the message speaks: a variable's name, or a file in a folder that one of the linker's variables gives."""
    named = []
    for name, value in sorted(context.environ.items()):
        parts = [part for part in re.split("[: ]+", value) if len(part) > 1]
        if name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH"):
            told = any(part in text for part in parts)
        else:
            told = name.startswith(("TORCH", "PYTORCH")) and name in text
        if told:
            named.append(f"{name}={value}")
    return f" (set is {', '.join(named)})" if named else ""


def _package_folder(context: Context, outcome: Outcome) -> str:
    origin = (context.facts.get("torch_files") or {}).get("origin")
    files = [origin or "", *(frame[0] for frame in outcome.answer.get("failure", {}).get("frames", []))]
    return next((os.path.dirname(file) for file in files if file.endswith("/torch/__init__.py")), "the folder of torch")


def _told_by_trial(context: Context, outcome: Outcome) -> Finding | None:
    """Tries the import again without each variable that could be to blame: with which it comes back, that one is."""
    suspects = _suspects(context.environ, outcome)
    if not suspects:
        return None
    limit = 10.0 if outcome.timed_out else None
    if outcome.timed_out or len(suspects) > _MOST_TRIALS:
        # A trial that hangs is dear: all at once, and who of them it is stays open.
        suspects = [{name: value for suspect in suspects for name, value in suspect.items()}]
    for changes in suspects:
        trial = context.probe("torch_import", environ=changes, deadline=limit)
        if "version" not in trial.answer:
            continue
        named = ", ".join(f"{name}={context.environ[name]}" for name in changes if name in context.environ)
        if not named:
            return _autoloaded(context, outcome)
        commands = [f"unset {name}" if value is None else f"export {name}={value}" for name, value in changes.items()]
        return VARIABLE.found(
            f"{_evidence(outcome)}; without {named} it succeeds", variables=named, command="; ".join(commands)
        )
    return None


def _suspects(environ: Mapping[str, str], outcome: Outcome) -> list[dict[str, str | None]]:
    """Variables that reach into the import, each as the change that takes its effect away."""
    telling = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GLIBC_TUNABLES", "MALLOC_CONF", "PYTHONOPTIMIZE")
    found: list[dict[str, str | None]] = [{name: None} for name in telling if environ.get(name)]
    found += [{name: None} for name in sorted(environ) if name.startswith(("TORCH", "PYTORCH")) and environ[name]]
    if outcome.signal or outcome.timed_out:
        found += [
            {name: None} for name in sorted(environ) if re.match(r"(OMP|MKL|KMP|GOMP|OPENBLAS|CUDA|NVIDIA)_", name)
        ]
    if outcome.answer.get("failure", {}).get("backends") and "TORCH_DEVICE_BACKEND_AUTOLOAD" not in environ:
        found.append({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    return found


def _autoloaded(context: Context, outcome: Outcome) -> Finding:
    backends = outcome.answer["failure"]["backends"]
    return _backend(context, outcome, backends[0][0])


def _told_by_ending(context: Context, outcome: Outcome) -> Finding:
    """Where nothing is known but how it ended, and where."""
    other = _foreign_package(outcome)
    values: dict[str, Any] = {"reinstall": reinstall(context), "other": other}
    if other:
        values["install"] = install(context, other, "--force-reinstall", "--no-deps")
    evidence = _evidence(outcome)
    if outcome.timed_out:
        return HANGS.found(evidence, **values)
    if outcome.signal:
        said = next(iter(reversed(_without_stacks(outcome.noise.partition("Fatal Python error")[0]))), "")
        known: Fault = SIGNALS.get(outcome.signal, CRASHES)
        if known is ABORTS and said:
            evidence += f"; it said: {said[:300]}"
        if other and known is CRASHES:
            return OTHER_PACKAGE.found(evidence, **values)
        return known.found(evidence, **values)
    if outcome.error is None:
        return ENDS.found(f"{evidence}{_said(outcome)}", **values)
    if other:
        return OTHER_PACKAGE.found(evidence, **values)
    return RAISES.found(evidence, **values)


def _said(outcome: Outcome) -> str:
    lines = _without_stacks(outcome.noise)
    return f"; it said: {lines[-1][:300]}" if lines else ""


def _foreign_package(outcome: Outcome) -> str:
    """The package, other than torch, in whose file it ended."""
    place = _place(outcome)
    match = re.search(r"/(?:site|dist)-packages/(\w+)", place[0]) if place else None
    if match is None or match.group(1) == "torch":
        match = re.search(
            r"module '(\w+)' has no attribute|from '(\w+)' \(unknown", (outcome.error or {}).get("message", "")
        )
    name = next((group for group in match.groups() if group), "") if match else ""
    return "" if name == "torch" or name in sys.stdlib_module_names else name
