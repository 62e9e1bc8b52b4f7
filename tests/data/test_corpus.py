"""The generated corpus: the same bytes everywhere, like text, and of exactly known entropy."""

import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from llmbench.data import corpus
from llmbench.data.chain import UNIT, Node, entropy_rate, source
from llmbench.data.lexicon import lexicon

DIALECTS = ["default", "base"]
SHA256 = {
    "default": (
        "5358f63af943d0c9901f2a5aa728fe05bbc362f165cc113d0cae835a7cbf366f",
        "0d1b7ba0cba5fc6bf7a7e43c8ab08b4039129df056ec4469f605e199635bc012",
    ),
    "base": (
        "6500af2fe18124283c3a5b1893af9d08fc516ef6d52f3d707eaa5006b54f66be",
        "a01a9321aefffc8b06ba8ea8ab09b466b844e910cbfbae32b40d87741fa3916c",
    ),
}


def score(text: str, dialect: str) -> list[float]:
    """-ln p of every word and mark of a text, by one who sees the text only, from the integer probabilities."""
    at, costs = source(corpus.DIALECTS[dialect])[0], []
    for piece in re.findall(r"\w+|[.,?\n]", text):
        word = piece.lower()
        (index,) = [index for index, option in enumerate(at.options) if word in option.words.words]
        option = at.options[index]
        costs.append(
            -math.log(share(at.distribution.cumulative, index))
            - math.log(share(option.words.distribution.cumulative, option.words.words.index(word)))
        )
        at = option.target
    assert at.state.slot == "paragraph"
    return costs


def share(cumulative: list[int], index: int) -> float:
    return (cumulative[index] - (cumulative[index - 1] if index else 0)) / UNIT


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_bytes_are_pinned(dialect: str) -> None:
    made = corpus.generate(dialect)
    digests = tuple(hashlib.sha256(split.text.encode()).hexdigest() for split in (made.train, made.valid))
    assert digests == SHA256[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_facts_written_down_are_those_of_the_text(dialect: str) -> None:
    made = corpus.generate(dialect)
    for name, split in (("train", made.train), ("valid", made.valid)):
        written_down = corpus.FACTS[dialect][name]
        assert split.facts[:2] == written_down[:2]
        assert split.nats == pytest.approx(written_down.nats, abs=1e-3)


def test_another_process_with_another_hash_seed_writes_the_same() -> None:
    code = "from llmbench.data import corpus; print(corpus.generate('base').valid.facts.sha256)"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "4711")
    }
    assert outputs == {SHA256["base"][1]}


def test_a_text_that_differs_from_the_facts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "draws", lambda seed: iter(range(0, 1 << 32, 1 << 10)))
    with pytest.raises(RuntimeError, match="differs from what"):
        corpus.generate.__wrapped__("default")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_reader_of_the_text_alone_finds_the_same_probability(dialect: str) -> None:
    made = corpus.generate(dialect)
    for split in (made.train, made.valid):
        assert math.fsum(score(split.text, dialect)) == pytest.approx(split.nats, rel=1e-9)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_probabilities_of_every_state_sum_to_one_and_none_is_zero(dialect: str) -> None:
    for node in source(corpus.DIALECTS[dialect]):
        for distribution in (node.distribution, *(option.words.distribution for option in node.options)):
            assert distribution.cumulative[-1] == UNIT
            assert all(low < high for low, high in zip([0, *distribution.cumulative], distribution.cumulative))  # noqa: B905
            assert math.fsum(distribution.probability) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_word_can_come_from_two_options_of_a_state(dialect: str) -> None:
    def possible(node: Node) -> list[str]:
        return [word for option in node.options for word in option.words.words]

    for node in source(corpus.DIALECTS[dialect]):
        assert len(possible(node)) == len(set(possible(node))), node.state


def test_no_two_words_are_spelt_alike_and_none_is_hard_to_say() -> None:
    spelt = [word for listed in lexicon().values() for word in listed]
    assert len(spelt) == len(set(spelt)) == 1956
    assert all(re.fullmatch(r"[a-z]{2,12}", word) and re.search(r"[aeiou]", word) for word in spelt)
    assert not [word for word in spelt if re.search(r"[^aeiou]{5}", word)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_computed_entropy_rate_is_the_realised_one(dialect: str) -> None:
    rate = entropy_rate(corpus.DIALECTS[dialect])
    train = corpus.generate(dialect).train
    paragraphs = train.text.splitlines(keepends=True)
    # Paragraphs are independent, so the ratio of sums over them has the standard error of a ratio estimator.
    sizes = [(len(words(paragraph)), len(paragraph)) for paragraph in paragraphs]
    costs = [math.fsum(score(paragraph, dialect)) for paragraph in paragraphs]
    for expected, counts in ((rate.nats_per_word, [w for w, _ in sizes]), (rate.nats_per_byte, [b for _, b in sizes])):
        realised = train.nats / sum(counts)
        residuals = [cost - realised * count for cost, count in zip(costs, counts, strict=True)]
        error = math.sqrt(math.fsum(r * r for r in residuals)) / sum(counts)
        assert error < 0.005 * expected
        assert abs(realised - expected) < 3 * error


def test_the_text_reads_like_text() -> None:
    text = corpus.generate().train.text
    assert text.isascii()
    for paragraph in text.splitlines():
        assert re.fullmatch(r"([A-Z][a-z]*(,? [a-z]+)*[.?] ?)+", paragraph), paragraph
    sentences = re.findall(r"[^.?\n]+[.?]", text)
    assert 5 < len(words(text)) / len(sentences) < 15
    assert 0.05 < sum(sentence.endswith("?") for sentence in sentences) / len(sentences) < 0.25
    assert sum("," in sentence for sentence in sentences) > 0.1 * len(sentences)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_frequencies_follow_zipfs_law(dialect: str) -> None:
    counts = sorted(Counter(words(corpus.generate(dialect).train.text)).values(), reverse=True)
    ranks = [16, 32, 64, 128, 256, 512, 1024]
    xs, ys = [math.log(rank) for rank in ranks], [math.log(counts[rank - 1]) for rank in ranks]
    slope = covariance(xs, ys) / covariance(xs, xs)
    assert -1.15 < slope < -0.85
    assert covariance(xs, ys) ** 2 / (covariance(xs, xs) * covariance(ys, ys)) > 0.98


def covariance(xs: list[float], ys: list[float]) -> float:
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))


def test_there_is_much_to_learn_beyond_word_frequencies() -> None:
    train = corpus.generate().train
    counts = Counter(words(train.text))
    total = counts.total()
    unigram = -sum(count / total * math.log(count / total) for count in counts.values())
    assert train.nats / total < 0.6 * unigram


def test_dialects_share_their_words_but_not_their_habits() -> None:
    default, base = (Counter(words(corpus.generate(dialect).train.text)) for dialect in DIALECTS)
    shared = set(default) & set(base)
    assert len(shared) > 0.98 * len(default)
    frequent = [{word for word, _ in counts.most_common(100)} for counts in (default, base)]
    assert len(frequent[0] & frequent[1]) < 50
    with pytest.raises(ValueError, match="not enough values"):  # a topic's verbs are not its verbs in the other dialect
        score(corpus.generate("default").valid.text, "base")


def test_both_splits_are_whole_paragraphs_of_about_the_size_said() -> None:
    made = corpus.generate()
    for split, size in ((made.train, 1_000_000), (made.valid, 100_000)):
        assert size <= len(split.text) < size + 5_000
        assert split.text.endswith("\n")
