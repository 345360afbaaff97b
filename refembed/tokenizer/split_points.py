"""Split points: places where a text can be cut without changing how it is tokenized; its parts are then cached.

SPM and Unigram join neighboring characters into tokens. Where no token has the two next to each other, none can reach
across, and each side is tokenized as if the other were not there:

    "▁the▁cat."  ->  "▁the" "▁cat" "."      no token has "e▁" or "t."
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from refembed.tokenizer.bounded_cache import BoundedCache, Ids

FILTER_LOG2 = 22  # places. Real vocabularies have up to 80,000 pairs of neighbors
HIGH, LOW = np.uint32(32 - FILTER_LOG2), np.uint32((1 << FILTER_LOG2) - 1)
FACTORS = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)  # odd, with bits all over
KEPT_LENGTH = 64  # characters: longer parts hardly come twice


class SplitPoints:
    """The split points of texts, for one vocabulary. Tokens that are no UTF-8 do not count: no text in UTF-8 has them.

    The pairs of neighbors are in a Bloom filter: one in a thousand that are not there seems to be. That hides a seam,
    and never makes one up.
    """

    def __init__(self, tokens: Iterable[bytes]) -> None:
        self.joined = np.zeros(1 << FILTER_LOG2, np.bool_)
        for place in places(b"\0".join(tokens).decode(errors="replace")):
            self.joined[place] = True

    def cut(self, text: str) -> list[str]:
        """Parts of a text, in order; none is empty."""
        if not text:
            return []
        one, other = places(text)
        split_points = np.flatnonzero(~(self.joined[one] & self.joined[other])) + 1
        return [text[a:b] for a, b in itertools.pairwise([0, *split_points.tolist(), len(text)])]


def places(text: str) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The two places in the filter of each pair of neighbors: (n - 1) each, of a text of n characters."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)  # (n)
    mixed = codes[:-1] * FACTORS[0] ^ codes[1:] * FACTORS[1]
    return mixed >> HIGH, mixed & LOW


def cached_by_piece(tokenize: Callable[[bytes], list[int]]) -> BoundedCache:
    """Part of a text -> ids, by a tokenizer of bytes."""
    return BoundedCache(functools.partial(ids_of, tokenize), KEPT_LENGTH)


def ids_of(tokenize: Callable[[bytes], list[int]], part: str) -> Ids:
    """Ids of a part."""
    return tuple(tokenize(part.encode()))


def sizes(tokens: Iterable[bytes]) -> dict[int, tuple[int, ...]]:
    """First byte -> the sizes of tokens with that first byte, in bytes, the longest first."""
    found: dict[int, list[int]] = {}
    for first, size in sorted({(token[0], len(token)) for token in tokens if token}, reverse=True):
        found.setdefault(first, []).append(size)
    return {first: tuple(each) for first, each in found.items()}
