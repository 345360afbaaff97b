"""A long text as chunks that a model can read, each with its exact place in the text.

    for c in chunk(text, 256, overlap=32, tokenizer=e.tokenizer):
        c.text == text[c.start : c.end]        # and e.embed(c.text) has c.tokens tokens, at most 256

A chunk's first `overlap` characters are the end of the chunk before; without them the chunks, one after the other, are
the text, and nothing is lost, not even white space.

Chunks are filled: each takes as many whole sentences (or paragraphs, or words) as fit. What does not fit by itself is
cut at the next smaller kind of place:

    paragraph   behind blank lines
    sentence    behind . ! ? … and what closes (quotes, brackets), where white space and no small letter follow, though
                not behind an initial or a common abbreviation; behind 。！？; and where a paragraph ends
    tokens      between words, for chunks as full as can be
    character   within a word that is too long, never before a combining mark; at last between any two code points

Tokens are counted by tokenizing, as `Embedder.embed` would: with special tokens, and with the prompt that is to stand
before each chunk.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from refembed.errors import RequestError

__all__ = ["Chunk", "chunk"]

PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
SENTENCE = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？｡]+[」』”’）]*\s*|\n[^\S\n]*\n\s*")
WORD = re.compile(r"\S+\s*")
ABBREVIATED = re.compile(  # an initial, or one of these, right before a period
    r"(?:^|\W)(?:[^\W\d_a-z]|(?i:mr|mrs|ms|dr|prof|st|no|vs|etc|cf|fig|eq|e\.g|i\.e|z\.b|d\.h))$"
)
JOINER = "\u200d"


class Chunk(NamedTuple):
    """A part of a text: `text[start:end]`.

    start, end  characters (code points) of the whole text
    overlap     how many of the first characters are those of the chunk before
    tokens      that the model reads, special tokens and the prompt included

    >>> from refembed import load_tokenizer
    >>> chunk("The cat sat. It rains.", 7, tokenizer=load_tokenizer("minilm"))[0]  # [CLS] the cat sat . [SEP]
    Chunk(start=0, end=13, overlap=0, tokens=6, text='The cat sat. ')
    """

    start: int
    end: int
    overlap: int
    tokens: int
    text: str


class Encoder(Protocol):
    """What counts tokens: a `refembed.tokenizer.Tokenizer`, or anything with this method."""

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text."""


def chunk(
    text: str, tokens: int, overlap: int = 0, *, by: str = "sentence", tokenizer: Encoder, prefix: str = ""
) -> list[Chunk]:
    """Cut a text into chunks of at most so many tokens.

    tokens     the most that a chunk has, special tokens and prefix included: `Embedder.info.n_ctx` at most
    overlap    the most tokens, special ones apart, that a chunk repeats of the end of the chunk before: as many whole
               sentences (of by) as that allows, else words; fewer where the next sentence would not fit otherwise
    by         "paragraph", "sentence" or "tokens"
    tokenizer  the model's: `Embedder.tokenizer`, or `load_tokenizer(model)`
    prefix     what will stand before each chunk (`refembed.hub.prompts`)
    returns    chunks in order; none for an empty text
    Raises RequestError for numbers that make no sense, and where one character alone has more tokens.

    >>> from refembed import load_tokenizer
    >>> chunks = chunk("A cat. A dog. A mat.", 8, 3, tokenizer=load_tokenizer("minilm"))
    >>> [(c.text, c.overlap) for c in chunks]  # two sentences of 3 tokens, [CLS] and [SEP]; one is repeated
    [('A cat. A dog. ', 0), ('A dog. A mat.', 7)]
    """
    if by not in LEVELS or by == "character":
        raise RequestError(f"chunks by {by!r}", hint="by paragraph, sentence or tokens")
    if not isinstance(text, str):
        raise RequestError(f"a text to cut is characters, not {type(text).__name__}", hint="text.decode()")
    if not 0 <= overlap < tokens:
        raise RequestError(f"chunks of {tokens} tokens with {overlap} repeated", hint="0 <= overlap < tokens")
    return list(Cutter(text, tokens, overlap, by, tokenizer, prefix))


