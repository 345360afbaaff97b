"""What the texts that changed have in common, and no other text has: a hint at the cause without a model."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

CHANCE = 1e-3  # how seldom a trait may fit by luck: one of C(n, k) choices of k texts among n
SPECIAL = re.compile(r"\[(CLS|SEP|PAD|UNK|MASK)\]|</?s>|<\|[^|<>]+\|>|<(bos|eos|pad|unk|mask)>")

TRAITS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("special tokens spelled out", lambda t: bool(SPECIAL.search(t))),
    ("capital letters", lambda t: t != t.lower()),
    ("accented letters", lambda t: any(unicodedata.combining(c) for c in unicodedata.normalize("NFD", t))),
    ("combining marks", lambda t: any(unicodedata.combining(c) for c in t)),
    ("characters that NFC composes", lambda t: t != unicodedata.normalize("NFC", t)),
    ("characters that NFKC replaces", lambda t: t != unicodedata.normalize("NFKC", t)),
    ("Chinese, Japanese or Korean", lambda t: any(wide(c) for c in t)),
    ("emoji and other symbols", lambda t: any(unicodedata.category(c) == "So" for c in t)),
    ("letters beyond ASCII", lambda t: any(c.isalpha() and not c.isascii() for c in t)),
    ("characters beyond ASCII", lambda t: not t.isascii()),
    ("digits", lambda t: any(c.isdigit() for c in t)),
    ("punctuation", lambda t: any(unicodedata.category(c).startswith("P") for c in t)),
    ("space at either end, or several spaces in a row", lambda t: t != t.strip(" ") or "  " in t),
    ("line breaks or tabs", lambda t: any(c in "\n\r\t\v\f" for c in t)),
)


def wide(c: str) -> bool:
    """Whether a character is written in full width in East Asia, and is a letter."""
    return unicodedata.east_asian_width(c) in "WF" and unicodedata.category(c).startswith("L")


def in_common(texts: Sequence[str], changed: Collection[int]) -> str:
    """`capital letters`, `more than 120 characters`; empty where nothing fits, or may fit by luck.

    texts    all that were compared
    changed  places of those that changed

    >>> texts = [f"text {i}" for i in range(20)] + ["Paris", "Rome 7", "Oslo"]
    >>> in_common(texts, {20, 21, 22})
    'capital letters'
    >>> in_common(texts, {20, 21})  # the third has capital letters too
    ''
    """
    chosen = set(changed)
    if not 0 < len(chosen) < len(texts) or math.comb(len(texts), len(chosen)) * CHANCE < 1:
        return ""
    for name, has in TRAITS:
        if {i for i, t in enumerate(texts) if has(t)} == chosen:
            return name
    others = [len(t) for i, t in enumerate(texts) if i not in chosen]
    if min(len(texts[i]) for i in chosen) > max(others):
        return f"more than {max(others)} characters"
    return ""
