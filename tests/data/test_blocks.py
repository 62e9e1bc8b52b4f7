"""Cutting text: nothing lost, no character broken, at line ends where there are any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.data.blocks import blocks, cut

TEXTS = st.text(alphabet=st.sampled_from("ab \né漢🤗"), max_size=200).map(str.encode)


@given(TEXTS, st.integers(4, 50))
def test_blocks_are_the_text_in_whole_characters(text: bytes, size: int) -> None:
    pieces = list(blocks(text, size))
    assert b"".join(pieces) == text
    for piece in pieces:
        assert 0 < len(piece) <= size
        piece.decode()


def test_blocks_end_at_line_ends_where_there_are_any() -> None:
    assert list(blocks(b"one two\nthree\nfour five six", 12)) == [b"one two\n", b"three\n", b"four five ", b"six"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"aaaa bb\ncc dd ee", 8),  # after the line end, though a space lies nearer
        (b"aaaa bb cc dd ee", 11),  # after the last space
        (b"aaaaaaaaaaaaaaaa", 12),  # anywhere
        ("aaaaaaaaaa漢aaa".encode(), 10),  # but not inside a character
    ],
)
def test_where_a_text_is_cut(text: bytes, expected: int) -> None:
    assert cut(text, 5, 12) == expected
