"""Ids to text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import RequestError
from refembed.tokenizer import Tokenizer
from refembed.tokenizer.base import clean_spaces
from tests.tokenizer.conftest import Make
from tests.tokenizer.vocabs import NORMAL, bert, flag, role


def ids_of(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    """Ids by text."""
    return [tokenizer.vocab.ids[t.encode()] for t in tokens]


@pytest.mark.parametrize(
    ("token", "piece", "hidden"),
    [
        ("▁hello", b" hello", b" hello"),
        ("able", b"able", b"able"),
        ("[SEP]", b"[SEP]", b""),  # control
        ("<other>", b"<other>", b""),  # unknown
        ("</s>", b"</s>", b""),  # control by its text
        ("<user>", b"<user>", b"<user>"),
        ("▁gone", b"", b""),  # unused
        ("typeless", b"", b""),
    ],
)
def test_what_a_token_stands_for_goes_by_what_it_is(plain: Tokenizer, token: str, piece: bytes, hidden: bytes) -> None:
    [i] = ids_of(plain, token)
    assert (plain.piece(i), plain.piece(i, special=False)) == (piece, hidden)


def test_texts_come_back_in_lower_case_with_tidy_spaces(plain: Tokenizer) -> None:
    ids = plain.encode("Hello,  World!")
    assert plain.decode(ids) == "[CLS] hello, world![SEP]"
    assert plain.decode(ids, unparse_special=False) == " hello, world!"


def test_bos_is_removed_where_the_model_adds_it_and_sep_never(plain: Tokenizer, make: Make) -> None:
    ids = plain.encode("hello")
    assert plain.decode(ids, remove_special=True) == " hello[SEP]"
    assert make(None, flag("add_bos_token", False)).decode(ids, remove_special=True) == "[CLS] hello[SEP]"
    assert make(None, role("eos", 102)).decode(ids, remove_special=True) == " hello[SEP]"
    assert make(None, flag("add_eos_token", True), role("eos", 102)).decode(ids, remove_special=True) == " hello"


def test_with_a_space_prefix_the_first_space_goes_unless_bos_did(make: Make) -> None:
    tokenizer = make(bert("▁▁x", kind=NORMAL), flag("add_space_prefix", True))
    hello = ids_of(tokenizer, "▁hello", "▁world")
    assert tokenizer.decode(hello) == "hello world"
    assert tokenizer.decode(ids_of(tokenizer, "▁▁x")) == " x"
    assert tokenizer.decode([101, *hello], remove_special=True) == " hello world"


def test_one_id_that_is_both_bos_and_eos_is_removed_once(make: Make) -> None:
    tokenizer = make(None, flag("add_eos_token", True), role("eos", 101))
    assert tokenizer.decode([101], remove_special=True) == ""
    assert tokenizer.decode([101, 101], remove_special=True) == ""
    assert tokenizer.decode([101, 101, 101], remove_special=True) == "[CLS]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (b"a , b . c ! d ?", b"a, b. c! d?"),
        (b"a  .", b"a ."),  # one space only
        (b" .", b"."),
        (b"a ; b", b"a ; b"),
        (b"a ' b", b"a'b"),
        (b"a ' ' b", b"a'' b"),  # the space between is taken once
        (b"it 's I 'm you 're I 've", b"it's I'm you're I've"),
        (b"don 't I 'd I 'll", b"don 't I 'd I 'll"),
        (b"a 'r", b"a 'r"),
        (b"\xc2\xa0.", b"\xc2\xa0."),
    ],
)
def test_spaces_that_writing_does_not_have_are_dropped(text: bytes, clean: bytes) -> None:
    assert clean_spaces(text) == clean


@pytest.mark.parametrize("id", [-1, 1 << 31, "a", None, 1.0])
def test_what_is_no_id_is_an_error(plain: Tokenizer, id: Any) -> None:
    with pytest.raises(RequestError, match=r"token id .* is not in the vocabulary\n  hint: ids are 0 to"):
        plain.decode([id])


def test_ids_may_come_as_numpy_numbers(plain: Tokenizer) -> None:
    ids: Any = np.array(plain.encode("hello"))
    assert plain.decode(ids) == "[CLS] hello[SEP]"
    assert plain.decode([]) == ""


def test_bytes_that_are_no_utf8_are_shown_as_such(bytewise: Tokenizer) -> None:
    ids = [bytewise.vocab.ids[b"\xff"]]
    assert (bytewise.decode(ids), bytewise.decode_bytes(ids)) == ("\ufffd", b"\xff")


@given(ids=st.lists(st.integers(0, 250)))
def test_any_ids_have_a_text(plain: Tokenizer, ids: list[int]) -> None:
    assert isinstance(plain.decode(ids), str)
    shown, hidden = plain.decode_bytes(ids), plain.decode_bytes(ids, unparse_special=False)
    assert len(hidden) <= len(shown)
