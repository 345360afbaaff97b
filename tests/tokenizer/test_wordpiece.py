"""WordPiece: ids of texts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import ModelError, RequestError
from refembed.testing.strategies_text import raw_texts, texts
from refembed.testing.texts import TOO_HIGH, TOO_HIGH_SHAPE, random_texts
from refembed.tokenizer import Tokenizer, bounded_cache, load_tokenizer, wordpiece
from refembed.tokenizer.unicode import SPACES
from tests.tokenizer.conftest import Make
from tests.tokenizer.recorded import RECORDED, digest, recorded_texts
from tests.tokenizer.vocabs import NORMAL, UNKNOWN, USER_DEFINED, VARIANTS, bert, flag, role

UNK, CLS, SEP = 100, 101, 102


def spelled(tokenizer: Tokenizer, text: str | bytes, **switches: bool) -> str:
    """The tokens of a text, with spaces between them."""
    ids = tokenizer.encode(text, **{"add_special": False, **switches})
    return " ".join(tokenizer.vocab.tokens[i].decode() for i in ids)


# Text, switches -> ids, with the vocabulary of BERT (uncased). Recorded from llama.cpp.
GOLDEN: list[tuple[str | bytes, tuple[bool, bool], list[int]]] = [
    ("", (True, False), [101, 102]),
    ("Hello world", (True, False), [101, 7592, 2088, 102]),
    ("Ünïcödé naïve", (False, False), [27260, 15743]),
    ("한국어", (False, False), [1469, 29991, 29999]),
    ("हिन्दी", (False, False), [1339, 29863, 29861]),
    ("ไทย", (False, False), [100]),
    ("a$b^c", (False, False), [1037, 1002, 1038, 1034, 1039]),
    ("中文ab", (False, False), [1746, 1861, 11113]),
    ("Straße", (False, False), [2358, 27807]),
    ("\ufb01", (False, False), [1984]),
    ("\u017f", (False, False), [100]),
    ("\u00a0", (False, False), []),
    ("\U0001f601", (False, False), [100]),
    ("a\u200db", (False, False), [11113]),
    ("x[SEP]y", (False, True), [1060, 102, 1061]),
    ("x[SEP]y", (False, False), [1060, 1031, 19802, 1033, 1061]),
    (b"ab\xffcd", (False, False), [5925, 2094]),
    (b"a\0b", (False, False), [11113]),
    (b"\xc0\xafa", (False, False), [1013, 1037]),
    ("a▁b", (False, False), [1037, 1038]),
    ("ok😁", (False, False), [100]),
    ("ok 😁", (False, False), [7929, 100]),
    ("a→b", (False, False), [1037, 30113, 2497]),
    ("日本かな", (False, False), [1864, 1876, 1651, 30193]),
]


@pytest.mark.parametrize(("text", "switches", "ids"), GOLDEN)
def test_the_default_models_ids(minilm: Path, text: str | bytes, switches: tuple[bool, bool], ids: list[int]) -> None:
    assert load_tokenizer(minilm).encode(text, *switches) == ids


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_the_ids_recorded_from_llama_cpp(make: Make, name: str) -> None:
    tokens, keys = VARIANTS[name]
    tokenizer = make(tokens, *keys)
    assert digest([tokenizer.encode(t, False, True) for t in recorded_texts()]) == RECORDED[name]


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("unaffable", "▁un aff able"),
        ("Hello,world!", "▁hello ▁, ▁world ▁!"),
        ("a\tb\u2028c\x85d", "▁a ▁b ▁c ▁d"),
        ("embeddings", "▁embed ding s"),  # the longest first, although "em" "bed" would do
        ("日中日", "▁日 ▁中 ▁日"),
        ("각", "▁ᄀ"),  # a syllable is its leading consonant
        ("e\u0301\u0327st", "▁e s t"),
        ("x\u00ady", "▁x y"),  # a soft hyphen is dropped
        ("x\x1cy", "▁x y"),  # a control character, not white space
        ("ΟΔΟΣ", "[UNK]"),  # οδοσ: str.lower() would give οδος, which is a token
        ("İstanbul", "▁istanbul"),
        ("\u037e", "▁;"),  # decomposed before its class is asked
        ("x€", "[UNK]"),  # a symbol beyond ASCII stays in the word
        ("x$", "▁x ▁$"),
        ("x xx☃xx x", "▁x [UNK] ▁x"),  # one character amiss makes a word unknown, and only that word
        ("the▁the", "▁the ▁the"),  # a literal U+2581 can match a word start inside a word
        ("gone typeless strange", "▁gone ▁t y p e l e s s ▁s t r a n g e"),  # UNUSED is found like any other
    ],
)
def test_a_text_is_cut_like_this(plain: Tokenizer, text: str, tokens: str) -> None:
    assert spelled(plain, text) == tokens


def test_a_word_may_have_any_length(plain: Tokenizer) -> None:
    """BERT's own tokenizer gives up at 100 characters."""
    ids = plain.encode("x" * 1000, add_special=False)
    assert [plain.vocab.tokens[i] for i in ids] == ["▁x".encode(), *[b"xxxx"] * 249, b"xx", b"x"]


