"""`Recurring`: what is kept of computations that come again, and of which ones.

Both caches of captured graphs stand on it (fast/graph.py, cuda/graph.py). Most lengths of a mixture of texts come once,
so a computation is kept from the second time on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Generic, TypeVar

MAX_KEPT = 64
MAX_SEEN = 1024  # keys that are remembered as seen once; and how many lookups a kept one may lie unused

T = TypeVar("T")


class Recurring(Generic[T]):
    """Values by key, the least recently used first. Not for several threads at a time."""

    def __init__(self) -> None:
        self.known: OrderedDict[Any, T] = OrderedDict()
        self.seen: OrderedDict[Any, None] = OrderedDict()  # keys that came once
        self.used: dict[Any, int] = {}  # when each known one was used last, as `lookups` counts
        self.lookups = 0

    def find(self, key: Any) -> T | None:
        """What is known under a key, from now on the most recently used; None where nothing is."""
        self.lookups += 1
        if key not in self.known:
            return None
        self.known.move_to_end(key)
        self.used[key] = self.lookups
        return self.known[key]

    def worth_keeping(self, key: Any) -> bool:
        """Whether an unknown key comes for the second time, and there is room for it; else it counts as seen."""
        if key in self.seen and self.has_room():
            del self.seen[key]
            return True
        self.seen[key] = None
        if len(self.seen) > MAX_SEEN:
            self.seen.popitem(last=False)
        return False

    def has_room(self) -> bool:
        """Whether few are known, or one that has not been used for long: more kinds of batches than there is room for
        would else drive each other out before they come again.
        """
        return len(self.known) < MAX_KEPT or self.lookups - self.used[next(iter(self.known))] > MAX_SEEN

    def keep(self, key: Any, value: T) -> None:
        """Keep a value, in the place of the least recently used one where there are too many."""
        self.known[key] = value
        self.used[key] = self.lookups
        if len(self.known) > MAX_KEPT:
            del self.used[self.known.popitem(last=False)[0]]
