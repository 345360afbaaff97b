"""Chunks of texts: nothing is lost, none is too long, cuts are where they belong, and late chunking."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed import Embedder, load_tokenizer
from refembed.chunk import Chunk, chunk, sentences
from refembed.errors import RequestError, TooLongError
from refembed.pipeline.spans import token_spans
from refembed.testing.synthetic import synthetic
from refembed.tokenizer import Tokenizer

KINDS = ("paragraph", "sentence", "tokens")
PIECES = [
    "The cat sat.", "It rained!", "Why? ", "\n\n", "\n", "  \t ", "Dr. Who", "e.g. this", "日本語。", "naïve café", "é",
    "👩‍👧", "supercalifragilistic" * 3, "x" * 50, "...", "“Quoted.” ", "3.5", "[SEP]", "\r\n \r\n", "\u00a0",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=30).map(" ".join)


class Bytes:
    """A tokenizer that anyone can check: a token a byte, and one more at each end."""

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        found = list(text.encode("utf-8", "surrogatepass"))
        return [256, *found, 257] if add_special else found


class Words:
    """A token a word, none for white space."""

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return [0] * len(text.split())


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    """Of small models, each kind of tokenizer that a text model has."""
    import tempfile

    if kind == "minilm":
        return load_tokenizer("minilm")
    folder = Path(tempfile.mkdtemp())
    return load_tokenizer(synthetic(folder / "m.gguf", kind))


def check(text: str, chunks: list[Chunk], tokens: int, overlap: int, tokenizer: object, prefix: str = "") -> None:
    """The laws."""
    assert "".join(c.text[c.overlap :] for c in chunks) == text
    assert [c.text for c in chunks] == [text[c.start : c.end] for c in chunks]
    for c in chunks:
        count = len(tokenizer.encode(prefix + c.text, True, True))  # type: ignore[attr-defined]
        assert count == c.tokens <= tokens
        assert len(tokenizer.encode(c.text[: c.overlap], False, True)) <= overlap  # type: ignore[attr-defined]
        assert c.overlap < len(c.text)
    for a, b in itertools.pairwise(chunks):
        assert a.start + a.overlap <= b.start
        assert b.start + b.overlap == a.end


@pytest.mark.parametrize("by", KINDS)
@given(text=TEXTS, tokens=st.integers(12, 40), overlap=st.integers(0, 11))
def test_chunks_without_overlaps_are_the_text_and_none_is_too_long(
    by: str, text: str, tokens: int, overlap: int
) -> None:
    t = Bytes()
    check(text, chunk(text, tokens, overlap, by=by, tokenizer=t), tokens, overlap, t)


@pytest.mark.parametrize("kind", ["minilm", "qwen3", "gemma3", "t5encoder"])
@given(text=TEXTS, tokens=st.integers(24, 40), overlap=st.integers(0, 9), by=st.sampled_from(KINDS))
def test_it_holds_for_every_kind_of_tokenizer(kind: str, text: str, tokens: int, overlap: int, by: str) -> None:
    t = tokenizer_of(kind)
    check(text, chunk(text, tokens, overlap, by=by, tokenizer=t, prefix="a: "), tokens, overlap, t, "a: ")


@given(text=TEXTS, tokens=st.integers(1, 9))
def test_a_chunk_is_as_full_as_can_be(text: str, tokens: int) -> None:
    """By words and without overlaps: a chunk with the next word would be too long."""
    t = Words()
    chunks = chunk(text, tokens, by="tokens", tokenizer=t)
    for a, b in itertools.pairwise(chunks):
        assert len(a.text.split()) == tokens
        assert b.text.split()
    check(text, chunks, tokens, 0, t)


TEXT = "One two three. Four five! Six seven eight nine?\n\nTen eleven.  Twelve."


def test_chunks_are_whole_sentences_where_these_fit() -> None:
    found = [c.text for c in chunk(TEXT, 5, tokenizer=Words())]
    assert found == ["One two three. Four five! ", "Six seven eight nine?\n\n", "Ten eleven.  Twelve."]


def test_paragraphs_stay_together_where_they_fit() -> None:
    assert [c.text for c in chunk(TEXT, 9, by="paragraph", tokenizer=Words())] == [TEXT[:49], TEXT[49:]]
    assert [c.text for c in chunk(TEXT, 6, by="paragraph", tokenizer=Words())] == [TEXT[:26], TEXT[26:49], TEXT[49:]]


def test_a_sentence_that_does_not_fit_is_cut_between_words_and_a_word_between_characters() -> None:
    assert [c.text for c in chunk("a b c d e. f", 3, tokenizer=Words())] == ["a b c ", "d e. f"]
    assert [c.text for c in chunk("abcdefg hi", 6, by="tokens", tokenizer=Bytes())] == ["abcd", "efg ", "hi"]


def test_a_combining_mark_stays_with_its_letter_if_that_fits() -> None:
    text = "e\u0301" * 4  # three bytes each
    assert [c.text for c in chunk(text, 7, tokenizer=Bytes())] == ["e\u0301"] * 4
    assert [c.text for c in chunk(text, 4, tokenizer=Bytes())] == ["e", "\u0301"] * 4


def test_overlaps_are_whole_sentences_or_else_words() -> None:
    found = chunk(TEXT, 6, 3, tokenizer=Words())
    assert [(c.text[: c.overlap], c.text[c.overlap :]) for c in found] == [
        ("", "One two three. Four five! "), ("Four five! ", "Six seven eight nine?\n\n"),
        ("seven eight nine?\n\n", "Ten eleven.  Twelve."),
    ]  # fmt: skip


def test_an_overlap_gives_way_to_the_next_sentence() -> None:
    """Two sentences are short enough to come again, but only one of them leaves room for the next."""
    text = "A b. C d. E f g."
    found = chunk(text, 5, 4, tokenizer=Words())
    assert [(c.text[: c.overlap], c.text[c.overlap :]) for c in found] == [("", "A b. C d. "), ("C d. ", "E f g.")]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("He came. She left.", ["He came. ", "She left."]),
        ("Mr. Smith of St. Ives came. He left.", ["Mr. Smith of St. Ives came. ", "He left."]),
        ("J. S. Bach wrote it. Yes.", ["J. S. Bach wrote it. ", "Yes."]),
        ("It is 3.5 km. e.g. here, i.e. now. So.", ["It is 3.5 km. e.g. here, i.e. now. ", "So."]),
        ('"Really?!" he said. (Yes.) No…  Maybe', ['"Really?!" he said. ', "(Yes.) ", "No…  ", "Maybe"]),
        ("好。好！「好？」好", ["好。", "好！", "「好？」", "好"]),
        ("A heading\n\nA text\nof two lines", ["A heading\n\n", "A text\nof two lines"]),
        ("See fig. 3 etc. Then", ["See fig. 3 etc. Then"]),
        ("", []),
    ],
)
def test_where_sentences_end(text: str, ends: list[str]) -> None:
    borders = [0, *(e for e in sentences(text) if e < len(text)), len(text)]
    assert [text[a:b] for a, b in itertools.pairwise(borders) if a < b] == ends


@pytest.mark.parametrize(
    ("tokens", "overlap", "by", "said"),
    [
        (0, 0, "sentence", "chunks of 0 tokens"),
        (5, 5, "sentence", "with 5 repeated"),
        (5, -1, "sentence", "with -1 repeated"),
        (5, 0, "line", "chunks by 'line'"),
        (5, 0, "character", "chunks by 'character'"),
        (3, 0, "sentence", r"character 2, 'é', has 4 tokens with the special ones, more than a chunk's 3"),
    ],
)
def test_what_cannot_be_is_refused(tokens: int, overlap: int, by: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        chunk("aaé", tokens, overlap, by=by, tokenizer=Bytes())
    with pytest.raises(RequestError, match="characters, not bytes"):
        chunk(b"aa", 5, tokenizer=Bytes())  # type: ignore[arg-type]


# --- late chunking ---

DOCUMENT = "Hello world. The cat sat on a mat!  A dog embed ing it."


def test_one_chunk_of_the_whole_text_is_embed_bit_for_bit(tiny: Path) -> None:
    for numerics in ("exact", "fast"):
        e = Embedder.load(tiny, numerics=numerics)
        for pooling in ("mean", "cls", "last", "max"):
            whole = e.embed_chunks(DOCUMENT, [(0, len(DOCUMENT))], pooling=pooling)
            assert np.array_equal(whole[0], e.embed(DOCUMENT, pooling=pooling))


def test_the_chunks_of_a_text_average_to_its_mean(tiny: Path) -> None:
    """Weighted by their tokens. Measured in float64: 3e-8, float32's own rounding of the results."""
    e = Embedder.load(tiny, numerics="exact")
    chunks = chunk(DOCUMENT, 9, tokenizer=e.tokenizer)
    counts = [b - a for a, b in token_spans(e.tokenizer, DOCUMENT, e.tokenize(DOCUMENT), [c[:2] for c in chunks])]
    assert len(chunks) > 2
    assert sum(counts) == len(e.tokenize(DOCUMENT))
    vectors = e.embed_chunks(DOCUMENT, chunks, normalize=-1).astype(float)
    mean = np.average(vectors, axis=0, weights=counts)
    assert np.abs(mean - e.embed(DOCUMENT, normalize=-1)).max() < 2e-7


