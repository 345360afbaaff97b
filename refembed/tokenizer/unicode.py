"""Code points as llama.cpp has them: Unicode 15.1, whatever version the interpreter carries.

Mirrors src/unicode.cpp of llama.cpp. The tables are in `_unicode_data`, made by tools/generate_unicode.py.
"""

from __future__ import annotations

import codecs
import functools
import re
import unicodedata

from refembed.errors import RequestError
from refembed.tokenizer._unicode_data import CATEGORY_RUNS, LOWERCASE_RUNS

LAST = 0x10FFFF  # the last code point there is
REPLACEMENT = 0xFFFD  # what a byte that is no UTF-8 becomes

# White space. Python's str.isspace() takes 1C-1F as well; llama.cpp has those as control characters.
SPACES = frozenset(
    [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)

# Lead byte -> bytes of the whole sequence and the bits the lead byte gives to the code point.
LEADS = (
    (0xC0, 0xDF, 2, 0x1F),
    (0xE0, 0xEF, 3, 0x0F),
    (0xF0, 0xF7, 4, 0x07),
)


def category(cp: int) -> str:
    """The major class of a code point, of Unicode 15.1.

    L letter, M mark, N number, P punctuation, S symbol, Z separator, C control (Cc, Cf, Co, Cs), U unassigned (Cn)
    """
    return categories()[cp]


def lower(cp: int) -> int:
    """Simple lowercase: one code point to one. So Σ is always σ, and İ is i, unlike in str.lower()."""
    return _lowercase().get(cp, cp)


def first_decomposed(cp: int) -> int:
    """The first code point of the canonical decomposition. For a Hangul syllable, its leading consonant.

    The interpreter's own table serves: Unicode promises that decompositions of assigned code points never change, and
    what Unicode 15.1 has not assigned has none.
    """
    if category(cp) == "U":
        return cp
    return ord(unicodedata.normalize("NFD", chr(cp))[0])


def decode(raw: bytes) -> str:
    """UTF-8 -> str, as forgiving as llama.cpp: overlong forms and surrogates pass, other bad bytes become U+FFFD each.

    RequestError for a code point above U+10FFFF, as llama.cpp throws "invalid codepoint".
    """
    return raw.decode("utf-8", "refembed.structural")


def decode_structurally(error: UnicodeError) -> tuple[str, int]:
    """Go on where strict UTF-8 stops: bytes of the right shape count, whatever they spell.

    error    what the decoder objects to, and where
    returns  the character, and the byte to continue at
    """
    assert isinstance(error, UnicodeDecodeError)
    raw, at = error.object, error.start
    for first, last, size, mask in LEADS:
        tail = raw[at + 1 : at + size]
        if first <= raw[at] <= last and len(tail) == size - 1 and all(b & 0xC0 == 0x80 for b in tail):
            cp = raw[at] & mask
            for b in tail:
                cp = cp << 6 | b & 0x3F
            if cp > LAST:
                spelled = raw[at : at + size].hex(" ").upper()
                hint = "the bytes are not text; were they meant as UTF-8?"
                raise RequestError(f"the text has the code point {cp:X} (bytes {spelled}), above 10FFFF", hint=hint)
            return chr(cp), at + size
    return chr(REPLACEMENT), at + 1


codecs.register_error("refembed.structural", decode_structurally)


@functools.cache
def categories() -> str:
    """`category` of each of the 1,114,112 code points, in one string."""
    return "".join(letter * int(count, 16) for count, letter in re.findall("([0-9a-f]+)([A-Z])", CATEGORY_RUNS))


@functools.cache
def _lowercase() -> dict[int, int]:
    """Code point -> its lowercase, where that is another."""
    pairs: dict[int, int] = {}
    for run in LOWERCASE_RUNS.split():
        first, last, step, target = (int(n, 16) for n in run.split(","))
        pairs.update((cp, target + cp - first) for cp in range(first, last + 1, step))
    return pairs
