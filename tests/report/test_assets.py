"""A page in three files, for servers that forbid what is inlined; and what a browser makes of it."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest

from llmbench.report import doctor_page, run_page
from llmbench.report.benchmarks import benchmarks_page
from llmbench.report.page import in_files, write_page
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_doctor_page import document  # noqa: F401 (a fixture)
from tests.report.test_run_page import HOSTILE

JENKINS = "sandbox; default-src 'none'; img-src 'self'; style-src 'self';"
"""What Jenkins sends with every archived file (hudson.model.DirectoryBrowserSupport.CSP)."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    page = run_page(factory.smoke_run(folder / "run"))
    write_page(folder / "out of the box.html", page)
    write_page(folder / "a b #1%.html", page, split=True)
    return folder


@pytest.fixture(scope="module")
def serve():
    """``serve(folder, policy)`` -> address; every answer has this Content-Security-Policy."""
    servers = []

    def serve_(folder: Path, policy: str) -> str:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def end_headers(self) -> None:
                self.send_header("Content-Security-Policy", policy)
                super().end_headers()

            def log_message(self, *_: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve_
    for server in servers:
        server.shutdown()
        server.server_close()


def test_style_and_script_lie_beside_the_page(tmp_path):
    page = run_page(factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"]))
    file = tmp_path / "report.html"
    assert write_page(file, page, split=True) == [tmp_path / "report.css", tmp_path / "report.js", file]
    split, whole = Page(file.read_text(encoding="utf-8")), Page(page)
    assert (tmp_path / "report.css").read_text(encoding="utf-8") == whole.one("style").text
    assert (tmp_path / "report.js").read_text(encoding="utf-8") == whole.all("script")[0].text
    assert not split.all("style")
    assert split.one("link").attributes == {"rel": "stylesheet", "href": "report.css"}
    assert split.all("script")[0].attributes == {"src": "report.js"}
    assert split.all("script")[0].text == ""
    assert split.data == whole.data
    assert split.body == whole.body


def test_its_policy_takes_style_and_script_from_beside_it_and_nothing_else(run):
    page = Page((run / "a b #1%.html").read_text(encoding="utf-8"))
    policy = next(m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'"
    )
    assert page.one("link").attributes["href"] == "a%20b%20%231%25.css"


def test_the_page_is_written_after_what_it_asks_for(tmp_path):
    """Who opens it while it is written finds the style and script that it asks for."""
    page = run_page(factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager"]))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "report.js").mkdir()  # cannot be replaced by a file
    with pytest.raises(IsADirectoryError):
        write_page(folder / "report.html", page, split=True)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("kind", ["doctor", "benchmarks", "hostile"])
def test_every_page_can_be_split(tmp_path, kind, document):  # noqa: F811
    if kind == "doctor":
        page = doctor_page(document)
    elif kind == "benchmarks":
        (tmp_path / "micro.json").write_text('{"benchmarks": [{"name": "test_matmul", "stats": {"median": 0.25}}]}')
        page = benchmarks_page(tmp_path / "micro.json")
    else:
        name = f"<style>{HOSTILE}</style><script>"
        page = run_page(factory.RunFolder.create(tmp_path / "run", factory.make_run([], suite=name, id=name)))
    files = in_files(tmp_path / "page.html", page)
    css, js, html = (files[tmp_path / f"page.{ending}"] for ending in ("css", "js", "html"))
    split, whole = Page(html), Page(page)
    assert (css, js) == (whole.one("style").text, whole.all("script")[0].text)
    assert split.body == whole.body
    assert split.data == whole.data
    assert len(split.all("script")) == 2


LOOK = """() => ({
    bar: getComputedStyle(document.querySelector('.panel rect')).fill,
    card: getComputedStyle(document.querySelector('.card')).borderRadius,
    charts: [...document.querySelectorAll('.panel svg[role=img]')].map((svg) => svg.getBoundingClientRect().width),
    rows: document.querySelectorAll('#cases-table tbody tr').length,
    buttons: [...document.querySelectorAll('button')].filter((button) => button.offsetWidth).length,
    back: getComputedStyle(document.body).backgroundColor,
})"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_under_the_policy_of_jenkins_it_looks_as_it_does_without_scripts(run, serve, browser, open_page, scheme):
    address = serve(run, JENKINS)
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked, refused = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: refused.append(message.text))
    page.goto(f"{address}/a%20b%20%231%25.html")
    look = page.evaluate(LOOK)
    wanted = open_page(run / "out of the box.html", java_script_enabled=False, color_scheme=scheme).page.evaluate(LOOK)
    assert look == wanted
    assert look["buttons"] == 0
    assert asked == [f"{address}/a%20b%20%231%25.{ending}" for ending in ("html", "css")]
    # The sandbox refuses scripts, ours before all; nothing else is refused.
    assert [text for text in refused if "Blocked script execution" not in text] == []
    page.locator("table.matrix a").first.click()
    assert page.locator("details.one[open]").count() == 1
    context.close()


@pytest.mark.browser
def test_jenkins_would_take_the_style_from_a_page_in_one_file(run, serve, browser):
    """Why there is a choice: charts and tables show, without their look."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{serve(run, JENKINS)}/out%20of%20the%20box.html")
    look = page.evaluate(LOOK)
    assert look["card"] == "0px"
    assert look["bar"] == "rgb(8, 150, 251)"
    assert all(width > 200 for width in look["charts"])
    context.close()


@pytest.mark.browser
def test_opened_from_disk_all_three_files_work(run, open_page):
    opened = open_page(run / "a b #1%.html", "#q=bert")
    opened.page.wait_for_load_state("networkidle")
    assert opened.messages == []
    assert len(opened.requests) == 3
    assert opened.page.locator("#cases-table tbody tr:visible").count() == 4
    opened.page.locator("#explore").scroll_into_view_if_needed()
    opened.page.locator("[data-plot] svg").wait_for()
    opened.page.locator("[data-do=theme]").click()
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light"
    assert opened.messages == []
