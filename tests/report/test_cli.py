import pytest
import typer
from typer.testing import CliRunner

from llmbench.cli.report import report
from llmbench.errors import UserError
from llmbench.report import run_page
from llmbench.report.benchmarks import benchmarks_page
from llmbench.results.store import RunFolder
from tests import factory

app = typer.Typer()
app.command()(report)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


@pytest.fixture
def run(tmp_path):
    return factory.plain_run(tmp_path / "r1", ["gpt-tiny"], ["eager"])


def test_builds_the_page_and_prints_its_path(run):
    result = call(run.path)
    assert result.exit_code == 0
    assert result.stdout == f"{run.path}/report.html\n"
    assert run.report.read_text(encoding="utf-8") == run_page(run)


def test_several_runs_have_a_page_each(run, tmp_path):
    other = factory.plain_run(tmp_path / "r2", ["gpt-tiny"], ["bf16"])
    assert call(run.path, other.path).stdout.split() == [str(run.report), str(other.report)]
    assert other.report.exists()


def test_out_writes_elsewhere(run, tmp_path):
    out = tmp_path / "page.html"
    assert call(run.path, "--out", out).stdout == f"{out}\n"
    assert out.read_text(encoding="utf-8") == run_page(run)
    assert not run.report.exists()


def test_out_holds_one_page_only(run, tmp_path):
    error = call(run.path, run.path, "--out", tmp_path / "page.html").exception
    assert isinstance(error, UserError)
    assert "2 runs were named" in error.message


def test_a_folder_that_is_no_run_is_the_users_fault(tmp_path):
    error = call(tmp_path).exception
    assert isinstance(error, UserError)
    assert "is not a run" in error.message
    assert error.hint


def test_an_unwritable_place_is_the_users_fault(run, tmp_path):
    error = call(run.path, "--out", tmp_path / "nowhere" / "page.html").exception
    assert isinstance(error, UserError)
    assert "cannot write" in error.message


def test_a_page_of_another_day_is_replaced(run):
    call(run.path)
    factory.add(RunFolder(run.path), *factory.ok_record(factory.planned("bert-tiny", "eager")))
    call(run.path)
    assert "bert-tiny/eager/ws1" in run.report.read_text(encoding="utf-8")


def test_assets_can_lie_beside_the_page(run, tmp_path):
    assert call(run.path, "--assets", "split").stdout == f"{run.report}\n"
    assert run.report.with_suffix(".css").exists()
    assert run.report.with_suffix(".js").exists()
    assert '<link rel="stylesheet" href="report.css">' in run.report.read_text(encoding="utf-8")
    call(run.path, "--assets", "split", "--out", tmp_path / "for-jenkins.html")
    assert sorted(path.name for path in tmp_path.glob("for-jenkins.*")) == [
        f"for-jenkins.{end}" for end in ("css", "html", "js")
    ]


def test_a_page_has_not_the_name_of_its_own_style(run, tmp_path):
    error = call(run.path, "--assets", "split", "--out", tmp_path / "report.css").exception
    assert isinstance(error, UserError)
    assert "beside the page" in error.message


def test_unknown_assets_are_the_users_fault(run):
    assert call(run.path, "--assets", "zip").exit_code == 2


MICRO = '{"benchmarks": [{"name": "test_matmul", "stats": {"median": 0.25}}]}'


@pytest.fixture
def micro(tmp_path):
    path = tmp_path / "micro.json"
    path.write_text(MICRO, encoding="utf-8")
    return path


def test_a_file_of_pytest_benchmark_has_its_page_beside_it(micro):
    result = call(micro)
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{micro.with_suffix('.html')}\n"
    assert micro.with_suffix(".html").read_text(encoding="utf-8") == benchmarks_page(micro)


def test_runs_and_files_of_pytest_benchmark_go_together(run, micro):
    assert call(micro, run.path).stdout.split() == [str(micro.with_suffix(".html")), str(run.report)]
    assert run.report.exists()


def test_out_holds_the_page_of_a_file_too(micro, tmp_path):
    assert call(micro, "--out", tmp_path / "page.html").stdout == f"{tmp_path}/page.html\n"
    assert not micro.with_suffix(".html").exists()


@pytest.mark.parametrize("out", [[], ["--out", "micro.html"]], ids=["beside", "out"])
def test_the_page_never_takes_the_place_of_its_file(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "micro.html"
    path.write_text(MICRO, encoding="utf-8")
    error = call(path, *out).exception
    assert isinstance(error, UserError)
    assert "would overwrite" in error.message
    assert path.read_text(encoding="utf-8") == MICRO


def test_the_style_beside_a_page_never_takes_the_place_of_its_file(tmp_path):
    path = tmp_path / "micro.css"
    path.write_text(MICRO, encoding="utf-8")
    error = call(path, "--assets", "split").exception
    assert isinstance(error, UserError)
    assert "would overwrite" in error.message
    assert path.read_text(encoding="utf-8") == MICRO


def test_what_is_not_there_is_named(tmp_path):
    error = call(tmp_path / "gone.json").exception
    assert isinstance(error, UserError)
    assert error.message == f"{tmp_path}/gone.json: no such file or folder"
    assert "--benchmark-json" in error.hint


def test_a_file_that_is_neither_ends_the_command_with_2_and_no_traceback(llmbench, run):
    done = llmbench("report", run.path / "run.json")
    assert done.returncode == 2
    assert f"{run.path}/run.json is not a JSON file of pytest-benchmark" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
