"""Reads a page without a browser."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "input", "br", "link", "img", "wbr"}


def read_column(column: dict[str, Any], n: int) -> list[Any]:
    """What ``llmbench.report.columns`` packed; "absent" stands for a name that an object lacks."""
    match column:
        case {"same": value}:
            return [value] * n
        case {"each": values}:
            return list(values)
        case {"kinds": kinds, "of": digits}:
            return [kinds[int(digit, 36)] for digit in digits]
        case {"there": marks, "of": inner}:
            values = iter(read_column(inner, marks.count("+")))
            return [next(values) if mark == "+" else {"n": None, "-": "absent"}[mark] for mark in marks]
        case {"keys": columns}:
            told = {name: read_column(inner, n) for name, inner in columns.items()}
            return [{name: told[name][i] for name in told if told[name][i] != "absent"} for i in range(n)]
        case {"lengths": lengths, "items": items}:
            long = read_column(lengths, n)
            flat = iter(read_column(items, sum(long)))
            return [[next(flat) for _ in range(length)] for length in long]
    raise AssertionError(f"not a column: {column}")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """All elements of a page in order, with the text directly and deeper inside them; raises on unbalanced tags."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert not self._open, f"left open: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a beginning"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        if tag in {"td", "th"}:
            self.handle_data(" ")  # cells stand apart, whether or not white space is between their tags
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **wanted: str) -> list[Element]:
        """Elements of this tag whose attributes (``class_`` for class) hold these words."""
        return [
            element
            for element in self.elements
            if element.tag == tag
            and all(value in element.attributes.get(key.rstrip("_"), "").split() for key, value in wanted.items())
        ]

    def one(self, tag: str, **wanted: str) -> Element:
        found = self.all(tag, **wanted)
        assert len(found) == 1, f"{len(found)} × <{tag} {wanted}>"
        return found[0]

    @property
    def data(self) -> Any:
        carried = self.one("script", id="data")
        document = json.loads(carried.text)
        for path in carried.attributes.get("data-columns", "").split():
            *above, last = path.split(".")
            holder = document
            for name in above:
                holder = holder[name]
            packed = holder[last]
            assert set(packed) == {"n", "columns"}
            holder[last] = read_column(packed["columns"], packed["n"])
        return document

    @property
    def body(self) -> str:
        """The words that are on the page, with single spaces."""
        whole = self.one("body").text.replace(self.one("script", id="data").text, "")
        return " ".join(whole.split())
