"""Special tokens cut a text into fragments before anything else looks at it.

Mirrors llama_vocab::impl::tokenizer_st_partition: the longest special token is searched first and over the whole text,
so it wins also over one that begins further left. The search is on bytes: no case, no word boundary, no normalization.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.vocab import Vocab

Fragment: TypeAlias = "bytes | int"  # raw text, or the id of a special token

C_SPACES = b"\t\n\v\f\r "  # C's isspace
BEGINNING = 4  # bytes of a special token that are searched first


@dataclass(frozen=True)
class Special:
    """A token that is cut out of texts."""

    id: int
    text: bytes
    lstrip: bool  # white space on its left goes with it
    rstrip: bool


class Specials(tuple[Special, ...]):
    """The tokens to cut out of a text, in the order they are searched: longest first (in bytes), then by id.

    Some vocabularies have thousands, `<unused0>` and so on; most texts have none. So the few different beginnings are
    searched first, and only tokens whose beginning occurs are searched themselves.
    """

    by_beginning: dict[bytes, list[int]]  # the first bytes -> places in this tuple

    def __new__(cls, specials: Iterable[Special] = ()) -> Specials:
        self = super().__new__(cls, specials)
        self.by_beginning = {}
        for place, special in enumerate(self):
            self.by_beginning.setdefault(special.text[:BEGINNING], []).append(place)
        return self

    def that_may_occur(self, text: bytes) -> list[Special]:
        """Those whose beginning is in the text, in order."""
        places = [place for begin, there in self.by_beginning.items() if begin in text for place in there]
        return [self[place] for place in sorted(places)]


def specials(vocab: Vocab, parse_special: bool) -> Specials:
    """The tokens to cut out: user-defined tokens always, control and unknown tokens only with parse_special."""
    wanted = Attribute.USER_DEFINED | Attribute.CONTROL | Attribute.UNKNOWN
    bits = vocab.attributes
    chosen = (bits & wanted) != 0
    if not parse_special:
        chosen &= (bits & (Attribute.CONTROL | Attribute.UNKNOWN)) == 0
    ids = sorted(np.flatnonzero(chosen).tolist(), key=lambda i: -len(vocab.tokens[i]))
    return Specials(
        Special(i, vocab.tokens[i], bool(bits[i] & Attribute.LSTRIP), bool(bits[i] & Attribute.RSTRIP)) for i in ids
    )


def partition(text: bytes, specials: tuple[Special, ...]) -> list[Fragment]:
    """Text -> fragments in order, none of them empty. `specials` as the function of that name gives them."""
    fragments: list[Fragment] = [text] if text else []
    for special in specials.that_may_occur(text) if isinstance(specials, Specials) else specials:
        if special.text in text:
            fragments = [part for f in fragments for part in (cut(f, special) if isinstance(f, bytes) else (f,))]
    return fragments


def cut(text: bytes, special: Special) -> list[Fragment]:
    """One raw fragment, cut at every occurrence of one special token, from the left."""
    parts: list[Fragment] = []
    start = 0
    while (at := text.find(special.text, start)) >= 0:
        left = text[start:at].rstrip(C_SPACES) if special.lstrip else text[start:at]
        if left:
            parts.append(left)
        parts.append(special.id)
        start = at + len(special.text)
        while special.rstrip and start < len(text) and text[start] in C_SPACES:
            start += 1
    if start < len(text):
        parts.append(text[start:])
    return parts