class Cutter:
    """One text on its way into chunks."""

    def __init__(self, text: str, tokens: int, overlap: int, by: str, tokenizer: Encoder, prefix: str) -> None:
        self.text, self.most, self.most_repeated = text, tokens, overlap
        self.tokenizer, self.prefix = tokenizer, prefix
        names = list(LEVELS)[list(LEVELS).index(by) :]
        self.ends = [ends_of(LEVELS[name], text) for name in names]  # of units, the largest kind first

    def count(self, start: int, end: int) -> int:
        """Tokens that the model reads of a part."""
        return len(self.tokenizer.encode(self.prefix + self.text[start:end], True, True))

    def repeated(self, start: int, end: int) -> int:
        """Tokens of a part by itself, without special ones."""
        return len(self.tokenizer.encode(self.text[start:end], False, True))

    def __iter__(self) -> Iterator[Chunk]:
        before = start = 0  # where the new text of the last chunk began, and of this one begins
        while start < len(self.text):
            first, end = self.next(before, start)
            yield Chunk(first, end, start - first, self.count(first, end), self.text[first:end])
            before, start = start, end

    def next(self, before: int, start: int) -> tuple[int, int]:
        """Where the chunk with the new text from `start` on begins, its overlap included, and ends."""
        firsts = [*self.overlaps(before, start), start]
        for ends in self.ends:
            for first in firsts:
                if (end := self.furthest(first, start, ends)) is not None:
                    return first, end
        one = self.count(start, start + 1)
        what = f"character {start}, {self.text[start]!r}, has {one} tokens with the special ones"
        raise RequestError(f"{what}, more than a chunk's {self.most}", hint="allow more tokens a chunk")

    def furthest(self, first: int, start: int, ends: Sequence[int]) -> int | None:
        """The last of the ends behind `start` so that text from `first` to it fits; None where the next does not."""
        low = bisect_right(ends, start)  # the next unit
        if self.count(first, ends[low]) > self.most:
            return None
        step = 1
        while low + step < len(ends) and self.count(first, ends[low + step]) <= self.most:
            low, step = low + step, 2 * step
        high = min(low + step, len(ends))  # does not fit, or is not there
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.count(first, ends[middle]) <= self.most else (low, middle)
        return ends[low]

    def overlaps(self, before: int, start: int) -> list[int]:
        """Where an overlap may begin, the longest first: at units of the largest kind of which one is short enough."""
        if not self.most_repeated:
            return []
        for ends in self.ends[: len(self.ends) - 2]:  # down to words
            starts = ends[bisect_left(ends, before) : bisect_left(ends, start)]
            starts = [before, *starts] if before not in starts and before < start else starts
            low, high = 0, len(starts)
            while low < high:
                middle = (low + high) // 2
                if self.repeated(starts[middle], start) > self.most_repeated:
                    low = middle + 1
                else:
                    high = middle
            if starts[low:]:
                return starts[low:]
        return []


def ends_of(level: Callable[[str], Iterator[int]], text: str) -> list[int]:
    """Where units of a kind end, in order; the last is the text's end."""
    return [end for end in level(text) if 0 < end < len(text)] + [len(text)]


def paragraphs(text: str) -> Iterator[int]:
    """Ends of paragraphs."""
    return (m.end() for m in PARAGRAPH.finditer(text))


def sentences(text: str) -> Iterator[int]:
    """Ends of sentences.

    >>> text = 'Dr. J. Doe came, e.g. by train. "Why?" he asked. 3.5 km! 好。好'
    >>> [text[a:b] for a, b in itertools.pairwise([0, *sentences(text), len(text)])]
    ['Dr. J. Doe came, e.g. by train. ', '"Why?" he asked. ', '3.5 km! ', '好。', '好']
    """
    for m in SENTENCE.finditer(text):
        follows = text[m.end() : m.end() + 1]
        mark = m[0].strip()
        if mark and mark[0] in ".!?…":
            short = mark == "." and ABBREVIATED.search(text, max(0, m.start() - 8), m.start())
            if (follows.islower() or short) and "\n\n" not in m[0]:
                continue
        yield m.end()


def words(text: str) -> Iterator[int]:
    """Ends of words, the white space behind them included."""
    return (m.end() for m in WORD.finditer(text))


def characters(text: str) -> Iterator[int]:
    """Ends of characters as one sees them, nearly: no cut before a combining mark, or next to a joiner."""
    for i, (a, b) in enumerate(itertools.pairwise(text), 1):
        if JOINER not in (a, b) and unicodedata.category(b)[0] != "M":
            yield i


def code_points(text: str) -> Iterator[int]:
    """Ends of code points."""
    return iter(range(1, len(text)))


LEVELS: dict[str, Callable[[str], Iterator[int]]] = {
    "paragraph": paragraphs, "sentence": sentences, "tokens": words, "character": characters, "code point": code_points,
}  # fmt: skip
