"""Code points: Unicode 15.1 whatever the interpreter has, and UTF-8 read as llama.cpp reads it."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import RequestError
from refembed.testing.texts import TOO_HIGH, TOO_HIGH_SHAPE
from refembed.tokenizer import unicode
from tools import generate_unicode

CODE_POINTS = range(0x110000)

# Over all code points, from unicodedata2 15.1.0: first letters of the categories, U for Cn; first code points of NFD.
# Lowercase from str.lower of CPython 3.11, first character. The live tests hold all three against llama.cpp.
CATEGORIES = "6c85e910feb3d9987fd756597c42b903e9f5b94d5bc0bf16155dacac2d1b7bea"
DECOMPOSED = "be478c7ac225553af153ffb92fa71d43f7b3e4b9578fe621d840fea89f4ad7bf"
LOWERCASE = "58e1a8d1353107e9c86220f57463ecf271686983671b47bb1af63b3c9d83fd33"


def digest(numbers: list[int]) -> str:
    """Code points -> the digest the values above are."""
    return hashlib.sha256(b"".join(n.to_bytes(3, "little") for n in numbers)).hexdigest()


def test_categories_are_unicode_15_1() -> None:
    assert digest([ord(unicode.category(cp)) for cp in CODE_POINTS]) == CATEGORIES


def test_first_code_points_of_decompositions_are_unicode_15_1() -> None:
    assert digest([unicode.first_decomposed(cp) for cp in CODE_POINTS]) == DECOMPOSED


def test_lowercase_is_unicode_15_1() -> None:
    assert digest([unicode.lower(cp) for cp in CODE_POINTS]) == LOWERCASE


def test_a_later_interpreter_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unicode 16 gave U+105C9 a decomposition; to 15.1 the code point is unassigned."""
    later = {"\U000105c9": "\U000105d2\u0307"}
    monkeypatch.setattr(unicodedata, "normalize", lambda form, s: later.get(s, s))
    assert unicode.first_decomposed(0x105C9) == 0x105C9


def test_white_space_is_that_of_python_without_the_four_separators() -> None:
    assert {cp for cp in CODE_POINTS if chr(cp).isspace()} - unicode.SPACES == {0x1C, 0x1D, 0x1E, 0x1F}
    assert len(unicode.SPACES) == 25
    assert all(chr(cp).isspace() for cp in unicode.SPACES)


@pytest.mark.parametrize(
    ("cp", "first"),
    [(ord("é"), ord("e")), (0x1EC7, ord("e")), (0xD55C, 0x1112), (0x9CB, 0x9C7), (0x212B, ord("A")), (0xFB01, 0xFB01)],
)
def test_of_a_decomposition_only_the_first_code_point_stays(cp: int, first: int) -> None:
    assert unicode.first_decomposed(cp) == first


@pytest.mark.parametrize(("upper", "lower"), ["Aa", "Σσ", "İi", "ẞß", "\u212ak", "ﬁﬁ", "Აა", "𐐀𐐨"])
def test_lowercase_is_one_to_one(upper: str, lower: str) -> None:
    assert chr(unicode.lower(ord(upper))) == lower


def test_the_table_is_what_its_generator_writes() -> None:
    pairs = {cp: unicode.lower(cp) for cp in CODE_POINTS if unicode.lower(cp) != cp}
    written = generate_unicode.table(map(unicode.category, CODE_POINTS), pairs)
    assert generate_unicode.TARGET.read_text(encoding="utf-8") == written


# -- UTF-8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"ab\xffcd", "ab\ufffdcd"),  # a byte that begins nothing
        (b"\x80\xbf", "\ufffd\ufffd"),
        (b"\xe2\x82", "\ufffd\ufffd"),  # cut short: one for each byte
        (b"\xe2A\x82", "\ufffdA\ufffd"),
        (b"\xc0\xaf\xe0\x80\xaf\xf0\x80\x80\xaf", "///"),  # overlong
        (b"\xc0\x80", "\0"),
        (b"\xed\xa0\x80", "\ud800"),  # a surrogate
        (b"\xed\xa0\xbd\xed\xb8\x80", "\ud83d\ude00"),  # two, which do not become one character
        (b"\xf8\x88\x80\x80\x80a", "\ufffd" * 5 + "a"),
        (b"\xf4\x8f\xbf\xbf", "\U0010ffff"),
        (b"\xf0\x9f\x98", "\ufffd\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_utf8_is_read_by_its_shape_alone(raw: bytes, text: str) -> None:
    assert unicode.decode(raw) == text


@pytest.mark.parametrize("raw", TOO_HIGH)
def test_a_code_point_above_10ffff_is_an_error_that_names_it(raw: bytes) -> None:
    with pytest.raises(
        RequestError, match=r"code point 1[0-9A-F]{5} \(bytes F[4-7]( [89AB][0-9A-F]){3}\), above 10FFFF"
    ):
        unicode.decode(raw)


@given(st.text())
def test_proper_utf8_is_read_as_python_reads_it(text: str) -> None:
    assert unicode.decode(text.encode()) == text


@given(st.binary())
def test_without_lead_bytes_each_byte_is_one_character(raw: bytes) -> None:
    raw = bytes(b & 0xBF for b in raw)
    assert unicode.decode(raw) == "".join(chr(b) if b < 0x80 else "\ufffd" for b in raw)


@given(st.binary())
def test_any_bytes_are_text_or_one_error(raw: bytes) -> None:
    try:
        unicode.decode(raw)
    except RequestError:
        assert TOO_HIGH_SHAPE.search(raw)
