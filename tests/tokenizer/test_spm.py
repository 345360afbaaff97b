"""SPM: merges by score."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import EngineError, ModelError
from refembed.testing.texts import random_texts
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.tokenizer.bytetokens import byte_piece
from refembed.tokenizer.spm import SPM
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer.kinds_live import NASTY
from tests.tokenizer.kinds_vocabs import BYTES, HEAD, VARIANTS, scores, write_vocab
from tests.tokenizer.vocabs import BYTE, CONTROL, NORMAL, USER_DEFINED, Key, Typed, flag

Make = Callable[..., SPM]
PLAIN = flag("add_space_prefix", False)


def load(path: Path) -> SPM:
    """A tokenizer of the kind tested here."""
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, SPM)
    return tokenizer


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make({token: score}, *keys): a tokenizer with all byte tokens and these; `more` tokens have score 0."""

    def make(scored: dict[str, float], *keys: Key, more: list[Typed] | None = None) -> SPM:
        tokens: list[Typed] = [*HEAD, *BYTES, *(more or []), *((t, NORMAL) for t in scored)]
        values = [0.0] * (len(tokens) - len(scored)) + list(scored.values())
        return load(write_vocab(tmp_path / "spm.gguf", ("llama", tokens, [scores(values), *keys])))

    return make


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> SPM:
    """A large vocabulary whose texts come back: no space is put in front, and nothing is cut out."""
    model, tokens, _ = VARIANTS["spm-random"]
    path = tmp_path_factory.mktemp("spm") / "spm.gguf"
    return load(write_vocab(path, (model, [t for t in tokens if t[1] not in (CONTROL, USER_DEFINED)], []), PLAIN))


def shown(tokenizer: Tokenizer, text: str | bytes, parse_special: bool = False) -> list[str]:
    """The tokens of a text."""
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    return [tokenizer.vocab.tokens[i].decode() for i in ids]


def test_the_highest_score_merges_first(make: Make) -> None:
    scored = {"a": -9, "b": -9, "c": -9, "ab": -2, "bc": -1, "abc": -3}
    assert shown(make(scored, PLAIN), "abc") == ["abc"]  # by way of bc
    del scored["abc"]
    assert shown(make(scored, PLAIN), "abc") == ["a", "bc"]


def test_of_equal_scores_the_leftmost_merges_first(make: Make) -> None:
    assert shown(make({"a": 0, "aa": 1}, PLAIN), "aaaaa") == ["aa", "aa", "a"]
    assert shown(make({"a": 0, "b": 0, "ab": 1, "ba": 1}, PLAIN), "bab") == ["ba", "b"]


def test_a_token_that_no_merge_leads_to_is_not_found(make: Make) -> None:
    assert shown(make({"a": 0, "b": 0, "abba": 9}, PLAIN), "abba") == ["a", "b", "b", "a"]


def test_characters_that_are_no_token_can_merge(make: Make) -> None:
    assert shown(make({"éß": 1}, PLAIN), "éß") == ["éß"]


def test_what_is_no_token_is_spelled_in_bytes(make: Make) -> None:
    tokenizer = make({"a": 0}, PLAIN)
    assert shown(tokenizer, "aé") == ["a", "<0xC3>", "<0xA9>"]
    assert shown(tokenizer, b"\xe2a\0b") == ["<0xE2>", "<0x61>", "<0x00>", "<0x62>"]  # one character, by its first byte


def test_a_bare_byte_serves_where_there_is_no_byte_token(tmp_path: Path) -> None:
    tokens: list[Typed] = [*HEAD, ("<0xC3>", BYTE), (b"\xa9", NORMAL)]
    tokenizer = load(write_vocab(tmp_path / "spm.gguf", ("llama", tokens, [PLAIN])))
    assert tokenizer.encode("é", add_special=False) == [3, 4]


def test_a_space_goes_in_front_of_texts_and_of_what_follows_a_special_token(make: Make) -> None:
    words = {"▁": -1.0, "a": -1.0, "▁a": 0.0}
    more: list[Typed] = [("<user>", USER_DEFINED)]
    tokenizer = make(words, more=more)
    assert shown(tokenizer, "a a") == ["▁a", "▁a"]
    assert shown(tokenizer, " a") == ["▁", "▁a"]
    assert shown(tokenizer, "a</s>a<user> a", parse_special=True) == ["▁a", "</s>", "▁a", "<user>", "▁", "▁a"]
    assert shown(tokenizer, "") == []
    assert shown(make(words, PLAIN, more=more), "a</s>a<user> a", parse_special=True) == [
        "a",
        "</s>",
        "a",
        "<user>",
        "▁a",
    ]


def test_bos_and_eos_are_added_as_the_file_says(make: Make) -> None:
    assert make({}).encode("") == [1]
    assert make({}, flag("add_bos_token", False), flag("add_eos_token", True)).encode("") == [2]


