"""The files that let a project's CI ask whether it got worse, filled in for the project."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.ci.project import Project, Service, for_pip, on_github, own_source
from llmbench.paths import PACKAGE
from llmbench.suite.load import shipped

# No name that anybody could own: a workflow that was not completed must run nobody else's code.
_UNKNOWN = {
    "github": "THE_OWNER/llmbench@THE_COMMIT",
    "gitlab": "git+https://THE_HOST/THE_OWNER/llmbench@THE_COMMIT",
}
_FILE = {"github": Path(".github", "workflows", "llmbench.yml"), "gitlab": Path("llmbench.gitlab-ci.yml")}
_PIPELINE = Path(".gitlab-ci.yml")


@dataclass(frozen=True)
class Written:
    """A file that is to be written, relative to the project's root."""

    path: Path
    text: str


@dataclass(frozen=True)
class Start:
    """What a project needs to begin.

    Attributes:
        files: the first holds what llmbench does.
        next: what the user has to do then, in order.
    """

    files: Sequence[Written]
    next: Sequence[str]


def starting(
    project: Project,
    service: Service,
    *,
    suite: str,
    workloads: Sequence[str] = (),
    source: str | None = None,
    out: Path | None = None,
) -> Start:
    """The files for a service.

    Args:
        suite: a name, or a path from the project's root.
        workloads: what is trained instead of the suite's, such as ``package.module:Workload``.
        source: where CI gets llmbench: what stands after ``uses:`` on GitHub, what pip installs on GitLab. Default:
            where this one came from.
        out: instead of the usual file, relative to the project's root.
    """
    known = source or _known(service)
    place = out or _FILE[service]
    steps = [] if known else [f"in {place}, write instead of {_UNKNOWN[service]} where llmbench is"]
    if not workloads and suite in shipped():
        steps.append(
            f"{suite} trains models of llmbench's own, which tells of torch and other packages; to judge the code of "
            "this project, name what it trains: --workload PACKAGE.MODULE:WORKLOAD, or a suite with it"
        )
    arguments = "\n".join(f"--workload={workload}" for workload in workloads)
    if service == "github":
        text = _github(project, suite, arguments, known or _UNKNOWN["github"])
        return Start([Written(place, text)], [*steps, *_after_github(place, project)])
    files = [Written(place, _gitlab(project, suite, arguments, known or _UNKNOWN["gitlab"]))]
    include = f"include:\n  - local: {json.dumps(f'/{place.as_posix()}', ensure_ascii=False)}\n"
    pipeline = _read(project.root / _PIPELINE)
    if pipeline is None and place != _PIPELINE:
        files.append(Written(_PIPELINE, include))
    elif pipeline is not None and place.name not in pipeline:
        steps.append(f"add to {_PIPELINE}:\n{include}")
    return Start(files, [*steps, *_after_gitlab(files, project)])


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _known(service: Service) -> str | None:
    """Where this llmbench came from, in the words of a service."""
    found = own_source()
    if found is None:
        return None
    url, commit = found
    if service == "gitlab":
        return for_pip(url, commit)
    repository = on_github(url)
    return f"{repository}@{commit}" if repository else None


def _github(project: Project, suite: str, arguments: str, action: str) -> str:
    words = {"INSTALL": project.install, "ACTION": action, "SUITE": suite, "ARGS": arguments}
    return re.sub(r"__([A-Z]+)__", lambda found: _yaml(words[found[1]]), template("github"))


def _gitlab(project: Project, suite: str, arguments: str, package: str) -> str:
    text = template("gitlab")
    for name, value in (("PACKAGE", package), ("SUITE", suite), ("ARGS", arguments)):
        text = _line(text, f"  LLMBENCH_{name}: ", _gitlab_value(value))
    return _line(text, "    - python -m pip install ", None, whole=f"    - {_yaml(project.install)}")


def _line(text: str, begin: str, value: str | None, whole: str | None = None) -> str:
    """The text with one line, found by how it begins, changed."""
    lines = text.split("\n")
    [place] = [index for index, line in enumerate(lines) if line.startswith(begin)]
    lines[place] = whole if whole is not None else f"{begin}{value}"
    return "\n".join(lines)


def _gitlab_value(value: str) -> str:
    """GitLab expands variables within the values of others; ``$$`` is a plain ``$``."""
    return _yaml(value.replace("$", "$$"))


def _yaml(value: str) -> str:
    """A scalar, plain where that is the same; YAML reads JSON's strings."""
    plain = re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./@ :+=-]*", value) and not re.search(r": |:$| $", value)
    words = value.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "~")
    number = re.fullmatch(r"[0-9._+e-]*", value)
    return value if plain and not words and not number else json.dumps(value, ensure_ascii=False)


def template(service: Service) -> str:
    """A file for any project; GitLab can include it as it is."""
    return (PACKAGE / "ci" / f"{service}.yml").read_text(encoding="utf-8")


def _after_github(place: Path, project: Project) -> list[str]:
    return [
        f"see that `{project.install}` brings torch",
        f"git add {place} && git commit -m 'Gate: did training get worse?' && git push",
        "open a pull request; its comment, checks and artifact show the verdict",
    ]


def _after_gitlab(files: Sequence[Written], project: Project) -> list[str]:
    named = " ".join(str(file.path) for file in files)
    return [
        f"see that `{project.install}` brings torch",
        f"git add {named} && git commit -m 'Gate: did training get worse?' && git push",
        "open a merge request; its test report and artifacts show the verdict",
        "for notes on merge requests: an access token (scope api) as the masked variable LLMBENCH_TOKEN",
        "for the nightly self-check: Build > Pipeline schedules",
    ]
