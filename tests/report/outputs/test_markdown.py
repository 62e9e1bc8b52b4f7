"""What a reader of Markdown makes of text that nobody vouches for."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llmbench.report.outputs.markdown import Markdown, block, capped, code, details, spans, table, text

HOSTILE = [
    "a|b",
    "a\\|b",
    "a\\",
    "`a|b` ``` `",
    "one\ntwo\r\nthree",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</details></table>",
    "*a* _b_ __c__ ~~d~~ **e**",
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "<http://evil.example>",
    "&copy; &#60; &lt;b&gt;",
    "$x$ $$y$$",
    "# heading",
    "- item",
    "1. item",
    "1) item",
    "> quoted",
    "---",
    "===",
    "::error::gotcha",
]


def reader(document: str) -> str:
    return MarkdownIt("gfm-like", {"linkify": False}).render(document)


def seen(rendered: str) -> str:
    """Without tags, as it stands on the screen."""
    return html.unescape(re.sub(r"<[^>]*>", "", rendered.replace("<!-- -->", ""))).strip()


def cells(rendered: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL)
    return [[seen(cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_plain_text_stays_plain_in_a_paragraph_and_in_a_table(hostile: str) -> None:
    line = " ".join(hostile.split())
    rendered = reader(text(hostile))
    assert seen(rendered) == line
    assert re.findall(r"<(?!/?p>|!-- -->)[^>]*>", rendered) == []
    in_table = reader(table(["case", hostile], [[hostile, code(hostile)], ["after", "it"]]))
    assert cells(in_table) == [["case", line], [line, line], ["after", "it"]]
    assert {tag.strip("</>").split()[0] for tag in re.findall(r"<(?!!)[^>]*>", in_table)} <= {
        *("table", "thead", "tbody", "tr", "th", "td", "code")
    }


@given(st.text(max_size=60))
def test_any_text_comes_back_from_a_table(anything: str) -> None:
    shown = [row[0] for row in cells(reader(table(["head"], [[anything], [code(anything)], ["end"]])))]
    from llmbench.report.untrusted import printable

    line = printable(" ".join(anything.split()))
    assert shown == ["head", line, line, "end"]


@pytest.mark.parametrize(
    "naming", ["@someone", "#12", "GH-12", "http://evil.example", "https://evil.example", "www.evil.example", "a@b.org"]
)
def test_nobody_is_called_and_nothing_is_linked(naming: str) -> None:
    for written in (text(f"see {naming} now"), table([naming], []), details(naming, "")):
        assert naming not in written
        assert naming in seen(reader(written))


def test_what_hides_or_reorders_text_is_seen() -> None:
    for written in (text("a\u202eb"), code("a\u202eb"), block("a\u202eb"), text("a\x1b[31mb").replace("\x1b", "")):
        assert "\u202e" not in written
    assert seen(reader(text("a\u202e\x1b\ud800b"))) == "a\\u{202e}\\u{1b}\\u{d800}b"


def test_markdown_is_left_alone_and_numbers_stand_to_the_right() -> None:
    written = table(["a", "b"], [[Markdown("**x**"), "**y**"], ["short"]], numbers=[1])
    assert written.splitlines() == ["| a | b |", "| --- | ---: |", r"| **x** | \*\*y\*\* |", "| short |  |"]


@pytest.mark.parametrize("content", ["```", "````\n```", "</details>\n<b>", "x"])
def test_a_fold_and_its_code_end_where_they_should(content: str) -> None:
    rendered = reader(details("A & <b>", block(content)) + "\n\n**after**")
    assert rendered.count("</details>") == 1
    assert "<summary>A &amp; &lt;b&gt;</summary>" in rendered
    assert html.unescape(re.findall(r"<pre><code>(.*?)</code>", rendered, re.DOTALL)[0]).strip() == content
    assert rendered.strip().endswith("<p><strong>after</strong></p>")


def test_what_fits_is_not_cut() -> None:
    document = "x" * 63 + "\n"
    assert capped(document, 64) is document


@pytest.mark.parametrize("limit", [200, 333, 1000, 4000])
def test_what_does_not_fit_is_cut_at_a_line_and_closed(limit: int) -> None:
    rows = [[f"case {number}", "é" * 20] for number in range(50)]
    log = block("```\n" + "line of a log\n" * 100)
    document = f"# Title\n\n{details('Table', table(['a', 'b'], rows))}\n\n{details('Log', log)}\n"
    cut = capped(document, limit)
    assert len(cut.encode()) <= limit
    assert f"*Cut here: the whole has {len(document.encode()):,} bytes.*" in cut.splitlines()[-1]
    assert document.startswith(cut.partition("\n\n*Cut")[0].partition("\n\n</details>")[0].partition("\n````\n")[0])
    rendered = reader(cut)
    assert rendered.count("<details>") == rendered.count("</details>")
    assert rendered.rstrip().endswith("bytes.</em></p>")


def test_backticked_words_and_options_are_code_and_the_rest_is_plain() -> None:
    assert spans("use `a|b` or --set steps=400, *not* `this") == (
        r"use <code>a&#124;b</code> or `--set steps=400`, \*not\* \`this"
    )