@pytest.mark.parametrize("cp", [0x3400, 0x4DBF, 0x9FFF, 0x20000, 0x2A700, 0x2B740, 0x2B920, 0x2CEAF, 0xFA0E])
def test_an_ideograph_is_a_word(bytewise: Tokenizer, cp: int) -> None:
    assert spelled_bytes(bytewise, f"a{chr(cp)}b") == f" a {chr(cp)} b"


@pytest.mark.parametrize("cp", [0x2B820, 0x2B91F, 0x2CEB0, 0x30000, 0x33FF, 0xA000, 0x3042, 0x30A2])
def test_what_llama_cpp_has_not_among_them_is_part_of_one(bytewise: Tokenizer, cp: int) -> None:
    assert spelled_bytes(bytewise, f"a{chr(cp)}b") == f" a{chr(cp)}b"


def spelled_bytes(tokenizer: Tokenizer, text: str | bytes) -> str:
    """What a text is normalized to, each word behind a space."""
    ids = tokenizer.encode(text, add_special=False)
    return b"".join(tokenizer.vocab.tokens[i] for i in ids).decode().replace("▁", " ")


@pytest.mark.parametrize(
    ("lowercase", "strip", "expected"),
    [
        (True, True, " straße e ς"),
        (True, False, " straße é ς"),
        (False, True, " Straße E ς"),
        (False, False, " Straße É ς"),
    ],
)
def test_case_and_accents_go_by_their_keys(make: Make, lowercase: bool, strip: bool, expected: str) -> None:
    tokens = VARIANTS["bytewise"][0]
    tokenizer = make(tokens, flag("normalizer.lowercase", lowercase), flag("normalizer.strip_accents", strip))
    assert spelled_bytes(tokenizer, "Straße É ς") == expected


# -- special tokens --------------------------------------------------------------------------------------------------


def test_cls_and_sep_are_added_whatever_the_flags_say(make: Make) -> None:
    off = [flag(f"add_{name}_token", False) for name in ("bos", "eos", "sep")]
    on = [flag("add_eos_token", True), role("eos", 5)]
    for keys in ([], off, on):
        assert make(None, *keys).encode("") == [CLS, SEP]


def test_a_special_token_in_the_text_counts_only_when_asked(plain: Tokenizer) -> None:
    assert spelled(plain, "a[SEP]b") == "▁a ▁[ ▁s e p ▁] ▁b"
    assert spelled(plain, "a[SEP]b", parse_special=True) == "▁a [SEP] ▁b"
    assert spelled(plain, "a[sep]b", parse_special=True) == "▁a ▁[ ▁s e p ▁] ▁b"


def test_a_user_defined_token_always_counts(plain: Tokenizer) -> None:
    for parse in (False, True):
        assert spelled(plain, "a<user>b<Ünïcode  >", parse_special=parse) == "▁a <user> ▁b <Ünïcode  >"


def test_a_user_defined_token_that_ends_texts_counts_only_when_asked(make: Make) -> None:
    """By its text `</s>` becomes control as well: so Gemma's HTML-like `</s>` is text to most callers."""
    tokens = [(t, kind) for t, kind in bert() if t != "</s>"]
    tokenizer = make([*tokens, ("</s>", USER_DEFINED)])
    assert spelled(tokenizer, "a</s>") == "▁a ▁< ▁/ ▁s ▁>"
    assert spelled(tokenizer, "a</s>", parse_special=True) == "▁a </s>"


def test_two_that_overlap(plain: Tokenizer) -> None:
    """`b<cd` is longer than `ab<`, so it is found first, although that begins further left."""
    assert spelled(plain, "ab<cd") == "▁a b<cd"


@pytest.mark.parametrize(("missing", "keys"), [("bos", [role("seperator", 1)]), ("sep", [role("bos", 1)])])
def test_a_special_token_the_model_lacks_is_an_error_when_it_is_needed(make: Make, missing: str, keys: Any) -> None:
    tokenizer = make([("a", NORMAL), ("▁a", NORMAL), ("[UNK]", UNKNOWN)], role("unknown", 2), *keys)
    assert tokenizer.encode("a b", add_special=False) == [1, 2]
    with pytest.raises(ModelError, match=rf"vocab\.gguf: the tokenizer needs its {missing} token"):
        tokenizer.encode("a b")


def test_an_unknown_word_without_unknown_token_is_an_error(make: Make) -> None:
    tokenizer = make([("▁a", NORMAL)])
    assert tokenizer.encode("a", add_special=False) == [0]
    with pytest.raises(ModelError, match="needs its unk token"):
        tokenizer.encode("b", add_special=False)


# -- odd input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, 3, ["a"], 1.5])
def test_what_is_no_text_is_an_error(plain: Tokenizer, text: Any) -> None:
    with pytest.raises(RequestError, match="a text is str or bytes, not"):
        plain.encode(text)


