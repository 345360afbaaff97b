"""Unicode's composed form, NFC: "e" and U+0301 become "é" (UAX #15), of Unicode 16, whatever the interpreter carries.

`tokenizer.ggml.normalizer.nfc` asks for it. llama.cpp reads the key from build 11739 on, and heeds it for the kind "t5"
alone; older builds pass it over (unicode_cpts_normalize_nfc in src/unicode.cpp; compared with that function itself).

    decompose   each character into its canonical parts, and theirs
    order       marks behind one starter by their combining class, equal classes as they come
    compose     each starter with what follows, unless a mark of the same or a higher class is in between
"""

from __future__ import annotations

import codecs
import functools
import re
import unicodedata
from dataclasses import dataclass

from refembed.tokenizer._composition_data import CLASS_RUNS, LATER_PAIRS
from refembed.tokenizer.unicode import REPLACEMENT, category

COMPOSES = "tokenizer.ggml.normalizer.nfc"

# Hangul syllables by arithmetic (Unicode Standard, 3.12): first syllable, and first and number of leading consonants,
# vowels and trailing consonants; the one before the first trailing consonant stands for none
SYLLABLE, LEADING, VOWEL, TRAILING = 0xAC00, (0x1100, 19), (0x1161, 21), (0x11A7, 28)


@dataclass(frozen=True)
class Tables:
    """What Unicode 16 says, by character."""

    classes: dict[str, int]  # canonical combining class, where it is not 0
    parts: dict[str, str]  # canonical decomposition in full
    pairs: dict[str, str]  # two characters -> the one that they compose to
    changing: re.Pattern[str]  # a character without which a text is composed already


def compose(text: str) -> str:
    """The text in composed form.

    >>> compose("Cafe\\u0301"), compose("\\u1112\\u1161\\u11ab"), compose("\\u2126")  # Hangul; the ohm sign is an omega
    ('Café', '한', 'Ω')
    >>> [hex(ord(c)) for c in compose("\\u0915\\u093c")]  # what Unicode excludes stays decomposed
    ['0x915', '0x93c']
    """
    if text.isascii() or not tables().changing.search(text):
        return text
    pairs, classes = tables().pairs, tables().classes
    out: list[str] = []
    starter, last = -1, 0  # the place of the last starter, and the class of what was put last
    for c in ordered(text):
        k = classes.get(c, 0)
        free = starter == len(out) - 1 or last < k
        if starter >= 0 and free and (one := pairs.get(out[starter] + c)):
            out[starter] = one
            continue
        if not k:
            starter = len(out)
        out.append(c)
        last = k
    return "".join(out)


def characters(raw: bytes) -> str:
    """UTF-8 as builds that compose read it: surrogates pass, any other byte that is out of place becomes U+FFFD.

    >>> characters(b"a\\xc0\\xafb")  # older builds let overlong forms pass: `unicode.decode` has a slash here
    'a��b'
    """
    return raw.decode("utf-8", "refembed.bytewise")


def bytewise(error: UnicodeError) -> tuple[str, int]:
    """Go on where strict UTF-8 stops: the character, and the byte to continue at."""
    assert isinstance(error, UnicodeDecodeError)
    three = error.object[error.start : error.start + 3]
    if re.fullmatch(rb"\xed[\xa0-\xbf][\x80-\xbf]", three):
        return three.decode("utf-8", "surrogatepass"), error.start + 3
    return chr(REPLACEMENT), error.start + 1


codecs.register_error("refembed.bytewise", bytewise)


def ordered(text: str) -> list[str]:
    """Decomposed, with marks in canonical order."""
    parts, classes = tables().parts, tables().classes
    found = [part for c in text for part in parts.get(c, c)]
    begin = 0
    for end in range(len(found) + 1):
        if end == len(found) or found[end] not in classes:
            if end - begin > 1:
                found[begin:end] = sorted(found[begin:end], key=classes.__getitem__)
            begin = end + 1
    return found


@functools.cache
def tables() -> Tables:
    """Made once, of the interpreter's pairs, which stay as they are, and what it may lack."""
    classes = {
        chr(cp): value
        for first, last, value in numbers(CLASS_RUNS)
        for cp in range(first, last + 1)
    }  # fmt: skip
    later = {chr(cp): chr(first) + chr(second) for cp, first, second in numbers(LATER_PAIRS)}
    parts, pairs = dict(later), {two: one for one, two in later.items()}
    for c in map(chr, range(0xA0, 0x30000)):
        if c not in later and category(ord(c)) != "U" and not is_syllable(c):
            listed = unicodedata.decomposition(c)
            if listed and "<" not in listed:
                parts[c] = "".join(chr(int(part, 16)) for part in listed.split())
                if len(parts[c]) == 2 and unicodedata.normalize("NFC", c) == c:
                    pairs[parts[c]] = c
    for syllable, two in syllables():
        parts[syllable], pairs[two] = two, syllable
    changing = {c for c in parts if pairs.get(parts[c]) != c} | {two[1] for two in pairs} | set(classes)
    return Tables(classes, {c: in_full(c, parts) for c in parts}, pairs, re.compile(f"[{''.join(sorted(changing))}]"))


def numbers(runs: str) -> list[tuple[int, int, int]]:
    """ "300,314,e6 ..." as numbers."""
    return [(int(a, 16), int(b, 16), int(c, 16)) for a, b, c in (run.split(",") for run in runs.split())]


def is_syllable(c: str) -> bool:
    """Whether the character is a Hangul syllable."""
    return SYLLABLE <= ord(c) < SYLLABLE + LEADING[1] * VOWEL[1] * TRAILING[1]


def syllables() -> list[tuple[str, str]]:
    """Each Hangul syllable, and the two that compose to it: consonant and vowel, or those as one, and a consonant."""
    found, cp = [], SYLLABLE
    for leading in range(LEADING[0], sum(LEADING)):
        for vowel in range(VOWEL[0], sum(VOWEL)):
            open_syllable = chr(cp)
            found.append((open_syllable, chr(leading) + chr(vowel)))
            found += [(chr(cp + n), open_syllable + chr(TRAILING[0] + n)) for n in range(1, TRAILING[1])]
            cp += TRAILING[1]
    return found


def in_full(c: str, parts: dict[str, str]) -> str:
    """A character's parts, and theirs."""
    return "".join(in_full(part, parts) for part in parts[c]) if c in parts else c
