"""How llama.cpp cuts a text into pieces: stage by stage, each one a regular expression or a rule about digits.

Mirrors unicode_regex_split of src/unicode.cpp. Every stage cuts each piece that the one before it left; what an
expression does not match stays as a piece as well, so nothing is lost. An expression sees its piece alone: the end of
the piece is the end of the text to it.

llama.cpp's expressions do not see characters but their classes, one byte for each character:

    below 128               the character itself
    white space from 128    0B, a vertical tab: the only way \\s gets to know it
    others                  D1 number, D2 letter, D3 punctuation, D4 mark, D5 symbol, D0 anything else

So upper and lower case are the same beyond ASCII. Expressions that need no class see the text itself, but for white
space, which is replaced alike.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np

from refembed.arrays import U8
from refembed.tokenizer.unicode import SPACES, categories

CLASSES = {"N": 0xD1, "L": 0xD2, "P": 0xD3, "M": 0xD4, "S": 0xD5, "Z": 0xD0, "C": 0xD0, "U": 0xD0}
HAN_LETTER, HAN_OTHER = 0xD6, 0xD7  # instead of the class: ideographs, and what is not assigned among them
VERTICAL_TAB = 0x0B

# What the splitter of Kimi-K2 takes for Han.
HAN = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2EBEF),
    (0x2F800, 0x2FA1F),
)


class Text:
    """A text and how the stages see it: one byte or character for each of its characters."""

    def __init__(self, chars: str) -> None:
        self.chars = chars
        self.ascii = chars.isascii()

    @functools.cached_property
    def classes(self) -> bytes:
        """Classes of the characters."""
        return self.chars.encode() if self.ascii else class_table()[code_points(self.chars)].tobytes()

    @functools.cached_property
    def han(self) -> bytes:
        """Classes, Han apart."""
        return self.chars.encode() if self.ascii else han_table()[code_points(self.chars)].tobytes()

    @functools.cached_property
    def wide(self) -> str:
        """The text itself, its white space from 128 on as vertical tabs."""
        return self.chars if self.ascii else WIDE_SPACES.sub(chr(VERTICAL_TAB), self.chars)


Stage: TypeAlias = Callable[[Text, Sequence[int]], "list[int]"]  # ends of the pieces -> ends of the finer pieces
WIDE_SPACES = re.compile(f"[{''.join(chr(cp) for cp in sorted(SPACES) if cp > 0x7F)}]")


def split(chars: str, stages: Sequence[Stage]) -> list[str]:
    """Pieces of a text, in order; joined they are the text."""
    text, ends = Text(chars), [len(chars)]
    for stage in stages:
        ends = stage(text, ends)
    return [chars[a:b] for a, b in pairwise([0, *ends]) if a < b]


@dataclass(frozen=True)
class Expression:
    """A stage: cut before and behind every match.

    pattern  without capturing groups
    view     what it is matched against, an attribute of Text
    """

    pattern: str
    view: str

    def __call__(self, text: Text, ends: Sequence[int]) -> list[int]:
        seen, find = getattr(text, self.view), self.compiled.findall
        finer: list[int] = []
        start = 0
        for end in ends:
            sizes = list(map(len, find(seen, start, end)))
            if sum(sizes) == end - start:  # nothing between the matches: their sizes say it all
                finer += list(accumulate(sizes, initial=start))[1:]
            else:
                finer += self.with_gaps(seen, start, end)
            start = end
        return finer

    def with_gaps(self, seen: str | bytes, start: int, end: int) -> list[int]:
        """Ends of the matches, and of what lies between them, in one piece."""
        ends, at = [], start
        for match in self.compiled.finditer(seen, start, end):
            first, last = match.span()
            if first > at:
                ends.append(first)
            ends.append(last)
            at = last
        return ends if at == end else [*ends, end]

    @functools.cached_property
    def compiled(self) -> re.Pattern[Any]:
        """Compiled when first needed. In bytes, \\s and \\d are ASCII's, as in llama.cpp; in a str a flag says so."""
        return re.compile(self.pattern, re.ASCII) if self.view == "wide" else re.compile(self.pattern.encode("latin-1"))


def by_classes(*alternatives: str) -> Expression:
    """An expression on classes; the alternatives are tried in order."""
    return Expression("|".join(alternatives), "classes")


def by_characters(*alternatives: str) -> Expression:
    """An expression on the text itself."""
    return Expression("|".join(alternatives), "wide")


def by_han(*alternatives: str) -> Expression:
    """An expression on classes, Han apart."""
    return Expression("|".join(alternatives), "han")


NUMBERS = re.compile(rb"[0-9\xd1]+")
DIGITS = re.compile("[0-9]+", re.ASCII)


def threes_from_the_right(text: Text, ends: Sequence[int]) -> list[int]:
    """ "abc1234def" -> "abc1" "234" "def": what precedes a number stays with its first digits."""
    finer: list[int] = []
    start = 0
    for end in ends:
        for number in NUMBERS.finditer(text.classes, start, end):
            first, last = number.span()
            finer += range(first + ((last - first) % 3 or 3), last + 1, 3)
        if finer[-1:] != [end]:
            finer.append(end)
        start = end
    return finer


def before_threes(text: Text, ends: Sequence[int]) -> list[int]:
    """ "1234567" -> "1" "234" "567": a cut wherever 3, 6, 9 ... digits are left of a row of them (ASCII digits)."""
    finer: list[int] = []
    start = 0
    for end in ends:
        for digits in DIGITS.finditer(text.wide, start, end):
            first, last = digits.span()
            finer += range(first + (last - first) % 3, last, 3)
        finer.append(end)
        start = end
    return finer


def code_points(chars: str) -> Any:
    """Code points of a text (N)."""
    return np.frombuffer(chars.encode("utf-32-le", "surrogatepass"), "<u4")


@functools.cache
def class_table() -> U8:
    """Class of every code point (1114112)."""
    letters = np.zeros(256, np.uint8)
    letters[[ord(c) for c in CLASSES]] = list(CLASSES.values())
    table = letters[np.frombuffer(categories().encode(), np.uint8)]
    table[sorted(SPACES)] = VERTICAL_TAB
    table[:0x80] = np.arange(0x80)
    return table


@functools.cache
def han_table() -> U8:
    """Likewise, Han apart."""
    table = class_table().copy()
    for first, last in HAN:
        han = table[first : last + 1]
        han[:] = np.where(han == CLASSES["L"], HAN_LETTER, HAN_OTHER)
    return table
