"""--data: which files are trained on and which held out, and every way in which that can go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.data import corpus
from llmbench.data.sources import generated, load
from llmbench.errors import UserError

LINES = "".join(f"line {number} of this text\n" for number in range(1000))


def write(folder: Path, **texts: str) -> Path:
    """Files by name, where ``__`` stands for a dot."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def refused(data: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load(data)
    assert caught.value.hint
    return caught.value


def test_without_data_the_generated_corpus_is_named_but_not_yet_generated() -> None:
    corpus.generate.cache_clear()
    text = load(None)
    described = text.describe()
    assert corpus.generate.cache_info().currsize == 0
    assert text.train.read() == corpus.generate().train.text.encode()
    assert text.valid.read() == corpus.generate().valid.text.encode()
    assert text.train.nats == pytest.approx(corpus.generate().train.nats, rel=1e-6)
    assert described == json.loads(json.dumps(described))
    assert described["name"] == "generated"
    assert described["path"] is None
    assert described["train"]["bytes"] == len(text.train.read())
    assert 0.45 < described["valid"]["nats_per_byte"] < 0.55


def test_dialects_are_different_texts() -> None:
    assert generated("base").sha256 != generated("default").sha256
    assert generated("base").train.read() == corpus.generate("base").train.text.encode()


@pytest.mark.parametrize(
    ("names", "train", "valid"),
    [
        (["train.txt", "valid.txt", "test.txt"], ["train.txt"], ["valid.txt"]),
        (["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"], ["wiki.train.tokens"], ["wiki.valid.tokens"]),
        (["train.txt", "test.txt", "notes.txt"], ["train.txt"], ["test.txt"]),
        (["valid.txt", "test.txt"], ["valid.txt"], ["test.txt"]),
        (["corpus_train.raw", "corpus_dev.raw"], ["corpus_train.raw"], ["corpus_dev.raw"]),
        (["TRAIN.TXT", "Validation.text"], ["TRAIN.TXT"], ["Validation.text"]),
        (
            ["train-00001-of-00002.txt", "train-00000-of-00002.txt", "val-00000.txt"],
            ["train-00000-of-00002.txt", "train-00001-of-00002.txt"],
            ["val-00000.txt"],
        ),
    ],
)
def test_files_are_recognised_by_their_names(
    tmp_path: Path, names: list[str], train: list[str], valid: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text(f"this is {name}\n")
    text = load(str(tmp_path))
    assert text.train.read().decode() == "".join(f"this is {name}\n" for name in train)
    assert text.valid.read().decode() == "".join(f"this is {name}\n" for name in valid)
    assert text.train.origin == tuple(train)
    assert text.valid.origin == tuple(valid)
    assert text.train.nats is None
    assert text.describe()["valid"]["nats_per_byte"] is None
    assert text.describe()["path"] == str(tmp_path)
    assert text.name == tmp_path.name


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["train.txt", "notes.txt"], ["train.txt"]),
        (["b.txt", "a.text"], ["a.text", "b.txt"]),
        (["test.txt", "other.txt"], ["other.txt", "test.txt"]),
        (["constrained.txt", "latest.txt"], ["constrained.txt", "latest.txt"]),  # words that only contain such a name
    ],
)
def test_otherwise_the_last_part_is_held_out(tmp_path: Path, names: list[str], used: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text(f"{name}\n" + LINES)
    text = load(str(tmp_path))
    whole = "".join(f"{name}\n" + LINES for name in used).encode()
    assert text.train.read() + text.valid.read() == whole
    assert 0.05 <= text.valid.size / len(whole) < 0.052
    assert text.valid.read().startswith(b"line ")
    assert text.train.origin == (*used, "all but the last 5%")
    assert text.valid.origin == (*used, "the last 5%")


@pytest.mark.parametrize("separator", ["\n", " ", "", "\r\n"])
def test_a_file_is_cut_at_a_line_end_else_a_space_else_anywhere(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(separator.join(["wörd"] * 2000).encode())
    text = load(str(file))
    assert text.train.read() + text.valid.read() == file.read_bytes()
    assert text.train.read().decode().endswith(separator)
    assert text.valid.read().decode()
    assert text.name == "book"


def test_a_byte_order_mark_is_dropped_and_line_ends_are_kept(tmp_path: Path) -> None:
    write(tmp_path, train__txt="x", valid__txt="y")
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert load(str(tmp_path)).train.read() == b"one\r\ntwo\r\n"


def test_what_is_not_text_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, train__txt="x", valid__txt="y", README__md="train", train__csv="1,2", **{".train__txt": "hidden"})
    (tmp_path / "train.more.txt").mkdir()
    assert load(str(tmp_path)).train.read() == b"x"


def test_equal_texts_have_equal_hashes_wherever_they_lie(tmp_path: Path) -> None:
    one = load(str(write(tmp_path / "one", train__txt=LINES, valid__txt="held out")))
    two = load(str(write(tmp_path / "two", train__txt=LINES, test__txt="held out")))
    other = load(str(write(tmp_path / "other", train__txt=LINES, test__txt="held out!")))
    assert one.sha256 == two.sha256 != other.sha256


def test_a_missing_path_names_what_is_near(tmp_path: Path) -> None:
    write(tmp_path / "wikitext", train__txt=LINES)
    error = refused(str(tmp_path / "wikitxt"))
    assert "wikitxt: no such file" in error.message
    assert "did you mean wikitext" in (error.hint or "")
    assert "did you mean wikitext-2" in (refused("wikitext2").hint or "")
    error = refused(str(tmp_path / "nowhere" / "at" / "all.txt"))
    assert f"there is no nowhere in {tmp_path}" in (error.hint or "")


def test_an_empty_argument_is_refused() -> None:
    assert "--data is empty" in refused("").message


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n ", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "blank.txt"
    file.write_bytes(content)
    error = refused(str(file))
    assert str(file) in error.message
    assert "white space" in error.message


def test_an_empty_held_out_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, train__txt=LINES, valid__txt="")
    assert "valid.txt" in refused(str(tmp_path)).message


