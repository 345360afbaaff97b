"""Byte-pair encoding, its kinds, and the way back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import GGUFError, ModelError, RefembedError, RequestError
from refembed.testing.strategies_text import raw_texts
from refembed.testing.texts import TOO_HIGH, TOO_HIGH_SHAPE, random_texts
from refembed.tokenizer import Tokenizer, bounded_cache, load_tokenizer
from refembed.tokenizer.bpe import BPE, merge, merge_many, split_points
from refembed.tokenizer.unicode import SPACES
from tests.tokenizer.bpe_llamacpp import Many
from tests.tokenizer.bpe_vocabs import HEAD, pre_key, texts_to_cut, write, write_bpe
from tests.tokenizer.bpe_vocabs import bpe as vocabulary
from tests.tokenizer.conftest import Make
from tests.tokenizer.vocabs import BYTE, CONTROL, NORMAL, UNUSED, Key, Typed, flag, write_vocab

BOTH = (False, True)
GPT2: Key = ("model", "gpt2", "STRING")
FEW: list[Typed] = [(t, NORMAL) for t in ("a", "b", "c", "Ġ", "ab", "bc", "abc", "Ċ", "d")]


def merges(*lines: str | bytes) -> Key:
    """tokenizer.ggml.merges."""
    return "merges", [m.encode() if isinstance(m, str) else m for m in lines], "ARRAY[STRING]"


def ids_of(tokenizer: Tokenizer, text: str | bytes) -> list[str]:
    """Tokens of a text, spelled."""
    return [tokenizer.vocab.tokens[i].decode(errors="replace") for i in tokenizer.encode(text, add_special=False)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Many]:
    with Many() as many:
        yield many


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_bpe(tmp_path_factory.mktemp("bpe") / "gpt2.gguf", "gpt-2"))


@pytest.fixture(scope="session")
def gemma4(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_bpe(tmp_path_factory.mktemp("bpe") / "gemma4.gguf", None, kind="gemma4"))


# -- merging ---------------------------------------------------------------------------------------------------------


def by_the_book(symbols: list[bytes], ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    """Sennrich et al., literally: look at all pairs, merge the best, start again."""
    while True:
        found = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not found:
            return symbols
        i = min(found)[1]
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]


SYMBOLS = st.text("abc", min_size=1, max_size=3)


@given(
    word=st.text("abc", max_size=60),
    lines=st.lists(st.tuples(SYMBOLS, SYMBOLS), unique=True, max_size=40),
)
def test_merging_is_what_the_book_says(word: str, lines: list[tuple[str, str]]) -> None:
    symbols = [c.encode() for c in word]
    book = by_the_book(symbols, {(a.encode(), b.encode()): i for i, (a, b) in enumerate(lines)})
    ranks = {f"{a} {b}".encode(): i for i, (a, b) in enumerate(lines)}
    assert merge(symbols, ranks) == book
    assert merge_many(symbols, ranks) == book


def test_of_equal_pairs_the_leftmost_merges_first() -> None:
    for both in (merge, merge_many):
        assert both([b"a"] * 5, {b"a a": 0}) == [b"aa", b"aa", b"a"]
        assert both([b"a"] * 4, {b"a a": 1, b"aa a": 0}) == [b"aaa", b"a"]


def test_a_pair_that_has_grown_waits_its_turn() -> None:
    """`a b` was next but one; now that b is bc, it is not that pair any more, and `a bc` comes last."""
    for both in (merge, merge_many):
        assert both([b"a", b"b", b"c", b"d"], {b"b c": 0, b"a b": 1, b"bc d": 2, b"a bc": 3}) == [b"a", b"bcd"]


def test_merging_a_long_word_takes_no_more_look_ups_than_three_a_symbol() -> None:
    class Counting(dict[bytes, int]):
        looked_up = 0

        def get(self, key: bytes, default: Any = None) -> Any:
            self.looked_up += 1
            return super().get(key, default)

    ranks = Counting({b"a a": 0, b"aa aa": 1, b"aaaa aaaa": 2, b"a b": 3, b"b aa": 4})
    symbols = [random.Random(0).choice((b"a", b"a", b"b")) for _ in range(30_000)]
    assert b"".join(merge_many(symbols, ranks)) == b"".join(symbols)
    assert ranks.looked_up <= 3 * len(symbols)


def test_the_first_of_equal_merges_counts(make: Make) -> None:
    assert ids_of(make(FEW, GPT2, merges("b c", "a b", "b c")), "abc") == ["a", "bc"]
    assert ids_of(make(FEW, GPT2, merges("a b", "b c", "a b")), "abc") == ["ab", "c"]


def test_a_symbol_that_is_no_token_falls_apart_into_its_bytes(make: Make) -> None:
    """Each of them a token of one byte; the others vanish."""
    tokenizer = make([*FEW, (b"\xc4", NORMAL)], GPT2, merges("c d", "a b"))
    assert tokenizer.encode("abcd!\x01", add_special=False) == [
        tokenizer.vocab.ids[t] for t in (b"ab", b"c", b"d", b"\xc4")
    ]


def test_a_byte_of_utf8_vocabularies_is_spelled_in_hexadecimal(make: Make) -> None:
    tokens = [*FEW, ("<0xC3>", BYTE), ("<0xA9>", BYTE), ("▁", NORMAL)]
    assert ids_of(make(tokens, GPT2, merges("a b"), pre_key("sarvam-moe")), "ab é€") == ["ab", "▁", "<0xC3>", "<0xA9>"]


def test_a_whole_piece_counts_only_where_merges_are_ignored(make: Make) -> None:
    tokens = [*FEW, ("cab", NORMAL)]
    assert ids_of(make(tokens, GPT2, merges("a b"), pre_key("gpt-2")), "cab") == ["c", "ab"]
    assert ids_of(make(tokens, GPT2, merges("a b"), pre_key("llama3")), "cab") == ["cab"]


def test_merges_may_be_absent_only_from_kimi_k2(make: Make) -> None:
    assert ids_of(make(FEW, GPT2, pre_key("kimi-k2")), "abc") == ["a", "b", "c"]
    with pytest.raises(ModelError, match=r"vocab\.gguf: tokenizer\.ggml\.merges is absent"):
        make(FEW, GPT2, pre_key("gpt-2"))
    with pytest.raises(GGUFError, match="ARRAY"):
        make(FEW, GPT2, ("merges", [1, 2], "ARRAY[INT32]"))


def test_seams_change_no_id(gemma4: Tokenizer) -> None:
    """Small vocabularies join almost anything to U+2581; take those merges away, and lines fall apart into words."""
    assert isinstance(gemma4, BPE)
    ranks = {m: r for m, r in gemma4.ranks.items() if b" \xe2\x96\x81" not in m or m.startswith((b"x ", b"\xc3\xa9 "))}
    cut = split_points(ranks)
    assert cut("▁ab▁▁cx▁dé▁e▁") == ["▁ab", "▁▁cx▁dé▁e", "▁"] if b"\xe2\x96\x81 \xe2\x96\x81" in ranks else True
    for text in random_texts(3, 300):
        line = (text if isinstance(text, str) else text.decode(errors="replace")).replace(" ", "▁")
        whole = merge_many([c.encode() for c in line], ranks)
        assert [s for part in cut(line) for s in merge_many([c.encode() for c in part], ranks)] == whole


# -- the other way ---------------------------------------------------------------------------------------------------


def test_letters_of_tokens_are_bytes(make: Make) -> None:
    tokens: list[Typed] = [
        ("ĠaĊ", NORMAL),
        ("Ã©", NORMAL),
        ("€x", NORMAL),
        ("Ġa", CONTROL),
        ("Ġb", UNUSED),
        (b"a\xff", NORMAL),
    ]
    tokenizer = make(tokens, GPT2, merges(), pre_key("qwen2"))
    pieces = [
        b" a\n",
        "é".encode(),
        b"[UNK_BYTE_0xe282ac\xe2\x82\xacx]x",
        "Ġa".encode(),
        b"",
        b"a[UNK_BYTE_0xefbfbda\xff]",
    ]
    assert [tokenizer.piece(i) for i in range(6)] == pieces


def test_a_token_above_10ffff_is_an_error(make: Make) -> None:
    with pytest.raises(ModelError, match=r"vocab\.gguf: tokenizer\.ggml\.tokens: 9 has a code point above U\+10FFFF"):
        make([*FEW, (TOO_HIGH[0], NORMAL)], GPT2, merges())
    for harmless in (CONTROL, UNUSED):
        make([*FEW, (TOO_HIGH[0], harmless)], GPT2, merges())


@given(text=st.text())
def test_what_is_encoded_comes_back(gpt2: Tokenizer, text: str) -> None:
    """Every byte is a token of this vocabulary; only the clean-up of spaces keeps it from being lossless."""
    object.__setattr__(gpt2.vocab, "clean_spaces", False)
    assert gpt2.decode(gpt2.encode(text, add_special=False)) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁ \x9f")))
def test_what_utf8_vocabularies_encode_comes_back(gemma4: Tokenizer, text: str) -> None:
    object.__setattr__(gemma4.vocab, "clean_spaces", False)
    if b"\x9f" not in text.encode():  # the one byte that has no token
        assert gemma4.decode(gemma4.encode(text, add_special=False)) == text


# -- odd input -------------------------------------------------------------------------------------------------------


def test_bytes_that_are_no_utf8_are_replacement_characters(gpt2: Tokenizer) -> None:
    assert gpt2.encode(b"a\xffb\xc3") == gpt2.encode("a\ufffdb\ufffd")
    assert gpt2.encode(b"\xc0\xaf") == gpt2.encode("/")
    assert gpt2.decode_bytes(gpt2.encode(b"\xed\xa0\x80")) == b"\xed\xa0\x80"


@pytest.mark.parametrize("raw", TOO_HIGH)
def test_a_code_point_above_10ffff_is_an_error(gpt2: Tokenizer, gemma4: Tokenizer, raw: bytes) -> None:
    for tokenizer in (gpt2, gemma4):
        with pytest.raises(RequestError, match="above 10FFFF"):
            tokenizer.encode(raw)


@given(raw=st.binary())
def test_any_bytes_have_ids_or_one_error(gpt2: Tokenizer, gemma4: Tokenizer, raw: bytes) -> None:
    for tokenizer in (gpt2, gemma4):
        try:
            ids = tokenizer.encode(raw, True, True)
            assert all(0 <= i < len(tokenizer.vocab) for i in ids)
        except RequestError:
            assert TOO_HIGH_SHAPE.search(raw)


@given(raw=raw_texts())
def test_ids_are_of_the_vocabulary(gpt2: Tokenizer, raw: bytes) -> None:
    assert all(0 <= i < len(gpt2.vocab) for i in gpt2.encode(raw, True, True))


# -- cost ------------------------------------------------------------------------------------------------------------


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bpe(tmp_path / "v.gguf", "deepseek-llm")
    monkeypatch.setattr(bounded_cache, "MAX_PIECES_KEPT", 50)
    small = load_tokenizer(path)
    assert isinstance(small, BPE)
    texts = texts_to_cut(7, 200)
    few = [small.encode(t) for t in texts]
    level: Any = small.words
    for _ in range(len(small.pre.stages) + 1):
        assert len(level) <= 50
        assert max(map(len, level), default=0) <= bounded_cache.KEPT_LENGTH
        level = getattr(level.find, "args", (None, None))[1]
    assert level is None
    monkeypatch.undo()
    assert few == [load_tokenizer(path).encode(t) for t in texts[:1]] + few[1:]
    large = load_tokenizer(path)
    assert [large.encode(t) for t in texts] == few


def test_threads_may_share_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_cache, "MAX_PIECES_KEPT", 20)
    tokenizer = load_tokenizer(write_bpe(tmp_path / "v.gguf", "starcoder"))
    texts = texts_to_cut(8, 200)
    expected = [tokenizer.encode(t) for t in texts]
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(lambda _: [tokenizer.encode(t) for t in texts], range(4)):
            assert ids == expected


# -- live llama.cpp --------------------------------------------------------------------------------------------------

ODD: dict[str, tuple[list[Typed], list[Key], list[str | bytes]]] = {  # tokens, keys, texts
    "equal merges": (FEW, [merges("b c", "a b", "b c")], ["abc", "abab"]),
    "a merge that ends at NUL": (FEW, [merges(b"a b\0x", "b c")], ["abc"]),
    "a merge of NUL": (FEW, [merges(b"a\0 b", "b c")], ["abc"]),
    "a merge that begins with a space": (FEW, [merges(" a b", "b c")], ["abc"]),
    "a merge without a space": (FEW, [merges("ab", "b c")], ["abc"]),
    "a merge with two spaces": (FEW, [merges("a b c", "b c")], ["abc"]),
    "no merge": (FEW, [merges()], ["abc"]),
    "no merges": (FEW, [], ["abc"]),
    "no merges, kimi-k2": (FEW, [pre_key("kimi-k2")], ["abc"]),
    "merges of numbers": (FEW, [("merges", [1, 2], "ARRAY[INT32]")], ["abc"]),
    "too high": ([*FEW, (TOO_HIGH[0], NORMAL)], [merges("a b")], ["abc"]),
    "too high, control": ([*FEW, (TOO_HIGH[0], CONTROL)], [merges("a b")], ["abc"]),
    "too high, spelled in UTF-8": ([*FEW, (TOO_HIGH[0], NORMAL)], [merges("a b"), pre_key("gemma4")], ["abc"]),
    "a byte without digits": ([*FEW, ("xy", BYTE)], [merges("a b")], ["abc"]),
    "odd bytes": ([*FEW, ("<0xZZ>", BYTE), ("<0x41>", BYTE)], [merges("a b")], ["abcA"]),
    "tokens of one byte": ([*FEW, (b"\xc4", NORMAL), (b"\x8a", NORMAL), (b"\xa0", NORMAL)], [merges()], ["a\0\nb\x7f"]),
    "half a letter": ([("a", NORMAL), (b"\xc4", NORMAL), (b"\x80", NORMAL)], [merges("a b")], ["a\0\nb\x7f ", "\0"]),
    "whitespace, one space": ([*FEW, ("<0x20>", BYTE)], [merges("a b"), pre_key("whitespace")], ["ab ab", " ab"]),
    "an unknown pre-tokenizer": (FEW, [merges("a b"), pre_key("jina-v2-zh")], ["a"]),
    "an empty pre-tokenizer": (FEW, [merges("a b"), pre_key("")], ["a ab1"]),
    "no UTF-8": ([*FEW, (b"\xff\xfe", NORMAL), (b"a\xc4", NORMAL)], [merges("a b")], ["a"]),
    "gemma4, whatever the name": (FEW, [("model", "gemma4", "STRING"), merges("a b"), pre_key("x")], ["abc ab"]),
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("name", ODD)
def test_odd_vocabularies_are_what_llama_cpp_makes_of_them(engine: Many, tmp_path: Path, name: str) -> None:
    tokens, keys, texts = ODD[name]
    path = write_vocab(tmp_path / "odd.gguf", tokens, *([] if any(k[0] == "model" for k in keys) else [GPT2]), *keys)
    if not engine.open(path):
        with pytest.raises(RefembedError, match=r"odd\.gguf: "):
            load_tokenizer(path)
        return
    tokenizer = load_tokenizer(path)
    assert [tokenizer.encode(t, False, False) for t in texts] == engine.ids(texts, False, False)
    assert [tokenizer.piece(i) for i in range(len(tokens))] == engine.pieces(True)


def dna_vocabulary(pre: str, *, complete: bool = True, kind: int = NORMAL) -> tuple[list[Typed], list[str]]:
    """The ordinary vocabulary and tokens of six bases behind it."""
    tokens, lines = vocabulary(0, bytewise=pre != "gemma4")
    rng = random.Random(3)
    bases = ["".join(rng.choice("ACGT") for _ in range(6)) for _ in range(300)] + ["AAAAAA", "CCCCCC", "ACGTAA"]
    marked = [(f"{b}\ue000", NORMAL) for b in dict.fromkeys(bases)]
    tags = [("<dna>", kind), ("</dna>", kind), ("<oov>", kind)][: 3 if complete else 2]
    return [*tokens, *tags, *marked, ("CCCCCC", NORMAL), ("\ue000", NORMAL)], list(lines)


def dna_texts(n: int) -> list[str | bytes]:
    """Bases, tags and what does not belong, at random."""
    rng = random.Random(4)
    parts = (b"<dna>", b"<dna>", b"</dna>", b"ACGTAA", b"cccccc", b"CCCCCCg", b"ACGTN x", b" hello", b"<s>", b"<DNA>",
             b"\xff", "é".encode(), b"<mask>", b"AC")  # fmt: skip
    return [b"".join(rng.choice(parts) for _ in range(rng.randrange(1, 10))) for _ in range(n)]


def whitespace(pre: str, lowercase: bool | None) -> Any:
    """Write a vocabulary of that kind."""
    keys = [] if lowercase is None else [flag("normalizer.lowercase", lowercase)]
    return lambda path: write_bpe(path, pre, *keys, kind="whitespace")


def hybriddna(pre: str, **how: Any) -> Any:
    """Write a vocabulary of that kind."""
    return lambda path: write(path, *dna_vocabulary(pre, **how), "hybriddna", pre_key(pre))


def flagged(pre: str, on: bool) -> Any:
    """Write a vocabulary whose flags are all on or all off."""
    keys = [flag(f, on) for f in ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix")]
    return lambda path: write_bpe(path, pre, *keys)


KINDS = {  # name -> how to write it
    **{f"whitespace-{pre}-{low}": whitespace(pre, low) for pre in ("whitespace", "mmbert") for low in (None, *BOTH)},
    **{f"hybriddna-{pre}": hybriddna(pre) for pre in ("gpt-2", "gemma4")},
    "hybriddna-control": hybriddna("qwen2", kind=CONTROL),
    "hybriddna-without-oov": hybriddna("gpt-2", complete=False),
    "gemma4": lambda path: write_bpe(path, None, kind="gemma4"),
    "gemma4-pre": lambda path: write_bpe(path, "gpt-2", kind="gemma4"),
    "no-pre": lambda path: write_bpe(path, None),
    **{f"flags-{p}-{on}": flagged(p, on) for p in ("gemma4", "glm4", "tekken", "roberta-bpe", "mmbert") for on in BOTH},
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_has_llama_cpps_ids_and_texts(engine: Many, tmp_path: Path, name: str) -> None:
    path = KINDS[name](tmp_path / "kind.gguf")
    assert engine.open(path)
    tokenizer = load_tokenizer(path)
    texts = [*texts_to_cut(11, 60), *(dna_texts(100) if "dna" in name else [])]
    for add, parse in ((False, False), (True, True)):
        theirs = engine.ids(texts, add, parse)
        for text, expected in zip(texts, theirs, strict=True):
            assert tokenizer.encode(text, add, parse) == expected, (text, add, parse)
    for special in BOTH:
        assert [tokenizer.piece(i, special) for i in range(len(tokenizer.vocab))] == engine.pieces(special)
    rng = random.Random(5)
    likely = [i for i in (tokenizer.vocab.bos, tokenizer.vocab.eos, *range(len(HEAD))) if i is not None]
    sequences = [
        [rng.choice(likely) if rng.random() < 0.3 else rng.randrange(len(tokenizer.vocab)) for _ in range(7)]
        for _ in range(40)
    ]
    for remove in BOTH:
        for unparse in BOTH:
            ours = [tokenizer.decode_bytes(s, remove, unparse) for s in sequences]
            assert ours == engine.texts(sequences, remove, unparse)


@pytest.mark.oracle
def test_llama_cpp_dies_of_two_spaces_where_spaces_are_symbols(tmp_path: Path) -> None:
    """refembed goes on: no merge has a space in it."""
    path = write(tmp_path / "v.gguf", *vocabulary(0, False), "gpt2", pre_key("whitespace"))
    with Many() as engine:
        assert engine.open(path)
        assert engine.ask("ids", [b"a  b".hex()], False, False) is None
    assert ids_of(load_tokenizer(path), "a  b") == ["a", "<0x20>", "<0x20>", "b"]


@pytest.mark.oracle
def test_long_words_have_llama_cpps_ids(engine: Many, gpt2: Tokenizer, tmp_path: Path) -> None:
    """Beyond some length a heap finds the pairs."""
    assert engine.open(write_bpe(tmp_path / "v.gguf", "gpt-2"))
    rng = random.Random(9)
    texts: list[str | bytes] = [
        "".join(rng.choice("abcdefgh") for _ in range(n)) for n in (40, 48, 49, 50, 300, 20_000)
    ]
    texts += ["a" * 5000, "ab" * 5000, "é" * 3000]
    assert [gpt2.encode(t, False) for t in texts] == engine.ids(texts, False, False)


@pytest.mark.slow
def test_a_megabyte_in_one_word_takes_seconds(gpt2: Tokenizer) -> None:
    word = "".join(random.Random(1).choice("abcdefghijklmnop") for _ in range(1 << 20))
    assert gpt2.decode(gpt2.encode(word, add_special=False)) == word


def test_spaces_separate_and_are_lost_in_the_kind_whitespace(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_bpe(tmp_path / "v.gguf", "whitespace", kind="whitespace"))
    words = ["abc", "DEF", "gh1"]
    expected = [i for w in words for i in tokenizer.encode(w, add_special=False)]
    for space in sorted(SPACES):
        assert tokenizer.encode(chr(space).join(words), add_special=False) == expected
