"""Where in a TOML file keys and values stand: the standard parser tells lines of wrong syntax only."""

from __future__ import annotations

import re
import tomllib

Location = tuple[str | int, ...]

# Comments and strings are matched whole, so that nothing inside them is taken for structure.
_TOKEN = re.compile(
    r'''
    (?P<blank> [ \t\r]+ | \#[^\n]* )
    | """ (?: \\. | [^\\] )*? "{3,5}
    | \'\'\' .*? \'{3,5}
    | " (?: \\. | [^"\\] )* "
    | ' [^']* '
    | [\[\]{}=,.\n]
    | [^\s\[\]{}=,."'\#]+
    ''',
    re.VERBOSE | re.DOTALL,
)


class Lines:
    """Finds the line of a location such as ``("override", 1, "settings", "steps")``.

    Args:
        text: a TOML document that parses.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {}
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            if match["blank"] is None:
                self._tokens.append((match[0], line))
            line += match[0].count("\n")
        self._tokens.append(("", line))
        self._at = 0
        self._document()

    def find(self, location: Location) -> int | None:
        """The line (from 1) of a key or array element, or of the nearest table or array around it."""
        for length in range(len(location), 0, -1):
            if location[:length] in self._lines:
                return self._lines[location[:length]]
        return None

    def _document(self) -> None:
        table: Location = ()
        newest: dict[Location, int] = {}
        while self._peek(over_lines=True):
            if self._peek() == "[":
                table = self._header(newest)
            else:
                self._pair(table)

    def _header(self, newest: dict[Location, int]) -> Location:
        """``[a.b]``, or ``[[a.b]]``; ``a`` means the newest table of an array ``[[a]]``."""
        self._take()
        is_array = self._peek() == "["
        if is_array:
            self._take()
        line, parts = self._key()
        path: Location = ()
        for part in parts[:-1]:
            path = (*path, part)
            self._lines.setdefault(path, line)
            path = (*path, newest[path]) if path in newest else path
        path = (*path, parts[-1])
        if is_array:
            self._take()
            self._lines.setdefault(path, line)
            newest[path] = newest.get(path, -1) + 1
            path = (*path, newest[path])
        self._take()
        self._lines[path] = line
        return path

    def _pair(self, table: Location) -> None:
        line, parts = self._key()
        for length in range(1, len(parts) + 1):
            self._lines.setdefault(table + parts[:length], line)
        self._take()  # =
        self._value(table + parts)

    def _key(self) -> tuple[int, Location]:
        line = self._tokens[self._at][1]
        parts = [_plain(self._take())]
        while self._peek() == ".":
            self._take()
            parts.append(_plain(self._take()))
        return line, tuple(parts)

    def _value(self, location: Location) -> None:
        opening = self._take()
        if opening == "[":
            self._array(location)
        elif opening == "{":
            while self._peek(over_lines=True) != "}":
                if self._peek() == ",":
                    self._take()
                else:
                    self._pair(location)
            self._take()
        else:  # of a number or a date, which may be several tokens
            while self._peek() not in ("\n", ",", "]", "}", ""):
                self._take()

    def _array(self, location: Location) -> None:
        index = 0
        while self._peek(over_lines=True) != "]":
            if self._peek() == ",":
                self._take()
                index += 1
            else:
                self._lines[*location, index] = self._tokens[self._at][1]
                self._value((*location, index))
        self._take()

    def _peek(self, over_lines: bool = False) -> str:
        while over_lines and self._tokens[self._at][0] == "\n":
            self._at += 1
        return self._tokens[self._at][0]

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][0]


def _plain(key: str) -> str:
    """A key without its quotes and escapes."""
    return str(tomllib.loads(f"key = {key}")["key"]) if key[0] in "\"'" else key