def test_texts_come_back_without_the_space_in_front(make: Make) -> None:
    tokenizer = make({"▁": -1, "a": -1, "▁a": 0})
    ids = tokenizer.encode("a  aé\n", add_special=False)
    assert tokenizer.decode(ids) == "a  aé\n"
    assert tokenizer.decode([1, *ids], remove_special=True) == " a  aé\n"


@pytest.mark.parametrize(
    ("token", "piece"),
    [("<0x41>", b"A"), ("<0xff>", b"\xff"), ("<0x4>", b"\x04"), ("<0x", b"\0"), ("<0xZZ>", b"\0"), ("...-1", b"\xff")],
)
def test_the_digits_of_a_byte_token_count(token: str, piece: bytes) -> None:
    assert byte_piece(token.encode(), "the model") == piece


@pytest.mark.oracle
def test_llama_cpp_reads_the_digits_of_byte_tokens_so(tmp_path: Path) -> None:
    odd = ("<0x41>", "<0xfF>", "<0x4>", "<0x", "<0xZZ>", "...-1", "... 7", "...+7", "...7Z", "...0x", "...\n7", "abc")
    path = write_vocab(tmp_path / "spm.gguf", ("llama", [*HEAD, *((t, BYTE) for t in odd)], []))
    with LlamaCpp(path, vocab_only=True) as engine:
        theirs = [engine.piece(i) for i in range(3, 3 + len(odd))]
    assert [load(path).piece(i) for i in range(3, 3 + len(odd))] == theirs


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_text_with_a_byte_that_no_token_has_is_an_error(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "spm.gguf", ("llama", [*HEAD, ("a", NORMAL), ("<0xC3>", BYTE)], [PLAIN]))
    tokenizer = load(path)
    assert tokenizer.encode("a", add_special=False) == [3]
    for text, byte in (("é", "A9"), ("\0", "00"), (b"\xff", "FF")):
        with pytest.raises(
            ModelError, match=rf"spm\.gguf: .* no token, and its byte <0x{byte}> is none either\n  hint"
        ):
            tokenizer.encode(text)


@pytest.mark.oracle
def test_llama_cpp_ends_on_a_byte_that_no_token_has(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "spm.gguf", ("llama", [*HEAD, ("a", NORMAL), ("<0xC3>", BYTE)], [PLAIN]))
    for text in ("é", "\0"):
        with LlamaCpp(path, vocab_only=True) as engine, pytest.raises(EngineError):
            engine.tokenize(text)


def test_a_byte_token_without_room_for_digits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"bad\.gguf: .*token 'xy' is a byte; which one\?"):
        load(write_vocab(tmp_path / "bad.gguf", ("llama", [*HEAD, ("xy", BYTE)], [])))


@pytest.mark.oracle
def test_llama_cpp_refuses_a_byte_token_without_room_for_digits(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        LlamaCpp(write_vocab(tmp_path / "bad.gguf", ("llama", [*HEAD, ("xy", BYTE)], [])), vocab_only=True)


def test_a_score_that_is_no_number_is_an_error(make: Make) -> None:
    with pytest.raises(ModelError, match=r"spm\.gguf: tokenizer\.ggml\.scores: a score is NaN"):
        make({"a": float("nan")})


# -- properties ------------------------------------------------------------------------------------------------------


@given(text=st.binary(max_size=40) | st.text("ae ▁\u0301éx.1\n\0中😀", max_size=40).map(str.encode))
def test_any_bytes_come_back(lossless: SPM, text: bytes) -> None:
    """A space behind the first byte of a longer character comes back as U+2581, as in llama.cpp."""
    ids = lossless.encode(text, add_special=False)
    assert all(0 <= i < len(lossless.vocab) for i in ids)
    assert lossless.decode_bytes(ids).replace("▁".encode(), b" ") == text.replace("▁".encode(), b" ")


def test_cut_at_seams_texts_have_the_ids_they_have_whole(lossless: SPM) -> None:
    for text in (*NASTY, *random_texts(21, 300)):
        raw = text.encode() if isinstance(text, str) else text
        assert lossless.encode_text(raw) == lossless.merge(raw.replace(b" ", "▁".encode())), raw


def test_ids_do_not_depend_on_what_was_seen_before(lossless: SPM) -> None:
    texts = random_texts(22, 50)
    first = [lossless.encode(t) for t in texts]
    assert [lossless.encode(t) for t in reversed(texts)] == first[::-1]


@pytest.mark.slow
def test_time_grows_with_the_text_and_not_faster(lossless: SPM) -> None:
    def seconds(text: bytes) -> float:
        begin = time.process_time()
        lossless.encode_text(text)
        return time.process_time() - begin

    words = " ".join(t for t in random_texts(23, 30_000) if isinstance(t, str)).encode()
    for text in (
        words,
        b"x" * 1_000_000,
        b"antidisestablishmentarianism" * 30_000,
        b"\xe2(" * 500_000,
        b" " * 1_000_000,
    ):
        tenth = max(seconds(text[: len(text) // 10]) for _ in range(3))
        assert seconds(text) < 30 * tenth + 1, text[:20]