@pytest.mark.parametrize("raw", TOO_HIGH)
def test_a_code_point_above_10ffff_is_an_error(plain: Tokenizer, raw: bytes) -> None:
    with pytest.raises(RequestError, match="above 10FFFF"):
        plain.encode(raw)


def test_a_lone_surrogate_is_dropped(plain: Tokenizer) -> None:
    assert spelled(plain, "x\ud800y\udfff") == "▁x y"


def test_any_buffer_of_bytes_will_do(plain: Tokenizer) -> None:
    assert plain.encode(memoryview(b"hello")) == plain.encode(bytearray(b"hello")) == plain.encode("hello")  # type: ignore[arg-type]


# -- cost ------------------------------------------------------------------------------------------------------------


def test_one_long_word_takes_linear_time(bytewise: Tokenizer) -> None:
    """No more look-ups than bytes times lengths a token can have."""
    looked_up = 0

    class Counting(dict[bytes, int]):
        def get(self, key: bytes, default: Any = None) -> Any:
            nonlocal looked_up
            looked_up += 1
            return super().get(key, default)

    vocab = bytewise.vocab
    object.__setattr__(vocab, "ids", Counting(vocab.ids))
    try:
        assert len(bytewise.encode("x" * 50_000, add_special=False)) == 50_001
    finally:
        object.__setattr__(vocab, "ids", dict(vocab.ids))
    assert looked_up <= 50_003 * len(set(map(len, vocab.tokens)))


def test_memory_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_cache, "MAX_PIECES_KEPT", 50)
    monkeypatch.setattr(wordpiece, "KEPT_CHARACTERS", 40)
    small, large = make(), make()
    texts = random_texts(7, 300)
    expected = [large.encode(t) for t in texts]
    assert [small.encode(t) for t in texts] == expected
    assert isinstance(small, wordpiece.WordPiece)
    assert len(small.words) <= 50
    assert len(small.characters) <= 40
    assert max(map(len, small.words)) <= bounded_cache.KEPT_LENGTH


def test_threads_may_share_a_tokenizer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_cache, "MAX_PIECES_KEPT", 20)
    tokenizer = make()
    texts = random_texts(8, 400)
    expected = [tokenizer.encode(t) for t in texts]
    with ThreadPoolExecutor(8) as pool:
        for ids in pool.map(lambda _: [tokenizer.encode(t) for t in texts], range(8)):
            assert ids == expected


# -- properties ------------------------------------------------------------------------------------------------------


@given(raw=raw_texts())
def test_ids_are_of_the_vocabulary(plain: Tokenizer, raw: bytes) -> None:
    for add in (False, True):
        for parse in (False, True):
            ids = plain.encode(raw, add, parse)
            assert all(0 <= i < len(plain.vocab) for i in ids)
            assert not add or (ids[0], ids[-1]) == (CLS, SEP)


@given(raw=st.binary())
def test_any_bytes_have_ids_or_one_error(plain: Tokenizer, raw: bytes) -> None:
    try:
        plain.encode(raw)
    except RequestError:
        assert TOO_HIGH_SHAPE.search(raw)


@given(a=raw_texts(), b=raw_texts(), space=st.sampled_from(sorted(SPACES)))
def test_white_space_separates(bytewise: Tokenizer, a: bytes, b: bytes, space: int) -> None:
    """Nothing on one side of a space has a say in the ids of the other."""
    whole = bytewise.encode(a + chr(space).encode() + b, add_special=False)
    assert whole == bytewise.encode(a, add_special=False) + bytewise.encode(b, add_special=False)


@given(
    text=texts(), at=st.integers(0, 100), dropped=st.sampled_from("\0\ufffd\u200b\u00ad\ue000\x1c\u0301\u0903\ufe0f")
)
def test_what_is_dropped_leaves_no_trace(bytewise: Tokenizer, text: str, at: int, dropped: str) -> None:
    assert bytewise.encode(text[:at] + dropped + text[at:]) == bytewise.encode(text)


@given(text=st.text(st.characters(max_codepoint=127)))
def test_ascii_case_makes_no_difference(bytewise: Tokenizer, text: str) -> None:
    assert bytewise.encode(text.upper()) == bytewise.encode(text.lower())


@given(text=texts())
def test_str_and_its_utf8_have_the_same_ids(plain: Tokenizer, text: str) -> None:
    assert plain.encode(text, True, True) == plain.encode(text.encode(), True, True)


@given(words=st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1)))
def test_lowercase_words_come_back(bytewise: Tokenizer, words: list[str]) -> None:
    ids = bytewise.encode(" ".join(words), add_special=False)
    assert bytewise.decode(ids) == "".join(f" {w}" for w in words)


@given(text=texts())
def test_normalizing_twice_changes_nothing(bytewise: Tokenizer, text: str) -> None:
    once = spelled_bytes(bytewise, text.replace("▁", ""))  # which would look like a space
    assert spelled_bytes(bytewise, once) == once