def test_a_chunk_is_the_mean_of_its_tokens_of_the_whole_text(tiny: Path) -> None:
    """Tokens as `embed(pooling="none")` gives them: [CLS] hello world . the cat sat on ..."""
    e = Embedder.load(tiny, numerics="exact")
    tokens = e.embed(DOCUMENT, pooling="none", normalize=-1)
    assert [e.detokenize([i]).strip() for i in e.tokenize(DOCUMENT)[4:7]] == ["the", "cat", "sat"]
    found = e.embed_chunks(DOCUMENT, [(13, 24), (0, 12)], normalize=-1)
    assert found[0] == pytest.approx(tokens[4:7].mean(axis=0), abs=1e-6)
    assert found[1] == pytest.approx(tokens[0:4].mean(axis=0), abs=1e-6)
    alone = e.embed("The cat sat", normalize=-1)
    assert np.abs(found[0] - alone).max() > 0.01  # it has seen the rest


@pytest.mark.parametrize("kind", ["minilm", "qwen3", "gemma3", "t5encoder"])
@given(text=TEXTS.filter(lambda t: len(t.split()) > 3), data=st.data())
def test_every_token_belongs_to_one_chunk(kind: str, text: str, data: st.DataObject) -> None:
    """Of borders between words the tokens of the parts are, one after the other, those of the text."""
    t = tokenizer_of(kind)
    words = list(itertools.accumulate(len(w) + 1 for w in text.split(" ")))[:-1]
    borders = sorted({0, len(text), *data.draw(st.lists(st.sampled_from(words), max_size=4))})
    spans = [(a, b) for a, b in itertools.pairwise(borders) if text[a:b].strip()]
    ids = t.encode(text, True, True)
    try:
        found = token_spans(t, text, ids, spans)
    except RequestError as error:
        assert "has no token of its own" in error.message  # noqa: PT017
        return
    assert all(0 <= a < b <= len(ids) for a, b in found)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))