def test_a_text_too_short_to_hold_any_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    assert "9 bytes are too short" in refused(str(tmp_path / "short.txt")).message


@pytest.mark.parametrize(
    ("content", "offset"), [(b"caf\xe9 au lait", 3), (b"\xff\xfeh\x00i\x00", 0), (b"good until the end \xe6\xbc", 19)]
)
def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path: Path, content: bytes, offset: int) -> None:
    write(tmp_path, train__txt=LINES)
    (tmp_path / "valid.txt").write_bytes(content)
    error = refused(str(tmp_path))
    assert str(tmp_path / "valid.txt") in error.message
    assert f"byte {content[offset]:#04x} at offset {offset}:" in error.message


def test_the_offset_counts_from_the_beginning_of_a_large_file(tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes(b"\xef\xbb\xbf" + b"a line\n" * 3_000_000 + b"then \x80")
    assert f"byte 0x80 at offset {3 + 21_000_000 + 5}:" in refused(str(file)).message


def test_a_folder_without_text_says_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path, data__csv="1,2")
    error = refused(str(tmp_path))
    assert "no text file" in error.message
    assert "*.txt, *.text, *.tokens, *.raw" in (error.hint or "")


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert "not a regular file" in refused(str(tmp_path / "pipe.txt")).message
    assert "not a regular file" in refused(str(tmp_path)).message


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").symlink_to(tmp_path / "gone")
    assert "train.txt: no such file" in refused(str(tmp_path)).message


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    # The kernel refuses to read address 0 of this process, whoever asks.
    assert "/proc/self/mem: cannot be read: Input/output error" in refused("/proc/self/mem").message
    (tmp_path / "file").write_text("x")
    assert "cannot be read: Not a directory" in refused(str(tmp_path / "file" / "train.txt")).message


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "closed", train__txt=LINES)
    code = (
        "import os, sys\n"
        "from llmbench.data.sources import load\n"
        "from llmbench.errors import UserError\n"
        "os.chdir(sys.argv[1]); os.chmod('closed', 0)\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: load('closed')\n"
        "except UserError as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    (tmp_path / "closed").chmod(0o700)
    assert done.stdout == "--data closed: cannot be read: Permission denied\n", done.stderr


def test_wikitext_without_the_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes the import fail as it does where it is not installed
    error = refused("wikitext-103")
    assert "not installed" in error.message
    assert "pip install 'llmbench[hf]'" in (error.hint or "")


def test_a_path_named_like_wikitext_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wikitext-2", valid__txt="train on this", test__txt="evaluate on this")
    assert load("wikitext-2").train.read() == b"train on this"


def in_new_process(folder: Path, code: str) -> str:
    """Runs code offline in a folder, with an empty Hugging Face cache; gives its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ
        | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.hf
def test_wikitext_that_cannot_be_downloaded_gives_the_reason_and_the_way_out(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    code = (
        "from llmbench.data.sources import load\n"
        "from llmbench.errors import UserError\n"
        "try: load('wikitext-2')\n"
        "except UserError as error: print(error.message, error.hint)\n"
    )
    output = in_new_process(tmp_path, code)
    assert "the download failed: " in output
    assert "Salesforce/wikitext" in output
    assert "--data FOLDER" in output


@pytest.mark.hf
def test_wikitext_is_read_through_the_package(tmp_path: Path) -> None:
    """A dataset folder laid out as on the hub stands in for the download: the package prefers it to the network."""
    pytest.importorskip("datasets")
    code = """
import os, pyarrow, pyarrow.parquet
files = {"train": ["", " = Title = \\n", " Text . \\n"], "validation": [" Held out . \\n"], "test": ["no"]}
os.makedirs("Salesforce/wikitext")
for part, rows in files.items():
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), f"Salesforce/wikitext/{part}-00000-of-00001.parquet")
open("Salesforce/wikitext/README.md", "w").write('''---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
''' + "".join(f"  - split: {part}\\n    path: {part}-*\\n" for part in files) + "---\\n")
from llmbench.data.sources import load
text = load("wikitext-2")
assert text.train.read() == b" = Title = \\n Text . \\n", text.train.read()
assert text.valid.read() == b" Held out . \\n", text.valid.read()
print(text.train.origin)
"""
    assert "wikitext-2-raw-v1" in in_new_process(tmp_path, code)
