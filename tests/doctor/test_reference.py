"""docs/checks/ is what the registry says today."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.doctor import reference
from llmbench.doctor.checks import AREAS, all_checks, all_faults
from llmbench.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def test_the_pages_are_not_stale() -> None:
    there = {file.name: file.read_text(encoding="utf-8") for file in (DOCS / "checks").glob("*")}
    assert there == reference.pages(), "run: python -m llmbench.doctor.reference docs/checks"


def test_every_page_is_in_the_site() -> None:
    site = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"checks/([\w.]+)", site)
    assert sorted(named) == sorted(reference.pages())


def test_every_check_and_fault_has_its_place() -> None:
    pages = reference.pages()
    for check in all_checks():
        assert f"\n## {check.id}\n" in pages[f"{check.area}.md"]
        assert f"({check.area}.md#{reference.anchor(check.id)})" in pages["index.md"]
    for fault in all_faults():
        area, _, _ = fault.id.partition(".")
        _, _, after = pages[f"{area}.md"].partition(f"\n### {fault.id}\n")
        section = after.split("\n##")[0]
        for part in ("- Cause: ", "- Fix: ", f"`{fault.verdict}`", fault.link or "", fault.script or ""):
            assert part in section, fault.id


def test_texts_are_shown_as_they_are() -> None:
    from markdown_it import MarkdownIt

    pages = reference.pages()
    for fault in all_faults():
        page = pages[f"{fault.id.partition('.')[0]}.md"]
        section = page.partition(f"\n### {fault.id}\n")[2].split("\n##")[0]
        shown = re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").render(section))
        for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
            shown = shown.replace(entity, character)
        for text in (fault.title, fault.cause, fault.fix):
            assert " ".join(text.replace("`", "").split()) in " ".join(shown.split()), fault.id


def test_the_command_writes_them_and_removes_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "checks"
    folder.mkdir()
    (folder / "gone.md").write_text("an area that was")
    subprocess.run([sys.executable, "-m", "llmbench.doctor.reference", str(folder)], check=True, cwd=REPOSITORY)
    assert {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()} == reference.pages()
    assert len(list(folder.iterdir())) == len(AREAS) + 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        reference.write(tmp_path / "file")