def test_a_border_within_a_token_gives_it_to_the_chunk_behind(minilm: Path) -> None:
    t = load_tokenizer(minilm)
    ids = t.encode("a cat sat")
    assert token_spans(t, "a cat sat", ids, [(0, 3), (3, 9)]) == [(0, 2), (2, 5)]  # ca|t: cat is one token


def test_tokens_are_those_of_the_characters(minilm: Path) -> None:
    t, text = load_tokenizer(minilm), "Cats,dogs!(no)"
    ids = t.encode(text)
    assert [t.decode([i]).strip() for i in ids] == ["[CLS]", "cats", ",", "dogs", "!", "(", "no", ")", "[SEP]"]
    spans = [(0, 4), (4, 5), (5, 9), (9, 10), (10, 11), (11, 13), (13, 14)]
    assert token_spans(t, text, ids, spans) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 9)]
    assert token_spans(t, text, ids, [(5, 13), (0, 9)]) == [(3, 7), (0, 4)]  # in any order, over each other


def test_what_is_no_span_of_the_text_is_refused(tiny: Path) -> None:
    e = Embedder.load(tiny)
    for spans, said in (
        ([(0, 99)], "of a text of 7 characters"), ([(3, 3)], "span 0: 3 to 3"), ([(-1, 2)], "span 0: -1 to 2"),
        ([5], "span 0: 5"), ([(0, 3), ("a", 4)], "span 1"), ([(3, 4)], "has no token of its own"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=said):
            e.embed_chunks("the cat", spans)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="gives no vector a chunk"):
        e.embed_chunks("the cat", [(0, 3)], pooling="none")
    with pytest.raises(TooLongError, match="input 0: 102 tokens"):
        e.embed_chunks("cat " * 100, [(0, 3)])
    assert e.embed_chunks("the cat", []).shape == (0, 32)
