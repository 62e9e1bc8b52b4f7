"""What a package's metadata asks of others: versions (PEP 440) and requirements (PEP 508), as far as doctor needs."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Version = tuple[tuple[int, ...], int]
"""Release without trailing zeros, number of the post-release."""

_VERSION = re.compile(r"\s*v?(?:\d+!)?(?P<release>\d+(?:\.\d+)*)(?:.*?[-_.]?post[-_.]?(?P<post>\d+))?")
_REQUIREMENT = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(?:@\s*\S+|\(?(?P<versions>[^;)]*)\)?)\s*(?:;(?P<marker>.*))?$"
)
_CLAUSE = re.compile(r"\s*(?P<operator>===|==|~=|!=|<=|>=|<|>)\s*(?P<version>[^\s,]+)\s*$")
_VERSIONS = ("python_version", "python_full_version", "implementation_version")
_COMPARE: dict[str, Callable[[Version, Version], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def canonical(name: str) -> str:
    """The name by which a package is known, however it is spelled (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version(text: str) -> Version:
    """The version in numbers. A pre-release counts as its release: nightly and vendors' builds are numbered so."""
    match = _VERSION.match(text)
    if match is None:
        return ((), 0)
    release = [int(part) for part in match["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release), int(match["post"] or 0)


def local(text: str) -> str:
    """What follows the ``+`` of a version: how it was built, e.g. ``cu130``."""
    return text.partition("+")[2].lower()


@dataclass(frozen=True)
class Requirement:
    """One line of ``Requires-Dist``.

    Attributes:
        name: canonical.
        versions: clauses, separated by commas; empty if any version will do.
        marker: when it applies; empty if always.
    """

    name: str
    versions: str
    marker: str

    @property
    def text(self) -> str:
        return f"{self.name}{self.versions}"

    @property
    def exact(self) -> bool:
        """Whether one single version is asked for, as packages with compiled parts do."""
        return self.versions.startswith("==") and "*" not in self.versions

    def allows(self, installed: str) -> bool:
        return all(_allows(clause, installed) for clause in self.versions.split(",") if clause.strip())

    def applies(self, environment: Mapping[str, str], extra: str = "") -> bool:
        """Whether its marker holds there; one that cannot be read does not."""
        if not self.marker:
            return not extra
        try:
            tree = ast.parse(self.marker.strip(), mode="eval").body
            return bool(_marker(tree, {**environment, "extra": extra})) and (not extra or "extra" in self.marker)
        except (SyntaxError, ValueError):
            return False


def parse(text: str) -> Requirement | None:
    """The requirement that a line of metadata tells; None if it is none."""
    match = _REQUIREMENT.match(text)
    if match is None:
        return None
    versions = re.sub(r"\s+", "", match["versions"] or "")
    return Requirement(canonical(match["name"]), versions, (match["marker"] or "").strip())


def _allows(clause: str, installed: str) -> bool:
    match = _CLAUSE.match(clause)
    if match is None:
        return True
    wanted, found = match["version"], version(installed)
    if match["operator"] == "===":
        return wanted == installed
    if match["operator"] in ("==", "!="):
        return _equals(wanted, installed) == (match["operator"] == "==")
    if match["operator"] == "~=":
        parts = wanted.split(".")
        return found >= version(wanted) and _equals(".".join([*parts[:-1], "*"]), installed)
    return _COMPARE[match["operator"]](found, version(wanted))


def _equals(wanted: str, installed: str) -> bool:
    if wanted.endswith(".*"):
        prefix = [int(part) for part in re.findall(r"\d+", wanted)]
        release = [int(part) for part in re.findall(r"\d+", (_VERSION.match(installed) or [""])[0])]
        return (release + [0] * len(prefix))[: len(prefix)] == prefix
    return version(wanted) == version(installed) and local(wanted) in ("", local(installed))


def _marker(node: ast.expr, environment: Mapping[str, str]) -> bool:
    """Markers have the grammar of Python's comparisons, but compare versions as such."""
    if isinstance(node, ast.BoolOp):
        parts = (_marker(value, environment) for value in node.values)
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = _operand(node.left, environment), _operand(node.comparators[0], environment)
        names = [part.id for part in (node.left, node.comparators[0]) if isinstance(part, ast.Name)]
        kind = type(node.ops[0])
        if kind in (ast.In, ast.NotIn):
            return (left in right) == (kind is ast.In)
        compare = _OPERATORS[kind]
        return compare(version(left), version(right)) if set(names) & set(_VERSIONS) else compare(left, right)
    raise ValueError(f"no marker: {ast.dump(node)}")


_OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _operand(node: ast.expr, environment: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name) and node.id in environment:
        return environment[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"no part of a marker: {ast.dump(node)}")
