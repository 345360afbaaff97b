"""Unigram: normalization, then the best path."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import ModelError, RefembedError
from refembed.testing.texts import random_texts
from refembed.tokenizer import load_tokenizer
from refembed.tokenizer.unigram import Unigram, exact_length, unknown_score
from tests.tokenizer.kinds_charsmap import write_charsmap
from tests.tokenizer.kinds_live import NASTY
from tests.tokenizer.kinds_vocabs import T5_HEAD, VARIANTS, charsmap, scores, write_vocab
from tests.tokenizer.vocabs import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, Key, Typed, flag, role

Make = Callable[..., Unigram]
PREFIX, MERGE = flag("add_space_prefix", True), flag("remove_extra_whitespaces", True)
NAMES = [name for name in VARIANTS if name.startswith("unigram-")]


def load(path: Path) -> Unigram:
    """A tokenizer of the kind tested here."""
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, Unigram)
    return tokenizer


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make({token: score}, *keys): a tokenizer of the head of T5 and these; `more` tokens have score -1."""

    def make(scored: dict[str, float], *keys: Key, more: list[Typed] | None = None) -> Unigram:
        tokens: list[Typed] = [*T5_HEAD, *(more or []), *((t, NORMAL) for t in scored)]
        values = [-1.0] * (len(tokens) - len(scored)) + list(scored.values())
        return load(write_vocab(tmp_path / "unigram.gguf", ("t5", tokens, [scores(values), *keys])))

    return make


@pytest.fixture(scope="module", params=NAMES)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Unigram:
    """Each vocabulary that llama.cpp is asked about, too."""
    return load(write_vocab(tmp_path_factory.mktemp("unigram") / "vocab.gguf", VARIANTS[request.param]))


def shown(tokenizer: Unigram, text: str | bytes, parse_special: bool = False) -> list[str]:
    """The tokens of a text."""
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    return [tokenizer.vocab.tokens[i].decode() for i in ids]


# -- normalization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "normal"),
    [([PREFIX, MERGE], "▁a▁b"), ([PREFIX], "▁▁▁a▁▁b▁"), ([MERGE], "▁a▁b"), ([], "▁▁a▁▁b▁")],
    ids=["prefix+merge", "prefix", "merge", "neither"],
)
def test_spaces_become_word_starts_as_two_keys_say(make: Make, keys: list[Key], normal: str) -> None:
    tokenizer = make({}, *keys)
    assert tokenizer.normalizer(b"  a  b ") == normal.encode()
    assert tokenizer.normalizer(b"   ") == (b"" if MERGE in keys else "▁▁▁".encode())
    assert tokenizer.normalizer(b"") == b""


def test_each_text_after_a_special_token_starts_a_word(make: Make) -> None:
    tokenizer = make({"a": -1, "▁a": -1}, PREFIX, MERGE)
    assert shown(tokenizer, "a</s>a </s>", parse_special=True) == ["▁a", "</s>", "▁a", "</s>"]


def test_the_charsmap_replaces_before_spaces_are_looked_at(make: Make) -> None:
    tokenizer = make({}, charsmap(write_charsmap({b"x": b" a ", b"\n": b" ", b"y": b""})), PREFIX, MERGE)
    assert tokenizer.normalizer(b"bxb\nyb") == "▁b▁a▁b▁b".encode()


def test_the_beginning_of_a_user_defined_token_is_not_replaced(make: Make) -> None:
    fullwidth = charsmap(write_charsmap({"Ａ".encode(): b"A", "ａ".encode(): b"a", b"<": b"(", b"m": b"n"}))
    tokenizer = make({}, fullwidth, more=[("Ａz", USER_DEFINED), ("<m", USER_DEFINED)])
    assert tokenizer.normalizer("Ａ".encode()) == "Ａ".encode()
    assert tokenizer.normalizer("ａ".encode()) == b"\xef" + "\ufffd\ufffd".encode()  # EF begins both characters
    assert tokenizer.normalizer(b"<mm<") == b"<mn<"


def test_bytes_that_are_no_utf8_become_replacement_characters(make: Make) -> None:
    tokenizer = make({}, charsmap(write_charsmap({"\ufffd".encode(): b" "})))
    assert tokenizer.normalizer(b"a\xffb\xe2\x82") == "a\ufffdb\ufffd\ufffd".encode()  # these are not replaced again
    assert tokenizer.normalizer("a\ufffd".encode()) == "a▁".encode()
    as_they_are = b"\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\0"
    assert tokenizer.normalizer(as_they_are) == as_they_are


def test_runs_in_one_go_are_what_each_character_alone_becomes(variant: Unigram) -> None:
    normalizer = variant.normalizer
    for text in (*NASTY, *random_texts(31, 300), *("a\u0301" * k + "и\u0306ab" * k for k in (100, 127, 128, 300))):
        raw = text.encode() if isinstance(text, str) else text
        done, at = b"", 0
        while at < len(raw):
            replacement, size = normalizer.replace_one(raw, at)
            done, at = done + replacement, at + size
        assert normalizer.replace(raw) == done


