"""Token files: what the worker maps, cached so that neither a race, a kill nor a damaged disk gives wrong tokens."""

import json
import math
import subprocess
import sys
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from llmbench.data.sources import generated, load
from llmbench.data.text import Split, Text
from llmbench.data.tokens import TokenFiles, prepare, require
from llmbench.errors import UserError
from llmbench.paths import cache_folder

LINES = "".join(f"line {number} tells of the number {number * 7 % 1000}.\n" for number in range(3000)).encode()


def a_text(train: bytes = LINES, valid: bytes = LINES[-5000:]) -> Text:
    return Text("a text", None, Split.of(train, "here"), Split.of(valid, "there"))


def ids(file: Path) -> list[int]:
    return list(array("i", file.read_bytes()))


def the_entry(cache: Path) -> Path:
    (entry,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    return entry


def untouched(text: Text) -> Text:
    """The same text, unless someone reads it."""

    def read() -> bytes:
        raise AssertionError("the text was read, though its tokens are cached")

    return replace(text, train=replace(text.train, read=read), valid=replace(text.valid, read=read))


def test_token_files_hold_the_text(cache: Path) -> None:
    text = a_text()
    files = prepare(text, "bpe", 512)
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    for file, count, split in (
        (files.train, files.train_tokens, text.train),
        (files.valid, files.valid_tokens, text.valid),
    ):
        assert file.stat().st_size == 4 * count
        assert tokenizer.decode(ids(file), skip_special_tokens=False).encode() == split.read()
        assert 0 <= min(ids(file)) <= max(ids(file)) < files.vocab_size == 512
    assert files.text == "a text"
    assert files.special == {"<|endoftext|>": 0}
    assert files.bytes_per_token == pytest.approx(5000 / files.valid_tokens)
    assert files.floor is None
    assert files.train.is_relative_to(cache)


def test_files_are_little_endian(cache: Path) -> None:
    files = prepare(a_text(), "bpe", 512)
    data = files.train.read_bytes()
    assert [int.from_bytes(data[at : at + 4], "little") for at in range(0, 400, 4)] == ids(files.train)[:100]


def test_wordpiece_files_hold_the_words(cache: Path) -> None:
    files = prepare(a_text(), "wordpiece", 512)
    tokens = Tokenizer.from_file(str(files.tokenizer)).decode(ids(files.train)[:60])
    assert tokens.startswith("line 0 tells of the number 0. line 1 tells of")
    assert files.special == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    assert not set(ids(files.train)) & set(files.special.values())


def test_the_floor_of_the_generated_corpus(cache: Path) -> None:
    text = generated("default")
    files = prepare(text, "bpe", 1024)
    assert text.valid.nats is not None
    assert files.floor == pytest.approx(text.valid.nats / files.valid_tokens)
    counts = [count for count in map(ids(files.valid).count, range(files.vocab_size)) if count]
    unigram = -sum(count / files.valid_tokens * math.log(count / files.valid_tokens) for count in counts)
    assert 1 < files.floor < 0.5 * unigram
    assert prepare(text, "wordpiece", 1024).floor is None


@pytest.mark.slow
def test_a_text_can_be_tokenized_by_the_tokenizer_of_another(cache: Path) -> None:
    default, base = generated("default"), generated("base")
    files = prepare(base, "bpe", 512, tokenizer_text=default)
    assert files.tokenizer.read_text() == prepare(default, "bpe", 512).tokenizer.read_text()
    assert files.sha256 != prepare(base, "bpe", 512).sha256
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    assert tokenizer.decode(ids(files.valid)).encode() == base.valid.read()
    assert prepare(default, "bpe", 512, tokenizer_text=default) == prepare(default, "bpe", 512)


def test_the_second_time_nothing_is_done(cache: Path) -> None:
    said: list[str] = []
    first = prepare(a_text(), "bpe", 512, on_progress=said.append)
    assert "training a bpe tokenizer on a text" in said
    assert "encoding a text for training: 100%" in said
    assert prepare(untouched(a_text()), "bpe", 512, on_progress=pytest.fail) == first


def test_what_changes_the_tokens_changes_the_entry(cache: Path) -> None:
    prepared = [
        prepare(a_text(), "bpe", 512),
        prepare(a_text(), "wordpiece", 512),
        prepare(a_text(), "bpe", 513),
        prepare(a_text(train=LINES[:-1]), "bpe", 512),
        prepare(a_text(valid=LINES[-4000:]), "bpe", 512),
    ]
    assert len({files.train for files in prepared}) == len({files.sha256 for files in prepared}) == len(prepared)


@pytest.mark.parametrize("size", [0, 1, 3, 1 << 12])
def test_truncated_tokens_are_made_anew(cache: Path, size: int) -> None:
    before = prepare(a_text(), "bpe", 512)
    right = before.train.read_bytes()
    before.train.write_bytes(right[:size])
    said: list[str] = []
    assert prepare(a_text(), "bpe", 512, on_progress=said.append) == before
    assert before.train.read_bytes() == right
    assert "damaged" in said[0]


@pytest.mark.parametrize("name", ["train.int32", "valid.int32", "tokenizer.json", "facts.json"])
@pytest.mark.parametrize("damage", ["gone", "overwritten", "not UTF-8"])
def test_damage_to_any_file_of_an_entry_is_noticed(cache: Path, name: str, damage: str) -> None:
    before = prepare(a_text(), "bpe", 512)
    file = the_entry(cache) / name
    right = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"{}" + right[2:] if damage == "overwritten" else b"\xff" * len(right))
    assert prepare(a_text(), "bpe", 512) == before
    assert file.read_bytes() == right


