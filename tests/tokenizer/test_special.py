"""Cutting special tokens out of texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.tokenizer import Tokenizer
from refembed.tokenizer.special import Special, cut, partition, specials
from tests.tokenizer.conftest import Make
from tests.tokenizer.vocabs import CONTROL, HEAD, NORMAL, UNKNOWN, UNUSED, USER_DEFINED


def special(id: int, text: bytes, lstrip: bool = False, rstrip: bool = False) -> Special:
    """A special token that strips nothing."""
    return Special(id, text, lstrip, rstrip)


def test_the_longest_token_wins_over_the_leftmost() -> None:
    assert partition(b"abcd", (special(1, b"bcd"), special(0, b"ab"))) == [b"a", 1]


def test_occurrences_do_not_overlap_and_the_left_one_counts() -> None:
    assert partition(b"aaa", (special(0, b"aa"),)) == [0, b"a"]


def test_no_fragment_is_empty() -> None:
    assert partition(b"", (special(0, b"a"),)) == []
    assert partition(b"aba", (special(0, b"a"), special(1, b"b"))) == [0, 1, 0]


@pytest.mark.parametrize(
    ("lstrip", "rstrip", "expected"),
    [
        (False, False, [b"x \t\n", 7, b"\r \x0b\x0cy"]),
        (True, False, [b"x", 7, b"\r \x0b\x0cy"]),
        (False, True, [b"x \t\n", 7, b"y"]),
        (True, True, [b"x", 7, b"y"]),
    ],
)
def test_a_stripping_token_takes_white_space_with_it(lstrip: bool, rstrip: bool, expected: list[bytes | int]) -> None:
    assert cut(b"x \t\n<m>\r \x0b\x0cy", special(7, b"<m>", lstrip, rstrip)) == expected


def test_white_space_beyond_ascii_is_not_stripped() -> None:
    assert cut("\u00a0<m>\u3000".encode(), special(7, b"<m>", True, True)) == ["\u00a0".encode(), 7, "\u3000".encode()]


def test_what_is_stripped_is_gone_for_the_next_search() -> None:
    assert cut(b"a x x", special(7, b" x", rstrip=True)) == [b"a", 7, b"x"]


def test_a_fragment_of_nothing_but_stripped_space_vanishes() -> None:
    assert cut(b"  <m>  ", special(7, b"<m>", True, True)) == [7]


@given(st.text("ab<>", max_size=60), st.lists(st.text("ab<>", min_size=1, max_size=4), unique=True, max_size=5))
def test_fragments_put_together_are_the_text(text: str, texts: list[str]) -> None:
    tokens = [t.encode() for t in sorted(texts, key=len, reverse=True)]
    fragments = partition(text.encode(), tuple(special(i, t) for i, t in enumerate(tokens)))
    assert b"".join(tokens[f] if isinstance(f, int) else f for f in fragments) == text.encode()
    assert not any(t in f for f in fragments if isinstance(f, bytes) for t in tokens)


def test_which_tokens_are_cut_out_depends_on_their_bits(make: Make) -> None:
    tokens = [
        ("<c>", CONTROL),
        ("<user>", USER_DEFINED),
        ("<n>", NORMAL),
        ("<unk>", UNKNOWN),
        ("<x>", UNUSED),
        ("<0>", 0),
    ]
    vocab = make([*HEAD, *tokens]).vocab
    assert [s.text for s in specials(vocab, parse_special=False)] == [b"<user>"]
    assert {s.text for s in specials(vocab, parse_special=True)} == {
        *(b"<user>", b"<unk>", b"<c>", b"[PAD]", b"[UNK]", b"[CLS]", b"[SEP]", b"[MASK]")
    }


def test_longest_means_bytes_not_characters(make: Make) -> None:
    vocab = make([*HEAD, ("<abc>", USER_DEFINED), ("<中>", USER_DEFINED), ("<éé>", USER_DEFINED)]).vocab
    assert [s.text.decode() for s in specials(vocab, parse_special=False)] == ["<éé>", "<abc>", "<中>"]


def test_cutting_takes_linear_time(plain: Tokenizer) -> None:
    """Half a million occurrences; a quadratic search would take an hour."""
    start = time.perf_counter()
    ids = plain.encode("[SEP] <user>" * 250_000, add_special=False, parse_special=True)
    assert len(ids) == 500_000
    assert time.perf_counter() - start < 20
