"""Ids of words and other short parts of texts, cached: they come again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Ids: TypeAlias = "tuple[int, ...]"

MAX_PIECES_KEPT = 1 << 16  # parts cached at most, so that no text makes memory grow for good
KEPT_LENGTH = 32  # characters: longer words hardly come twice


class BoundedCache(dict[str, Ids]):
    """Part of a text -> ids: filled as they occur, started anew when full.

    find    the ids of a part that is not cached
    length  characters; longer parts are found each time
    """

    def __init__(self, find: Callable[[str], Ids], length: int = KEPT_LENGTH) -> None:
        super().__init__()
        self.find, self.length = find, length

    def __missing__(self, part: str) -> Ids:
        ids = self.find(part)
        if len(part) <= self.length:
            if len(self) >= MAX_PIECES_KEPT:
                self.clear()
            self[part] = ids
        return ids
