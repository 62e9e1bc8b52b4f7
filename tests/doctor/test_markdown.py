"""The text of a bug report: what a reader of Markdown makes of it."""

from __future__ import annotations

import json
import re

import pytest
from markdown_it import MarkdownIt

from llmbench.doctor.markdown import markdown
from llmbench.doctor.model import Finding, passed

from .made import diagnosis, failed, warned

HOSTILE = "a|b `c` ``` <img src=x> *d* _e_ [f](http://g) @someone #12 </details> $x$ ~~h~~ \\ & \n# heading\n::error::"


def html(text: str) -> str:
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


def plain(text: str) -> str:
    """As a reader sees it."""
    without = re.sub(r"<[^>]*>", "", html(text).replace("<!-- -->", ""))
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        without = without.replace(entity, character)
    return without


FACTS = {"torch": {"version": "2.13.0"}, "memory": {"total_bytes": 2**34}, "devices": [{"name": "H100"}] * 8}


def test_what_matters_comes_first_and_all_of_it_is_folded() -> None:
    given = diagnosis(
        ("torch.import", failed("no torch", "it is gone", "pip install torch", link="https://example.org/x")),
        ("torch.numpy", Finding("skip", "needs torch.import", root="torch.import")),
        ("cpu.memory", passed("enough")),
        facts=FACTS,
        environment={"RANK": "0"},
    )
    written = markdown(given.to_json())
    before, *folds = written.split("<details>")
    assert before.startswith("### llmbench doctor: This install will not train: it is gone\n")
    for part in ("| torch | `2.13.0` |", "| Memory | `16.0 GiB` |", "| GPUs | `8 x H100` |", "**FAIL** `torch.import`"):
        assert part in before
    for part in ("- Found: no torch", "- Cause: it is gone", "- Fix: `pip install torch`", "<https://example.org/x>"):
        assert part in before
    assert "- Follows: 1 check was not asked: torch.numpy" in before
    assert [re.findall("<summary>(.*?)</summary>", fold)[0].split(":")[0] for fold in folds] == [
        "All checks",
        "Facts",
        "Environment variables",
    ]
    assert "| pass | `cpu.memory` | enough |" in folds[0]
    facts = re.findall(r"```json\n(.*?)\n```", folds[1], re.DOTALL)[0]
    assert json.loads(facts) == FACTS


def test_whatever_a_machine_says_is_shown_as_it_is() -> None:
    given = diagnosis(("torch.import", failed(HOSTILE, HOSTILE, HOSTILE)), facts={"x": {HOSTILE: HOSTILE}})
    written = markdown(given.to_json())
    rendered = html(written)
    shown = " ".join(HOSTILE.split())
    assert plain(written).count(shown) == 5  # heading, found, cause, fix, table
    assert "<img" not in rendered
    assert "http://g" not in re.findall(r'href="(.*?)"', rendered)
    assert rendered.count("</details>") == written.count("<details>") == 2
    assert not re.search(r"^(#|::)(?!## llmbench)", written, re.MULTILINE)
    # A person or an issue of GitHub is named by these without anything in between.
    prose = re.sub(r"`+json\n.*?\n`+|(`+)(?!`).*?(?<!`)\1(?!`)", "", written, flags=re.DOTALL)
    assert "@someone" not in prose
    assert "#12" not in prose


def test_it_stays_short_enough_to_be_pasted() -> None:
    facts = {"packages": {"versions": {"torch": "2.13.0"}, "requirements": ["x" * 50] * 1000}}
    written = markdown(diagnosis(("a.b", passed("")), facts=facts).to_json())
    assert len(written) < 2000
    assert '"torch": "2.13.0"' in written
    assert "characters: see --json" in written


@pytest.mark.parametrize("text", ["`", "``", "a`b``c", "`x`", " ", ""])
def test_code_holds_any_backticks(text: str) -> None:
    written = markdown(diagnosis(("a.b", warned("e", "c", text or "-"))).to_json())
    assert " ".join(text.split()) in plain(written)


def test_an_empty_document_has_its_parts() -> None:
    assert markdown({}).startswith("### llmbench doctor")