def test_a_file_in_the_place_of_an_entry_is_damage_too(cache: Path) -> None:
    before = prepare(a_text(), "bpe", 512)
    facts = the_entry(cache) / "facts.json"
    facts.write_text(json.dumps([1, 2]))
    assert prepare(a_text(), "bpe", 512) == before


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(cache: Path) -> None:
    cache.mkdir()
    (cache / "tokens").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot keep token files in .*tokens: ") as caught:
        prepare(a_text(), "bpe", 512)
    assert "LLMBENCH_CACHE" in (caught.value.hint or "")


def test_a_full_disk_is_the_users_to_mend_and_leaves_nothing(cache: Path) -> None:
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"  # writes beyond fail, as on a full disk
        "from llmbench.data import tokens\n"
        "from llmbench.data.sources import generated\n"
        "from llmbench.errors import UserError\n"
        "try: tokens.prepare(generated('default'), 'wordpiece', 64)\n"
        "except UserError as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot keep token files" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert [path.suffix for path in (cache / "tokens").iterdir()] == [".lock"]


PREPARE = """
import sys
from llmbench.data import tokens
from llmbench.data.sources import load

def say(message):
    print(message, flush=True)
    if message.startswith("encoding") and "hold" in sys.argv:
        sys.stdin.readline()

files = tokens.prepare(load(sys.argv[1]), "bpe", 512, on_progress=say)
print("done", files.sha256, files.train.stat().st_size, flush=True)
"""


def start(path: Path, *hold: str) -> "subprocess.Popen[str]":
    """Prepares a file in a new process; with ``hold`` it stops in the middle of the encoding until told to go on."""
    command = [sys.executable, "-c", PREPARE, str(path), *hold]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start_and_hold(path: Path) -> "subprocess.Popen[str]":
    process = start(path, "hold")
    assert process.stdout is not None
    while "encoding" not in (line := process.stdout.readline()):
        assert line, "the process ended"
    return process


def test_processes_at_once_agree_and_only_one_does_the_work(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(LINES * 10)
    outputs = [process.communicate(timeout=120)[0] for process in [start(file) for _ in range(4)]]
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert outputs[0].splitlines()[-1].startswith("done ")
    assert sum("training a bpe tokenizer" in output for output in outputs) == 1
    assert sorted(path.suffix for path in (cache / "tokens").iterdir()) == ["", ".lock"]


def test_a_process_says_that_it_waits(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(LINES)
    first = start_and_hold(file)
    second = start(file)
    assert second.stdout is not None
    assert "waiting for another llmbench" in second.stdout.readline()
    first.communicate("\n" * 9, timeout=120)
    assert second.communicate(timeout=120)[0].startswith("done ")


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken_for_a_result(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(LINES * 10)
    process = start_and_hold(file)
    process.kill()
    process.communicate(timeout=60)
    tokens = cache / "tokens"
    (left_over,) = tokens.glob("*.tmp")
    assert 0 < (left_over / "entry" / "train.int32").stat().st_size < 4 * 3_000_000

    text = load(str(file))
    files = prepare(text, "bpe", 512)
    assert not list(tokens.glob("*.tmp"))
    assert Tokenizer.from_file(str(files.tokenizer)).decode(ids(files.train)).encode() == text.train.read()


def test_an_interrupt_cleans_up(cache: Path, tmp_path: Path) -> None:
    def interrupt(message: str) -> None:
        if message.startswith("encoding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(a_text(), "bpe", 512, on_progress=interrupt)
    assert [path.suffix for path in (cache / "tokens").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_large_text_is_encoded_in_little_memory(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes(LINES * 50)  # 5 MB
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from llmbench.data import tokens\n"
        "from llmbench.data.sources import load\n"
        "text = load(sys.argv[1])\n"
        "tokens.vocabulary.TRAIN_BYTES = 1 << 18\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "tokens.prepare(text, 'bpe', 512)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80_000, "KiB"


def short(train_tokens: int, valid_tokens: int) -> TokenFiles:
    nowhere = cache_folder()
    return TokenFiles(
        "a text", nowhere, nowhere, nowhere, train_tokens, valid_tokens, 512, {}, "", None, bytes_per_token=4.0
    )


def test_a_text_shorter_than_a_batch_is_refused_with_what_would_fit(cache: Path) -> None:
    require(short(1025, 129), batch_tokens=1024, sequence=128, what="gpt-tiny")
    with pytest.raises(UserError) as caught:
        require(short(1024, 129), batch_tokens=1024, sequence=128, what="gpt-tiny")
    assert caught.value.message == ("a text has 1024 tokens for training; gpt-tiny needs at least 1025 (8 × 128 + 1)")
    assert caught.value.hint == "name a longer text with --data, or make the batch smaller: --set micro_batch_size=7"
    with pytest.raises(UserError) as caught:
        require(short(128, 129), batch_tokens=1024, sequence=128, what="gpt-tiny")
    assert caught.value.hint == "name a longer text with --data"


def test_a_held_out_text_shorter_than_a_sequence_is_refused(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        require(short(1025, 128), batch_tokens=1024, sequence=128, what="gpt-tiny")
    assert caught.value.message == "a text has 128 held-out tokens; gpt-tiny needs at least 129 (128 + 1)"


def test_a_text_without_a_single_token_is_refused_too(cache: Path) -> None:
    files = prepare(a_text(valid="\u200b".encode()), "wordpiece", 512)
    assert files.valid_tokens == 0
    with pytest.raises(UserError, match="0 held-out tokens"):
        require(files, batch_tokens=128, sequence=128, what="bert-tiny")
