"""Where texts may be cut, and the parts that are cached."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from refembed.tokenizer.bounded_cache import MAX_PIECES_KEPT
from refembed.tokenizer.split_points import KEPT_LENGTH, SplitPoints, cached_by_piece, sizes

TEXTS = st.text("ab▁é日😀\0", max_size=12)


def test_a_text_is_cut_where_no_token_has_the_two_neighbors() -> None:
    split_points = SplitPoints(t.encode() for t in ("▁the", "▁cat", "t.", "▁▁"))
    assert split_points.cut("▁the▁cat.▁▁dog") == ["▁the", "▁cat.", "▁▁", "d", "o", "g"]
    assert (split_points.cut("a"), split_points.cut("")) == (["a"], [])


@given(tokens=st.lists(TEXTS), text=TEXTS)
def test_parts_make_up_the_text_and_no_token_reaches_across(tokens: list[str], text: str) -> None:
    parts = SplitPoints(t.encode() for t in tokens).cut(text)
    assert "".join(parts) == text
    assert all(parts)
    pairs = {t[i : i + 2] for t in tokens for i in range(len(t) - 1)}
    assert not pairs & {left[-1] + right[0] for left, right in itertools.pairwise(parts)}


def test_hardly_a_seam_is_hidden() -> None:
    rng = random.Random(0)
    letters = [chr(c) for c in (*range(0x21, 0x7F), *range(0x400, 0x460), *range(0x4E00, 0x9000))]
    pairs = {rng.choice(letters) + rng.choice(letters) for _ in range(75_000)}  # as many as large vocabularies have
    absent = [a + b for a in letters[:1500] for b in (*letters[:20], "▁") if a + b not in pairs]
    split_points = SplitPoints(pair.encode() for pair in pairs)
    assert sum(len(split_points.cut(pair)) == 1 for pair in absent[:20_000]) < 0.005 * 20_000


def test_tokens_that_are_no_utf8_hide_no_pair_of_their_neighbors() -> None:
    split_points = SplitPoints([b"ab", b"\xe2", b"cd", b"\xff\xf0", b"ef"])
    assert split_points.cut("abcdefa") == ["ab", "cd", "ef", "a"]


def test_short_parts_are_tokenized_once() -> None:
    asked: list[bytes] = []

    def tokenize(part: bytes) -> list[int]:
        asked.append(part)
        return list(part)

    parts = cached_by_piece(tokenize)
    long = "x" * (KEPT_LENGTH + 1)
    assert parts["ab"] == parts["ab"] == (97, 98)
    assert parts[long] == parts[long]
    assert asked == [b"ab", long.encode(), long.encode()]


def test_no_text_makes_the_memory_grow_for_good() -> None:
    parts = cached_by_piece(list)
    assert all(parts[str(i)] for i in range(MAX_PIECES_KEPT + 10))
    assert len(parts) == 10


def test_sizes_are_by_first_byte_and_the_longest_first() -> None:
    assert sizes([b"a", b"abc", b"axy", b"b", b"ab", b"", b"\xe2\x96"]) == {97: (3, 2, 1), 98: (1,), 0xE2: (2,)}