def test_long_texts_need_little_memory(make: Make) -> None:
    tokenizer = make({"a": -1.0})
    tracemalloc.start()
    tokenizer.normalizer(b"ab" * 500_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


# -- the best path ---------------------------------------------------------------------------------------------------


def test_the_highest_sum_wins(make: Make) -> None:
    assert shown(make({"a": -1, "b": -1, "ab": -3}), "ab") == ["a", "b"]
    assert shown(make({"a": -1, "b": -1, "ab": -1.5}), "ab") == ["ab"]


def test_of_equal_sums_the_longer_last_token_wins(make: Make) -> None:
    assert shown(make({"a": -1, "b": -1, "c": -1, "ab": -2, "bc": -2}), "abc") == ["a", "bc"]


def test_a_user_defined_token_counts_nothing(make: Make) -> None:
    scored = {"a": -1, "b": -1, "ab": -0.2, "▁b": -0.3}
    tokenizer = make(scored, PREFIX, more=[("ab▁b", USER_DEFINED)])  # its own score is -1
    assert shown(tokenizer, "xab b") == ["▁", "<unk>", "ab▁b"]


def test_only_a_character_without_a_token_of_its_own_is_unknown(make: Make) -> None:
    tokenizer = make({"a": -1, "b": -50, "bb": -300}, more=[("c", UNUSED), ("d", CONTROL), ("e", 0), ("<0x66>", BYTE)])
    assert tokenizer.unk_score == -310
    assert shown(tokenizer, "bb") == ["b", "b"]
    assert shown(tokenizer, "acadefa") == ["a", "c", "a", "<unk>", "a"]  # unknowns in a row are one


def test_unknowns_on_both_sides_of_a_seam_are_one(make: Make) -> None:
    tokenizer = make({"a": -1, "b": -1})
    assert tokenizer.split_points.cut("日本a") == ["日", "本", "a"]
    assert tokenizer.encode("日本a本日", add_special=False) == [2, 4, 2]


def test_the_unknown_score_is_ten_less_than_the_lowest_normal_score() -> None:
    assert unknown_score(np.float32([-1, -16777215, np.nan])) == -16777224  # in float32
    assert unknown_score(np.float32([])) == np.finfo(np.float32).max


def test_eos_is_added_and_bos_is_not(make: Make) -> None:
    assert make({}).encode("") == [1]
    both = make({}, role("bos", 0), flag("add_bos_token", True), flag("add_eos_token", False))
    assert both.encode("") == [0]


def test_an_unknown_character_without_an_unknown_token_is_an_error(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "short.gguf", ("t5", [("a", NORMAL), ("b", NORMAL)], []))
    assert load(path).encode("ab", add_special=False) == [0, 1]
    with pytest.raises(ModelError, match=r"short\.gguf: the tokenizer needs its unk token"):
        load(path).encode("abc", add_special=False)


# -- cutting at split points ------------------------------------------------------------------------------------------


def test_cut_at_seams_texts_have_the_ids_they_have_whole(variant: Unigram) -> None:
    for text in (*NASTY, *random_texts(32, 200)):
        raw = text.encode() if isinstance(text, str) else text
        ids = variant.best_path(variant.normalizer(raw))
        once = [i for i, last in zip(ids, [None, *ids], strict=False) if not i == last == variant.unk]
        assert variant.encode_text(raw) == once, raw


def test_no_sum_is_rounded_up_to_the_length_that_is_called_exact() -> None:
    fine, coarse = np.float32(-1.0000001), np.float32(-16.000002)
    tokens = {b"a": (0, float(fine)), b"bc": (1, float(coarse)), b"unused": (2, -10000.0)}
    most = exact_length(tokens, -26.0)
    total, unit = 0.0, 2.0**-23
    assert most > 10_000_000
    assert (most * 26 + 10000) / unit <= 2**53  # whole numbers of units, all of which a double has
    for value in (fine, coarse, -26.0, -10000.0):
        total += float(value)
        assert float(value) / unit == int(float(value) / unit)


@pytest.mark.parametrize("score", [1e-30, float("inf"), float("nan"), 1e38])
def test_scores_that_sums_round_leave_no_exact_length(score: float) -> None:
    assert exact_length({b"a": (0, score), b"b": (1, -1.0)}, -11.0) <= 0


# -- properties ------------------------------------------------------------------------------------------------------


@given(text=st.binary(max_size=40) | st.text("ae ▁\u0301ｅ①éx\n\0中😀", max_size=40).map(str.encode))
def test_any_bytes_have_ids_and_ids_have_a_text(variant: Unigram, text: bytes) -> None:
    try:
        ids = variant.encode(text, add_special=False, parse_special=True)
    except RefembedError:  # no unknown token
        assert variant.vocab.unk is None
        return
    assert all(0 <= i < len(variant.vocab) for i in ids)
    assert isinstance(variant.decode(ids), str)


@pytest.mark.slow
def test_time_grows_with_the_text_and_not_faster(tmp_path: Path) -> None:
    tokenizer = load(write_vocab(tmp_path / "vocab.gguf", VARIANTS["unigram-both"]))

    def seconds(text: bytes) -> float:
        begin = time.process_time()
        tokenizer.encode_text(text)
        return time.process_time() - begin

    words = " ".join(t for t in random_texts(33, 30_000) if isinstance(t, str)).encode()
    for text in (
        words,
        b"x" * 1_000_000,
        b"antidisestablishmentarianism" * 30_000,
        b"\xe2(" * 500_000,
        b" " * 1_000_000,
    ):
        tenth = max(seconds(text[: len(text) // 10]) for _ in range(3))
        assert seconds(text) < 30 * tenth + 1, text[:20]
