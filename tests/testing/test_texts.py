"""The texts that tokenizers are compared on."""

from __future__ import annotations

import hashlib
import unicodedata

from hypothesis import given

from refembed.testing.strategies_text import raw_texts, texts
from refembed.testing.texts import SPECIAL, TOO_HIGH, TOO_HIGH_SHAPE, random_texts


def test_a_seed_gives_the_same_texts_everywhere() -> None:
    """Expectations of other engines are recorded for these texts: a change here voids them."""
    raw = [t.encode() if isinstance(t, str) else b"\xff" + t for t in random_texts(0, 2000)]
    assert hashlib.sha256(b"\xfe".join(raw)).hexdigest()[:32] == "ef3267416d250fd64359f7e59b02e20a"


def test_a_longer_list_begins_with_the_shorter() -> None:
    assert random_texts(3, 100)[:40] == random_texts(3, 40)
    assert random_texts(3, 40) != random_texts(4, 40)


def test_texts_reach_into_every_corner() -> None:
    found = random_texts(1, 5000)
    characters = {c for t in found if isinstance(t, str) for c in t}
    assert {unicodedata.category(c) for c in characters} >= set(
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()  # noqa: SIM905  # a table
    )
    assert {ord(c) >> 16 for c in characters} == set(range(17))
    assert all(any(s in t for t in found if isinstance(t, str)) for s in SPECIAL)
    assert 300 < sum(isinstance(t, bytes) for t in found) < 1000
    assert "" in found


def test_str_can_be_utf8_and_bytes_hold_no_code_point_too_high() -> None:
    for text in random_texts(2, 5000):
        raw = text.encode() if isinstance(text, str) else text
        assert not TOO_HIGH_SHAPE.search(raw)
    assert all(TOO_HIGH_SHAPE.search(raw) for raw in TOO_HIGH)


@given(texts())
def test_drawn_texts_can_be_utf8(text: str) -> None:
    assert text.encode().decode() == text


@given(raw_texts())
def test_drawn_bytes_hold_no_code_point_too_high(raw: bytes) -> None:
    assert not TOO_HIGH_SHAPE.search(raw)
