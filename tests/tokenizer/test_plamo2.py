"""PLaMo-2: the best path, from the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import EngineError, ModelError
from refembed.tokenizer import load_tokenizer
from refembed.tokenizer.plamo2 import HELPER, Plamo2, whole
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer.kinds_vocabs import BYTES, VARIANTS, scores, write_vocab
from tests.tokenizer.vocabs import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Typed, flag

HEAD: list[Typed] = [("<|plamo:unk|>", UNKNOWN), ("<|plamo:bos|>", CONTROL), ("<|plamo:eos|>", CONTROL), *BYTES]


def load(path: Path, scored: dict[str, float], *more: Typed) -> Plamo2:
    """A tokenizer of all bytes and these tokens."""
    tokens = [*HEAD, *more, *((t, NORMAL) for t in scored)]
    values = [0.0] * (len(tokens) - len(scored)) + list(scored.values())
    tokenizer = load_tokenizer(write_vocab(path / "plamo2.gguf", ("plamo2", tokens, [scores(values)])))
    assert isinstance(tokenizer, Plamo2)
    return tokenizer


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Plamo2:
    """Many tokens, none of which is cut out."""
    model, tokens, _ = VARIANTS["plamo2-plamo2"]
    kept = [t for t in tokens if t[1] not in (CONTROL, USER_DEFINED)]
    values = scores([-1000.0 if t[1] == UNUSED else -float(len(t[0]) % 3 + 1) for t in kept])
    tokenizer = load_tokenizer(write_vocab(tmp_path_factory.mktemp("plamo2") / "vocab.gguf", (model, kept, [values])))
    assert isinstance(tokenizer, Plamo2)
    return tokenizer


def shown(tokenizer: Plamo2, text: str | bytes) -> list[str]:
    """The tokens of a text."""
    return [tokenizer.vocab.tokens[i].decode() for i in tokenizer.encode(text, add_special=False)]


def test_the_highest_sum_wins(tmp_path: Path) -> None:
    assert shown(load(tmp_path, {"a": -1, "b": -1, "ab": -3}), "ab") == ["a", "b"]
    assert shown(load(tmp_path, {"a": -1, "b": -1, "ab": -1.9999}), "ab") == ["ab"]


def test_of_equal_sums_the_longer_first_token_wins(tmp_path: Path) -> None:
    assert shown(load(tmp_path, {"a": -1, "b": -1, "c": -1, "ab": -2, "bc": -2}), "abc") == ["ab", "c"]


def test_a_character_that_no_token_covers_is_spelled_in_bytes(tmp_path: Path) -> None:
    assert shown(load(tmp_path, {"a": -1}), "aé") == ["a", "<0xC3>", "<0xA9>"]
    assert shown(load(tmp_path, {"a": -1}), b"a\xff") == ["a", "<0xEF>", "<0xBF>", "<0xBD>"]  # U+FFFD
    assert shown(load(tmp_path, {"a": -1}), b"\xf4\x90\x80\x81") == ["<0xF4>", "<0x90>", "<0x80>", "<0x81>"]


def test_tokens_that_begin_like_others_end_are_found(tmp_path: Path) -> None:
    scored = {"abc": -1, "bcd": -1, "cde": -1, "a": -1, "b": -9, "e": -1}
    assert shown(load(tmp_path, scored), "abcde") == ["a", "bcd", "e"]


def test_padding_hides_shorter_tokens(tmp_path: Path) -> None:
    letters = dict.fromkeys("[PAD1]x", -1.0)
    assert shown(load(tmp_path, letters), "[PAD1]") == list("[PAD1]")
    padded = load(tmp_path, letters | {"[PAD1]": -1000.0})  # the score by which llama.cpp knows the end of its list
    assert shown(padded, "[PAD1]") == ["[PAD1]"]
    assert shown(padded, "x[PAD1]") == ["<0x78>", "[PAD1]"]  # and then it finds nothing that begins before


def test_a_byte_order_mark_is_dropped_in_front(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, {"a": -1, "\ufeff": -1})
    assert shown(tokenizer, "\ufeffa") == ["a"]
    assert shown(tokenizer, "a\ufeff") == ["a", "\ufeff"]
    assert shown(tokenizer, "\ufeff") == []


@pytest.mark.parametrize(
    ("score", "stored"),
    [
        (-1.5, -15000),
        (0.03125, 313),
        (-0.03125, -313),
        (-0.03, -300),
        *((none, HELPER) for none in (float("nan"), float("-inf"), float("inf"), 3e5, -3e5)),
    ],
)
def test_scores_are_whole_ten_thousandths(score: float, stored: int) -> None:
    assert whole(score) == stored


def test_texts_come_back_as_they_are_stored(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, {"▁a": -1, " b": -1})
    assert tokenizer.decode(tokenizer.encode("▁a bé", add_special=False)) == "▁a bé"
    assert tokenizer.decode([1, 2], unparse_special=False) == ""


# -- errors ----------------------------------------------------------------------------------------------------------

WITHOUT = {
    "one": [t for t in HEAD if t[0] != "<0x0A>"],
    "the first token": [HEAD[3 + 10], *HEAD[:3], *HEAD[3:13], *HEAD[14:]],
    "other spelling": [("<0x0A >" if t == "<0x0A>" else t, kind) for t, kind in HEAD],
}


@pytest.mark.parametrize("tokens", WITHOUT.values(), ids=WITHOUT)
def test_a_byte_without_a_token_is_an_error(tmp_path: Path, tokens: list[Typed]) -> None:
    with pytest.raises(ModelError, match=r"bad\.gguf: tokenizer\.ggml\.tokens: no byte token <0x0A>"):
        load_tokenizer(write_vocab(tmp_path / "bad.gguf", ("plamo2", tokens, [])))


TOO_HIGH: list[Typed] = [*HEAD, (b"a\xf4\x90\x80\x80", NORMAL)]


def test_a_token_above_10ffff_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"bad\.gguf: .* token 259 has a code point above 10FFFF: 61 f4 90 80 80"):
        load_tokenizer(write_vocab(tmp_path / "bad.gguf", ("plamo2", TOO_HIGH, [])))


@pytest.mark.oracle
def test_llama_cpp_refuses_what_is_an_error(tmp_path: Path) -> None:
    for tokens in (*WITHOUT.values(), TOO_HIGH):
        with pytest.raises(EngineError):
            LlamaCpp(write_vocab(tmp_path / "bad.gguf", ("plamo2", tokens, [])), vocab_only=True)


# -- properties ------------------------------------------------------------------------------------------------------


@given(text=st.text(max_size=40) | st.text("the [PAD1]é▁\ufeffx\n", max_size=40))
def test_texts_come_back_but_for_a_byte_order_mark(large: Plamo2, text: str) -> None:
    ids = large.encode(text, add_special=False)
    assert large.decode(ids) == text.removeprefix("\ufeff")


@given(text=st.binary(max_size=40))
def test_any_bytes_have_ids(large: Plamo2, text: bytes) -> None:
    ids = large.encode(text, add_special=False)
    assert all(0 <= i < len(large.vocab) for i in ids)


def test_memory_of_steps_does_not_change_ids(tmp_path: Path) -> None:
    scored = {"a": -1.0, "ab": -1.5, "b": -1.0}
    fresh, used = load(tmp_path, scored), load(tmp_path, scored)
    assert [used.encode(t) for t in ("ab", "ba", "abab", "ab")] == [fresh.encode(t) for t in ("ab", "ba", "abab", "ab")]
    used.steps.clear()
    assert used.encode("abab") == fresh.encode("abab")


def test_bos_and_eos_are_added_as_the_file_says(tmp_path: Path) -> None:
    keys = [flag("add_bos_token", True), flag("add_eos_token", True)]
    tokenizer = load_tokenizer(write_vocab(tmp_path / "plamo2.gguf", ("plamo2", HEAD, keys)))
    assert tokenizer.encode("") == [1, 2]
