"""refembed/cli/show.py: escapes and tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.cli.show import decode, escape, spell_shape, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ▁ é 漢", "plain ▁ é 漢"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x00\x9b\x7f", "\\x00\\x9b\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\U000e0001", "\\U000e0001"),
        (b"\xff\xc3", "\\xff\\xc3"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_act_upon_is_spelled_out(text: str | bytes, shown: str) -> None:
    assert escape(text) == shown


@given(st.one_of(st.text(st.characters(codec=None)), st.binary()), st.one_of(st.none(), st.integers(3, 20)))
def test_every_text_becomes_one_printable_line(text: str | bytes, limit: int | None) -> None:
    shown = escape(text, limit)
    assert shown.isprintable()
    shown.encode()
    assert limit is None or len(shown) <= limit


def test_a_limit_ends_in_dots() -> None:
    assert escape("abcdefgh", 8) == "abcdefgh"
    assert escape("abcdefghi", 8) == "abcde..."


@given(st.text(st.characters(codec=None)))
def test_decode_gives_what_can_be_written(text: str) -> None:
    decode(text).encode()


def test_decode_marks_stray_bytes() -> None:
    assert decode(b"a\xffb") == "a\ufffdb"
    assert decode("é") == "é"


def test_a_plain_table_is_aligned_and_never_cut(capsys: Any) -> None:
    table(["name", ">n"], [("a" * 300, "1"), ("b", "22")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name" + " " * 299 + "n", "a" * 300 + "   1", "b" + " " * 301 + "22"]


def test_shapes() -> None:
    assert [spell_shape(s) for s in ((3, 32), (7,), ())] == ["3x32", "7", "()"]
