"""StringArray behaves as a list of str, and gives the stored bytes back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.gguf import StringArray
from refembed.gguf.cursor import Cursor


def array(strings, order="<", before=b""):
    """The strings as they stand in a file, behind some other bytes."""
    data = before + b"".join(struct.pack(f"{order}Q", len(s)) + s for s in strings)
    cursor = Cursor(memoryview(data), "strings.gguf", order, len(before))
    ends = cursor.string_ends(len(strings), "strings")
    assert cursor.left == 0
    return StringArray(memoryview(data), len(before), ends)


@given(st.lists(st.binary(max_size=12), max_size=8), st.sampled_from("<>"), st.binary(max_size=9))
def test_every_string_comes_back_byte_for_byte(strings, order, before):
    a = array(strings, order, before)
    assert len(a) == len(strings)
    assert a.to_bytes() == strings
    assert [a.bytes(i) for i in range(len(a))] == strings
    assert [a.bytes(i - len(a)) for i in range(len(a))] == strings


@given(st.lists(st.text(max_size=12), max_size=8), st.data())
def test_it_is_the_list_of_its_strings(strings, data):
    a = array([s.encode() for s in strings])
    assert a == strings
    assert a == tuple(strings)
    assert list(a) == strings
    assert list(reversed(a)) == strings[::-1]
    where = data.draw(st.slices(len(strings)))
    assert a[where] == strings[where]
    for s in strings:
        assert s in a
        assert a.index(s) == strings.index(s)


def test_bytes_that_are_no_utf8_are_replaced_in_text_only():
    a = array([b"\xff\xfeok", "é".encode()])
    assert a[0] == "\ufffd\ufffdok"
    assert list(a) == ["\ufffd\ufffdok", "é"]
    assert a.bytes(0) == b"\xff\xfeok"


def test_equality_looks_at_bytes_and_length():
    assert array([b"a", b"b"]) == array([b"a", b"b"], ">", b"xx")
    assert array([b"\xff"]) != array([b"\xfe"])  # both are U+FFFD as text
    assert array([b"a"]) != ["a", "a"]
    assert array([b"a"]) != "a"


@pytest.mark.parametrize("i", [3, -4, 2**70])
def test_an_index_past_either_end_is_an_index_error(i):
    with pytest.raises(IndexError, match="of 3"):
        array([b"a", b"b", b"c"]).bytes(i)


def test_it_cannot_be_hashed_as_lists_cannot():
    with pytest.raises(TypeError, match="unhashable"):
        hash(array([b"a"]))


def test_repr_is_short():
    assert repr(array([b"a"])) == "StringArray(['a'], 1 strings)"
    assert repr(array([b"a"] * 1000)) == "StringArray(['a', 'a', 'a', ...], 1,000 strings)"
