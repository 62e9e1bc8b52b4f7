"""Where in a TOML file a key or value stands: the standard parser tells lines of wrong syntax only."""

from __future__ import annotations

import re
from collections import defaultdict

Location = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


class Lines:
    """Finds the line of a location such as ``("override", 1, "settings", "steps")``.

    Args:
        text: a TOML document that parses.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._known: dict[Location, int] = {}
        tables: defaultdict[Location, int] = defaultdict(lambda: -1)
        prefix: Location = ()
        for number, line in enumerate(self._lines, start=1):
            if header := _HEADER.match(line):
                name = self._within_arrays(_parts(header[2]), tables)
                if header[1] == "[[":
                    tables[name] += 1
                    name = (*name, tables[name])
                prefix = name
                self._known.setdefault(prefix, number)
            elif key := _KEY.match(line):
                path = prefix + _parts(key[1])
                self._known.setdefault(path, number)

    @staticmethod
    def _within_arrays(name: Location, tables: dict[Location, int]) -> Location:
        """``[override.settings]`` belongs to the newest ``[[override]]``."""
        path: Location = ()
        for position, part in enumerate(name):
            path = (*path, part)
            if position < len(name) - 1 and path in tables:
                path = (*path, tables[path])
        return path

    def find(self, location: Location, value: object = None) -> int | None:
        """The line (from 1) of a location, or of the nearest table around it.

        Args:
            location: keys and indices from the top of the document.
            value: where given, the line below the key on which this string stands (arrays over several lines).
        """
        for length in range(len(location), 0, -1):
            line = self._known.get(location[:length])
            if line is not None:
                return self._line_of(value, line) if isinstance(value, str) else line
        return None

    def _line_of(self, value: str, start: int) -> int:
        following = sorted(line for line in self._known.values() if line > start)
        end = following[0] if following else len(self._lines) + 1
        for number in range(start, end):
            if f'"{value}"' in self._lines[number - 1] or f"'{value}'" in self._lines[number - 1]:
                return number
        return start


def _parts(key: str) -> Location:
    return tuple(part.strip().strip("\"'") for part in key.split("."))
