"""Texts that tokenizers get wrong, from a seed: for our tests, for recorded expectations, for other engines' authors.

    random_texts(seed=0, n=1000)        # the same 1000 texts on every machine and Python version

Each text strings together parts of the KINDS below: every script and plane, marks in odd orders, emoji sequences, odd
white space, look-alikes of special tokens, bytes that are no UTF-8. No text spells a code point above U+10FFFF, as
llama.cpp ends the call there for some vocabularies; `TOO_HIGH` holds such texts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def split(words: str) -> tuple[str, ...]:
    """Words between spaces."""
    return tuple(words.split())


WORDS = split(
    "the and of to in a is that it for embeddings unaffable antidisestablishmentarianism don't I'll we've naïve café "
    "Straße ISTANBUL İstanbul ΟΔΟΣ Σίσυφος Čeština Việt Привет мир שלום مرحبا नमस्ते हिन्दी தமிழ் ไทย ລາວ ქართული "
    "日本語 かな カタカナ 中文 漢字 한국어 안녕하세요 Ελληνικά Հայերեն አማርኛ ᏣᎳᎩ ខ្មែរ မြန်မာ བོད ᠮᠣᠩᠭᠣᠯ ﬁne ﬃ ſtreet "
    "\u212a \u212b \u2126"  # Kelvin, Ångström, Ohm: canonically K, Å, Ω
)
MARKS = [*range(0x300, 0x370), *range(0x483, 0x488), *range(0x5B0, 0x5C0), *range(0x64B, 0x656), *range(0x93A, 0x950)]
MARKS += [0x20DD, 0x20E3, 0x3099, 0x309A, 0xFE0E, 0xFE0F, 0x1E94A, 0xE0100]
LETTERS = "aeiounsAEOBZåéñΑωи中각한アﬁ가"
SPACES = (
    "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\x00\u180e"
)
EMOJI = split("😀 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 🇨 ❤️ ☺ ✈︎ #️⃣ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🫠 🧑🏿‍🚀 ☕ → ≠ ∑ € ™ ① ½ ² ‰ … — “” «» ¿ ¡ · • ★")
SPECIAL = split(
    "[CLS] [SEP] [PAD] [UNK] [MASK] [cls] [SEP [ SEP] [unused1] <s> </s> <unk> <mask> <pad> <|im_end|> <|endoftext|> "
    "<bos> <eos> <0x41> ## ##ing ▁ ▁the Ġthe ĊĊ [CLS][SEP] [[SEP]] [SEP]]"
)
CODE = (
    "for (int i = 0; i < n; ++i) { x[i] += 1e-3f; }",
    "def f(x: int) -> str:\n\treturn f'{x!r:>8}'\n",
    "SELECT * FROM t WHERE a <> 'b' -- c",
    '<a href="https://example.org/?q=1&r=%20#top">x</a>',
    "\\frac{1}{2} \\cdot \\sqrt{x^2}",
    "$ grep -rn 'a\\|b' ./src | sort -u > /dev/null 2>&1",
)
BROKEN = (
    b"\x80", b"\xbf\xbf", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff", b"\xfe\xff", b"\xf8\x88\x80\x80\x80",
    b"\xc0\xaf", b"\xc1\x81", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf0\x82\x82\xac", b"\xed\xa0\x80",
    b"\xed\xa0\xbd\xed\xb8\x80", b"\xed\xbf\xbf", b"\xef\xbf\xbf", b"\xef\xb7\x90", b"\xc0\x80", b"\xe2\x41\x82",
)  # fmt: skip
TOO_HIGH = (b"\xf4\x90\x80\x80", b"a\xf5\x80\x80\x80", b"\xf7\xbf\xbf\xbf b", b"\xf6\x81\x82\x83")
TOO_HIGH_SHAPE = re.compile(rb"(?:\xf4[\x90-\xbf]|[\xf5-\xf7][\x80-\xbf])[\x80-\xbf]{2}")


def random_texts(seed: int, n: int) -> list[str | bytes]:
    """n texts. About one in eight is bytes; a longer list begins with the shorter one of the same seed."""
    rng = random.Random(seed)
    return [random_text(rng) for _ in range(n)]


def random_text(rng: random.Random) -> str | bytes:
    """One text of 0 to 12 parts."""
    parts = [pick(rng, TEXT_GENERATORS)(rng) for _ in range(below(rng, 13))]
    glue = pick(rng, ("", " ", " ", pick(rng, SPACES)))
    text = glue.join(p for p in parts if isinstance(p, str))
    broken = [p for p in parts if isinstance(p, bytes)]
    if not broken:
        return text
    raw = text.encode()
    for part in broken:
        at = below(rng, len(raw) + 1)  # in the middle of a character, too
        raw = raw[:at] + part + raw[at:]
    while TOO_HIGH_SHAPE.search(raw):  # cutting one out can make another
        raw = TOO_HIGH_SHAPE.sub(b"", raw)
    return raw


# Only random.random() gives the same numbers in every version of Python, so everything is drawn from it.


def below(rng: random.Random, n: int) -> int:
    """A number from 0 to n - 1."""
    return int(rng.random() * n)


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of the items."""
    return items[below(rng, len(items))]


