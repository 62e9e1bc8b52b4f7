from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from llmbench.worker.tokens import consecutive_windows, random_windows, read, unigram_loss

from .conftest import write_tokens


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_token_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    ids = [0, 1, 255, 256, 50256, 2**31 - 1]
    tokens_N = read(write_tokens(tmp_path / "a.bin", ids))
    assert tokens_N.tolist() == ids
    assert tokens_N.dtype == torch.int32


def test_what_is_read_cannot_change_the_file(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "a.bin", [1, 2, 3])
    read(path)[0] = 7
    assert read(path).tolist() == [1, 2, 3]


def test_consecutive_windows_follow_each_other() -> None:
    tokens_N = torch.arange(10, dtype=torch.int32)
    assert consecutive_windows(tokens_N, 2, length=4, stride=3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert consecutive_windows(tokens_N, 99, length=4, stride=3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert consecutive_windows(tokens_N, 99, length=4, stride=4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert consecutive_windows(tokens_N, 99, length=10, stride=10).tolist() == [list(range(10))]
    assert consecutive_windows(tokens_N, 99, length=4, stride=4).dtype == torch.int64


def test_random_windows_are_of_the_text_and_begin_anywhere() -> None:
    tokens_N = torch.arange(100, 108, dtype=torch.int32)
    windows_CL = random_windows(tokens_N, 500, 6, generator())
    assert windows_CL.shape == (500, 6)
    assert windows_CL.dtype == torch.int64
    assert {tuple(window) for window in windows_CL.tolist()} == {tuple(range(s, s + 6)) for s in (100, 101, 102)}


def test_random_windows_are_those_of_their_seed() -> None:
    tokens_N = torch.arange(1000, dtype=torch.int32)
    one = random_windows(tokens_N, 8, 5, generator(1))
    assert torch.equal(one, random_windows(tokens_N, 8, 5, generator(1)))
    assert not torch.equal(one, random_windows(tokens_N, 8, 5, generator(2)))


def test_the_unigram_loss_is_that_by_hand() -> None:
    train_N = torch.tensor([0, 0, 0, 1], dtype=torch.int32)
    # With one added to each of three words: 4/7, 2/7, 1/7.
    targets = torch.tensor([[0, 1], [2, 0]])
    by_hand = -(2 * math.log(4 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 4
    assert unigram_loss(train_N, targets, vocab_size=3) == pytest.approx(by_hand, rel=1e-12)


def test_the_unigram_loss_of_equal_words_is_that_of_the_vocabulary() -> None:
    train_N = torch.arange(64, dtype=torch.int32).repeat(3)
    assert unigram_loss(train_N, torch.tensor([5, 9]), vocab_size=64) == pytest.approx(math.log(64))
