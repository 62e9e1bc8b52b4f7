"""Runs in stores, through fsspec: an S3 server of our own with a real S3 client, and fsspec's memory for the faults."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from llmbench.errors import UserError
from llmbench.results.history import read_history
from tests import factory

CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile")]


@pytest.fixture
def tree(tmp_path):
    """Three runs and a comparison, with what else lies in the folders of runs."""
    path = tmp_path / "nightly"
    for folder in factory.nights(path, 3, CASES, lambda number, case: 1.0 + number):
        (folder.path / "series").mkdir(exist_ok=True)
        (folder.path / "series" / "gpt-tiny.json").write_text("{}")
        (folder.path / "report.html").write_text("<p>")
    factory.ab_comparison(path / "ab", 5, CASES, lambda case, session: 1.0)
    return path


class Spoilt(MemoryFileSystem):
    """A store of which some answers fail; counts what is asked."""

    protocol = "spoilt"
    cachable = False
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    failing: dict = {}  # noqa: RUF012
    asked: list = []  # noqa: RUF012
    together = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("spoilt://", "memory://").replace("me:hunter22@", ""))

    def _ask(self, what, path):
        self.asked.append((what, path))
        if self.together and what == "cat" and path.endswith("run.json"):
            self.together.wait()
        for (kind, part), error in self.failing.items():
            if kind == what and part in path:
                raise error

    def ls(self, path, detail=True, **kwargs):
        self._ask("ls", path)
        return super().ls(path, detail=detail, **kwargs)

    def cat_file(self, path, start=None, end=None, **kwargs):
        self._ask("cat", path)
        return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def spoilt(tree):
    """The tree in a store, to be made to fail."""
    fsspec.register_implementation("spoilt", Spoilt, clobber=True)
    Spoilt.store, Spoilt.pseudo_dirs, Spoilt.failing, Spoilt.asked, Spoilt.together = {}, [""], {}, [], None
    Spoilt().put(str(tree), "/bucket/nightly", recursive=True)
    Spoilt.asked.clear()
    return Spoilt


def same(remote, local):
    assert [run.id for run in remote.runs] == [run.id for run in local.runs]
    assert [(one.run.id, one.case, one.parts) for one in remote.records] == [
        (one.run.id, one.case, one.parts) for one in local.records
    ]
    assert [one.sessions for one in remote.comparisons] == [one.sessions for one in local.comparisons]


@pytest.mark.parametrize("end", ["", "/"])
def test_a_store_holds_what_the_folder_does(spoilt, tree, end):
    history = read_history([f"spoilt://bucket/nightly{end}"])
    same(history, read_history([tree]))
    assert history.faults == []
    folder = history.runs[0].folder
    assert folder == f"spoilt://bucket/nightly/2026-08/{history.runs[0].id}"
    assert not history.runs[0].has_report


def test_only_what_counts_is_listed_and_fetched(spoilt):
    read_history(["spoilt://bucket/nightly"])
    fetched = [path.rsplit("/", 1)[1] for what, path in spoilt.asked if what == "cat"]
    assert sorted(fetched) == sorted([*["run.json", "records.jsonl"] * 3, "ab.json", "sessions.jsonl"])
    assert not [path for what, path in spoilt.asked if what == "ls" and path.endswith(("series", "logs"))]


def test_round_trips_are_under_way_together(spoilt):
    """No fetch is answered before eight are asked for: one after the other, each would fail."""
    contents = [next(path for path in spoilt.store if path.endswith(name)) for name in ("run.json", "records.jsonl")]
    for number in range(16):
        for path in contents:
            spoilt().pipe_file(f"/many/{number}/{path.rsplit('/', 1)[1]}", spoilt.store[path].getvalue())
    spoilt.together = threading.Barrier(8, timeout=20)
    history = read_history(["spoilt://many"])
    assert history.faults == []
    assert len(history.copies) == 15


def test_stores_and_folders_may_be_mixed(spoilt, tree):
    history = read_history([str(tree), "spoilt://bucket/nightly", f"file://{tree}"])
    assert len(history.runs) == 3
    assert [run.folder.parts[-3] for run in history.runs] == ["nightly"] * 3
    assert sorted(map(str, history.copies))[-1].startswith("spoilt://bucket")
    assert len(history.copies) == 4


def test_memory_is_a_store(tree):
    fsspec.filesystem("memory").put(str(tree), "/runs", recursive=True)
    try:
        same(read_history(["memory://runs"]), read_history([tree]))
    finally:
        fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_folder_that_cannot_be_listed_in_the_middle_is_named(spoilt):
    spoilt.failing = {("ls", "2026-08"): PermissionError(13, "Access Denied")}
    history = read_history(["spoilt://bucket/nightly"])
    assert (history.runs, len(history.comparisons)) == ([], 1)
    assert [str(fault) for fault in history.faults] == [
        "spoilt://bucket/nightly/2026-08: cannot be listed: PermissionError: Access Denied"
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError("x"), "gone since it was listed"),
        (RuntimeError("EndpointConnectionError:\n  no route"), "RuntimeError: EndpointConnectionError: no route"),
        (TimeoutError(), "TimeoutError"),
        (PermissionError(13, "Forbidden"), "PermissionError: Forbidden"),
        (RuntimeError("token=abcdef123456 refused"), "RuntimeError: token=*** refused"),
    ],
)
@pytest.mark.parametrize("name", ["run.json", "records.jsonl"])
def test_a_file_that_cannot_be_fetched_is_named(spoilt, tree, name, error, told):
    run = read_history([tree]).runs[1].id
    spoilt.failing = {("cat", f"{run}/{name}"): error}
    history = read_history(["spoilt://bucket/nightly"])
    assert len(history.runs) == (2 if name == "run.json" else 3)
    assert len(history.records) == 4
    assert [str(fault) for fault in history.faults] == [f"spoilt://bucket/nightly/2026-08/{run}/{name}: {told}"]


def test_faults_are_in_an_order_that_does_not_hang_on_the_answers(spoilt):
    spoilt.failing = {("cat", "records.jsonl"): RuntimeError("no")}
    told = [str(fault) for fault in read_history(["spoilt://bucket/nightly"]).faults]
    assert told == sorted(told)
    assert len(told) == 3


def test_stray_records_are_named(spoilt):
    spoilt().rm(next(path for path in spoilt.store if path.endswith("run.json")))
    [fault] = read_history(["spoilt://bucket/nightly"]).faults
    assert fault.message == "records.jsonl without a run.json"


@pytest.mark.parametrize(
    ("url", "failing", "told", "hint"),
    [
        ("spoilt://nothing/here", {}, "spoilt://nothing/here cannot be listed: FileNotFoundError", "credentials"),
        ("spoilt://bucket", {("ls", ""): PermissionError(13, "no")}, "cannot be listed: PermissionError: no", "crede"),
        ("spoilt://bucket", {("ls", ""): RuntimeError("NoCredentialsError")}, "NoCredentialsError", "credentials"),
        ("nonsense://bucket", {}, "Protocol not known: nonsense", "s3://bucket"),
        ("dask://bucket", {}, "its driver is not installed", "beside llmbench"),
        ("spoilt://bucket/empty", {}, "no run below spoilt://bucket/empty", "llmbench run"),
    ],
)
def test_a_place_that_cannot_be_read_at_all_is_a_usage_error(spoilt, url, failing, told, hint):
    spoilt().mkdir("/bucket/empty")
    spoilt.failing = failing
    with pytest.raises(UserError) as caught:
        read_history([url])
    assert told in caught.value.message
    assert hint in caught.value.hint


def test_a_file_is_no_folder(spoilt):
    file = next(path for path in spoilt.store if path.endswith("run.json"))
    with pytest.raises(UserError, match="is no folder"):
        read_history([f"spoilt:/{file}"])


def test_a_password_is_not_told(spoilt):
    with pytest.raises(UserError) as caught:
        read_history(["spoilt://me:hunter22@nothing/here"])
    assert "hunter22" not in f"{caught.value.message} {caught.value.hint}"


def test_without_fsspec_a_url_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match="URLs need fsspec") as caught:
        read_history(["s3://bucket/nightly"])
    assert "llmbench[cloud]" in caught.value.hint


def test_the_command_ends_with_2_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "llmbench", "history", "memory://nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "memory://nothing" in done.stderr
    assert "Traceback" not in done.stderr


class S3(http.server.BaseHTTPRequestHandler):
    """What a client needs to read a bucket: ListObjectsV2 by folder and in pages of two, and GetObject."""

    protocol_version = "HTTP/1.1"
    objects: dict = {}  # noqa: RUF012
    forbidden = ""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if bucket != "bucket":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif self.forbidden and self.forbidden in (key or query.get("prefix", "")):
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif not key:
            self.answer(200, self.listing(query))
        elif key in self.objects:
            self.answer(200, self.objects[key])
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def listing(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found = set()
        for key in self.objects:
            if key.startswith(prefix):
                inner, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key[len(prefix) :], "", "")
                found.add(prefix + inner + cut)
        names = sorted(name for name in found if name > query.get("continuation-token", ""))
        page, more = names[:2], names[2:]
        entries = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if delimiter and name.endswith(delimiter)
            else f"<Contents><Key>{escape(name)}</Key><Size>{len(self.objects[name])}</Size>"
            '<LastModified>2026-08-01T00:00:00.000Z</LastModified><ETag>"0"</ETag></Contents>'
            for name in page
        )
        more_text = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        truncated = str(bool(more)).lower()
        return (
            f"<ListBucketResult><Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{truncated}</IsTruncated>{more_text}{entries}</ListBucketResult>"
        ).encode()

    def answer(self, status, body):
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "ETag": '"0"',
            "Last-Modified": "Sat, 01 Aug 2026 00:00:00 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def s3(tree, monkeypatch):
    pytest.importorskip("obstore")
    from obstore.fsspec import register

    handler = type("Bucket", (S3,), {"objects": {}, "forbidden": ""})
    for file in tree.rglob("*"):
        if file.is_file():
            handler.objects[f"nightly/{file.relative_to(tree)}"] = file.read_bytes()
    handler.objects["nightly/"] = b""  # as consoles leave it for a folder that was made by hand
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = server.server_address[1]
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    register("s3")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield handler
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    sys.modules["fsspec.registry"]._registry.pop("s3")
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_s3_bucket(s3, tree):
    history = read_history(["s3://bucket/nightly"])
    same(history, read_history([tree]))
    assert history.faults == []


def test_an_s3_bucket_that_is_not_there(s3):
    with pytest.raises(UserError, match="s3://other/nightly"):
        read_history(["s3://other/nightly"])


def test_an_s3_folder_that_may_not_be_read(s3):
    s3.forbidden = "nightly/2026-08"
    history = read_history(["s3://bucket/nightly"])
    assert len(history.comparisons) == 1
    [fault] = history.faults
    assert str(fault).startswith("s3://bucket/nightly/2026-08: cannot be listed")


def test_a_local_copy_and_the_store_are_the_same_runs(s3, tree, tmp_path):
    shutil.copytree(tree, tmp_path / "mirror")
    history = read_history([str(tmp_path / "mirror"), "s3://bucket/nightly"])
    assert len(history.runs) == 3
    assert len(history.copies) == 4
