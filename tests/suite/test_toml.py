from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.suite.toml import Lines, Location

# In each document `#!` stands on the line that is to be found.
DOCUMENTS: dict[str, tuple[str, Location]] = {
    "a key": ("a = 1\nb = 2 #!\n", ("b",)),
    "a key after an empty line and a comment": ("# a = 0\n\na = 1 #!\n", ("a",)),
    "a key of a table": ("[t]\na = 1\nb = 2 #!\n", ("t", "b")),
    "the same key of two tables": ("[s]\na = 1\n[t]\na = 1 #!\n", ("t", "a")),
    "a table": ("[s]\na = 1\n[t] #!\na = 1\n", ("t",)),
    "an element of an array in one line": ("x = 0\na = ['p', 'q'] #!\n", ("a", 1)),
    "an element of an array over several lines": ("a = [\n  'p',\n  'q', #!\n]\n", ("a", 1)),
    "an array over several lines": ("a = [ #!\n  'p',\n]\n", ("a",)),
    "the second of two equal elements": ("a = [\n  'p',\n  'p', #!\n]\n", ("a", 1)),
    "an element after a comment with brackets": ("a = [\n  'p', # [x] = 'q' ]\n  'q', #!\n]\n", ("a", 1)),
    "an element of an array in an array": ("a = [\n  ['p',\n   'q'], #!\n]\nb = 1\n", ("a", 0, 1)),
    "a key after an array of arrays": ("a = [\n  ['p'],\n  ['q'],\n]\nb = 1 #!\n", ("b",)),
    "a table of an array": ("[[o]]\na = 1\n[[o]] #!\na = 2\n", ("o", 1)),
    "a key of the second table of an array": ("[[o]]\na = 1\n[[o]]\na = 2 #!\n", ("o", 1, "a")),
    "a table below the second table of an array": ("[[o]]\n[o.s]\na = 1\n[[o]]\n[o.s]\na = 2 #!\n", ("o", 1, "s", "a")),
    "an array of tables in one": ("[[o]]\n[[o.p]]\n[[o]]\n[[o.p]]\n[[o.p]]\na = 2 #!\n", ("o", 1, "p", 1, "a")),
    "a dotted key": ("a.b = 1\na.c = 2 #!\n", ("a", "c")),
    "what a dotted key makes": ("x = 0\na.b = 1 #!\na.c = 2\n", ("a",)),
    "a dotted key with spaces and quotes": ("a . \"b\" . 'c' = 1 #!\n", ("a", "b", "c")),
    "a key that needs quotes": ('\'b c\' = 1\n"[b].c = \\"" = 2 #!\n', ('[b].c = "',)),
    "a key in an inline table": ("x = 0\na = { b = 1, c.d = { e = 2 } } #!\n", ("a", "c", "d", "e")),
    "a key in an inline table of an array": ("a = [\n  { b = 1 },\n  { b = 2 }, #!\n]\n", ("a", 1, "b")),
    "a key after a text of several lines": ('a = """\n[t]\nb = 1\n"""\nb = 2 #!\n', ("b",)),
    "a key after quotes in a text": ("a = ''''q'''''\nb = 2 #!\n", ("b",)),
    "a key after a text with an escaped quote": ('a = "\\"#"\nb = 2 #!\n', ("b",)),
    "a key after a date with a space": ("a = 1979-05-27 07:32:00.5\nb = 2 #!\n", ("b",)),
    "what is missing, by what is around it": ("[[o]]\n[[o]] #!\na = 1\n", ("o", 1, "settings", "x")),
    "an element of what is no array": ("x = 0\na = 1 #!\n", ("a", 3)),
    "with the line ends of Windows": ("a = [\r\n  'p',\r\n  'q', #!\r\n]\r\n", ("a", 1)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_line_of(name: str) -> None:
    text, location = DOCUMENTS[name]
    tomllib.loads(text)
    (expected,) = (number for number, line in enumerate(text.split("\n"), start=1) if "#!" in line)
    assert Lines(text).find(location) == expected


def test_what_is_not_there_at_all_has_no_line() -> None:
    assert Lines("a = 1\n").find(("b",)) is None
    assert Lines("").find(("b", 0)) is None
    assert Lines("a = 1\n").find(()) is None


class Writer:
    """Writes a document of any layout, and notes the line of all that it writes."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self.text = ""
        self.lines: dict[Location, int] = {}
        self._names = 0

    def document(self) -> None:
        self._pairs(())
        for _ in range(self._draw(st.integers(0, 3))):
            kind = self._draw(st.sampled_from(["table", "array", "nested"]))
            name, key = self._name()
            if kind == "table":
                self._header(f"[{key}]", (name,))
                self._pairs((name,))
                continue
            self.lines[name,] = self._line
            for index in range(self._draw(st.integers(1, 2))):
                self._header(f"[[ {key} ]]", (name, index))
                self._pairs((name, index))
                if kind == "nested":
                    inner, inner_key = self._name()
                    self._header(f"[{key}.{inner_key}]", (name, index, inner))
                    self._pairs((name, index, inner))

    @property
    def _line(self) -> int:
        return self.text.count("\n") + 1

    def _name(self) -> tuple[str, str]:
        """A key that there was not before, and how it is spelled."""
        self._names += 1
        name = self._draw(st.text("ab .'\"#[]{}=,é\\-", max_size=4)) + str(self._names)
        bare = all(character.isascii() and (character.isalnum() or character == "-") for character in name)
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return name, name if bare else f'"{escaped}"'

    def _header(self, header: str, location: Location) -> None:
        self.lines[location] = self._line
        self.text += header + self._draw(st.sampled_from(["\n", " # [no]\n", "\n\n"]))

    def _pairs(self, table: Location) -> None:
        for _ in range(self._draw(st.integers(0, 3))):
            self._pair(table, 0)
            self.text += self._draw(st.sampled_from(["\n", "\n\n# x = [\n", "  # 'x\n"]))

    def _pair(self, table: Location, depth: int) -> None:
        for _ in range(self._draw(st.integers(1, 2))):
            name, key = self._name()
            table = (*table, name)
            self.lines[table] = self._line
            self.text += key + " . "
        self.text = self.text.removesuffix(" . ") + self._draw(st.sampled_from(["=", " = "]))
        self._value(table, depth)

    def _value(self, location: Location, depth: int) -> None:
        kinds = ["scalar", "lines", "array", "inline"] if depth < 3 else ["scalar"]
        kind = self._draw(st.sampled_from(kinds))
        if kind == "scalar":
            texts = ["1", "-1.5e3", "true", "1979-05-27 07:32:00.5", "'a\"b'", '""', "''", '"\\"]"', '"#"', '"""a"b"""']
            self.text += self._draw(st.sampled_from(texts))
        elif kind == "lines":
            self.text += self._draw(st.sampled_from(['"""\n[x]\n\\"""k = 1"""', "'''\nk = [\n\\'''", '"""\na""""']))
        elif kind == "array":
            self.text += "["
            for index in range(self._draw(st.integers(0, 3))):
                self.text += self._draw(st.sampled_from(["", "\n", " # ]\n  "]))
                self.lines[*location, index] = self._line
                self._value((*location, index), depth + 1)
                self.text += self._draw(st.sampled_from([",", "\n,"]))
            self.text += "\n]"
        else:
            self.text += "{"
            for number in range(self._draw(st.integers(0, 2))):
                self.text += ", " if number else " "
                self._pair(location, depth + 1)
            self.text += " }"


def locations(value: Any, location: Location = ()) -> Iterator[Location]:
    """Of all that is in a document."""
    if location:
        yield location
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from locations(inner, (*location, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from locations(inner, (*location, index))


@given(st.data())
def test_every_line_of_any_document_is_found(data: st.DataObject) -> None:
    writer = Writer(data)
    writer.document()
    lines = Lines(writer.text)
    found = {location: lines.find(location) for location in locations(tomllib.loads(writer.text))}
    assert found == writer.lines


FRAGMENTS = [*"ab.= \n[]{},#'\"\\1", "[[a]]", "[a]", "'''", '"""']


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_it_never_raises_on_what_parses(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = Lines(text)
    for location in locations(document):
        assert 1 <= (lines.find(location) or 0) <= text.count("\n") + 1
