"""Manifests as YAML that people read and every parser reads alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Parsers do not agree on what else is text: 1e3, 0o17, 12:30, on, ~ …
_PLAIN = re.compile(r"[A-Za-z/-]{0,2}[A-Za-z][A-Za-z0-9/._=-]*", re.ASCII)
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "none"))


def to_yaml(documents: Iterable[dict[str, Any]]) -> str:
    """The documents, divided by ``---``. Text that another parser might take for something else is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # it is seen as Any
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        plain = _PLAIN.fullmatch(value) and value.lower().lstrip("-.") not in _WORDS
        style = "|" if _is_block(value) else None if plain else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(
        yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=False, width=120, explicit_start=True)
    )


def _is_block(value: str) -> bool:
    """Whether it is the text of a file, which reads better as it is."""
    printable = all(char == "\n" or " " <= char <= "~" for char in value)
    lines = value.split("\n")
    return printable and len(lines) > 1 and not value[0].isspace() and not any(line.endswith(" ") for line in lines)