def character(cp: int) -> str:
    """The character; instead of a surrogate, which no UTF-8 can hold, the one 2048 further on."""
    return chr(cp + 0x800 if 0xD800 <= cp < 0xE000 else cp)


def word(rng: random.Random) -> str:
    """A word of some language, in some case."""
    w = pick(rng, WORDS)
    return pick(rng, (w, w, w.upper(), w.title(), w + pick(rng, WORDS)))


def block(rng: random.Random) -> str:
    """Up to 8 of 128 neighbors, anywhere: a script, symbols, private use, unassigned."""
    planes = (0x2000, 0x10000, 0x20000, 0x30000, 0x110000)
    start = below(rng, pick(rng, planes) // 128) * 128
    return "".join(character(start + below(rng, 128)) for _ in range(1 + below(rng, 8)))


def marked(rng: random.Random) -> str:
    """Letters under marks, in an order no normal form has; sometimes marks alone."""
    letters = (pick(rng, LETTERS) if rng.random() < 0.9 else "" for _ in range(1 + below(rng, 3)))
    return "".join(c + "".join(chr(pick(rng, MARKS)) for _ in range(below(rng, 5))) for c in letters)


def number(rng: random.Random) -> str:
    """A number as people write it, or digits of other scripts."""
    digits = str(below(rng, 10 ** (1 + below(rng, 12))))
    zero = pick(rng, (0x30, 0x30, 0x660, 0x966, 0xFF10, 0x1D7CE))
    other = "".join(chr(zero + int(d)) for d in digits)
    return pick(
        rng, (other, f"{digits[:3]},{digits[3:]}.5", f"-{digits}e-7", f"{digits}%", f"0x{digits}", f"{digits}st")
    )


def repeated(rng: random.Random) -> str:
    """One character over and over."""
    return pick(rng, ("a", "x", "!", "é", "中", "▁", "\u0301", "#", "q", "0")) * below(rng, 130)


def spaces(rng: random.Random) -> str:
    """White space, and what some take for it."""
    return "".join(pick(rng, SPACES) for _ in range(1 + below(rng, 6)))


def edge(rng: random.Random) -> str:
    """A code point at either end of a range that some tokenizer treats apart."""
    ends: tuple[int, ...] = (
        0x3400,
        0x4DBF,
        0x4E00,
        0x9FFF,
        0xF900,
        0xFAFF,
        0x20000,
        0x2A6DF,
        0x2A700,
        0x2B73F,
        0x2B740,
        0x2B81F,
    )
    ends += (0x2B820, 0x2B920, 0x2CEAF, 0x2CEB0, 0x2F800, 0x2FA1F, 0xAC00, 0xD7A3, 0x7E, 0x7F, 0xD7FF, 0xE000, 0xFFFD)
    return "".join(character(pick(rng, ends) + below(rng, 3) - 1) for _ in range(1 + below(rng, 3)))


def broken(rng: random.Random) -> bytes:
    """Bytes that are no UTF-8, or only in a lenient reading."""
    return pick(rng, BROKEN) if rng.random() < 0.7 else bytes(below(rng, 256) for _ in range(1 + below(rng, 6)))


TEXT_GENERATORS: tuple[Callable[[random.Random], str | bytes], ...] = (
    word,
    word,
    word,
    block,
    block,
    marked,
    number,
    spaces,
    edge,
    repeated,
    lambda rng: pick(rng, EMOJI),
    lambda rng: pick(rng, SPECIAL),
    lambda rng: pick(rng, CODE),
    lambda rng: character(below(rng, 0x110000)),
    lambda rng: chr(0x21 + below(rng, 0x5E)),
    lambda rng: broken(rng) if rng.random() < 0.4 else word(rng),
)
