"""RWKV: the longest token first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import ModelError
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.tokenizer.rwkv import unescape
from tests.tokenizer.kinds_vocabs import VARIANTS, write_vocab
from tests.tokenizer.vocabs import CONTROL, NORMAL, Typed, flag, role

LETTERS: list[Typed] = [("<s>", CONTROL), *((t, NORMAL) for t in ("a", "b", "ab", "abcd", "c", "\\n", "\\xc3\\xa9"))]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """All bytes and many longer tokens."""
    return load_tokenizer(write_vocab(tmp_path_factory.mktemp("rwkv") / "vocab.gguf", VARIANTS["rwkv-rwkv"]))


@pytest.fixture
def small(tmp_path: Path) -> Tokenizer:
    """LETTERS, with an unknown token."""
    keys = [
        role("unknown", 0),
        role("bos", 1),
        role("eos", 1),
        flag("add_bos_token", True),
        flag("add_eos_token", True),
    ]
    return load_tokenizer(write_vocab(tmp_path / "small.gguf", ("rwkv", LETTERS, keys)))


@pytest.mark.parametrize(
    ("stored", "token"),
    [
        (b"plain \xe4", b"plain \xe4"),
        (b"\\t\\n\\r\\\\\\'", b"\t\n\r\\'"),
        (b"\\x00\\xe4\\x5c", b"\0\xe4\\"),
        (b"\\q\\\xff\\\n", b"q\xff\n"),
        (b"a\\", b"a"),
        (b"a\\x4", b"a"),
        (b"\\xAB", b"\x22"),  # llama.cpp reads lower-case digits only: 17 * 16 + 18, of which one byte is left
    ],
)
def test_tokens_are_stored_with_escapes(stored: bytes, token: bytes) -> None:
    assert unescape(stored) == token


def test_the_longest_token_comes_first(small: Tokenizer) -> None:
    assert small.encode("abcabcdab") == [3, 5, 4, 3]
    assert small.encode("é\nb") == [7, 6, 2]


def test_nothing_is_added_whatever_the_file_says(small: Tokenizer) -> None:
    assert small.encode("a", add_special=True) == [1]


def test_a_byte_that_begins_no_token_is_unknown(small: Tokenizer) -> None:
    assert small.encode("xaü"[:2]) == [0, 1]
    assert small.encode(b"\xff\xff") == [0, 0]


def test_a_text_on_which_llama_cpp_never_ends_is_an_error(small: Tokenizer) -> None:
    with pytest.raises(ModelError, match=r"small\.gguf: tokens begin with byte 0xc3, but neither"):
        small.encode("aü")


def test_an_unknown_byte_without_an_unknown_token_is_an_error(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_vocab(tmp_path / "small.gguf", ("rwkv", LETTERS, [])))
    with pytest.raises(ModelError, match=r"small\.gguf: the tokenizer needs its unk token"):
        tokenizer.encode("x")


def test_ids_come_back_without_escapes(small: Tokenizer) -> None:
    assert small.decode([1, 6, 7, 0]) == "a\né<s>"
    assert small.decode([1, 6, 7, 0], unparse_special=False) == "a\né"


@given(text=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_bytes_come_back(large: Tokenizer, text: bytes) -> None:
    assert large.decode_bytes(large.encode(text)) == text
