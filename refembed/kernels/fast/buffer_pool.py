"""Arrays that are used again: a fresh one of megabytes costs more than what a kernel does with it.

The system gives out memory a page at a time, zeroed, when it is first touched; for the hidden states of 512 tokens that
takes a third of the time of a GELU, and the pages are cold. So arrays come from blocks that are kept. A block is free
as soon as nothing refers to an array in it: Python counts.

A block begins with a page. NumPy's own begin 16 bytes behind one, so that each vector of 64 bytes lay in two cache
lines.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from typing import Any

import numpy as np

from refembed.arrays import F32

SMALLEST, MOST = 1 << 14, 1 << 24  # numbers: below, malloc is as quick; above (64 MiB in all), nothing is kept


def counts(blocks: list[F32]) -> list[int]:
    """How many refer to each block, as this Python counts: the list, the loop, from 3.14 on not the call itself."""
    return [sys.getrefcount(block) for block in blocks]


FREE = counts([np.empty(1, np.float32)])[0]  # of a block that is not in use


# a fork must not write into its parent's; Windows has neither forks nor these names
PRIVATE: dict[str, Any] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # type: ignore[attr-defined, unused-ignore]
)


def block_of(size: int) -> F32:
    """A block of so many numbers."""
    return np.frombuffer(mmap.mmap(-1, max(4 * size, 1), **PRIVATE), np.float32, size)


class Scratch(threading.local):
    """Each thread's blocks."""

    def __init__(self) -> None:
        self.blocks: list[F32] = []

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it, as np.empty gives."""
        size = math.prod(shape)
        if not SMALLEST <= size <= MOST:
            return np.empty(shape, np.float32)
        for block, count in zip(self.blocks, counts(self.blocks), strict=True):
            if size <= len(block) <= 2 * size and count == FREE:
                return block[:size].reshape(shape)
        block = block_of(size)
        self.keep(block)
        return block.reshape(shape)

    def keep(self, block: Any) -> None:
        """Add a block; if that is too much, without those that are free."""
        if sum(map(len, self.blocks)) + len(block) > MOST:
            self.blocks = [b for b, count in zip(self.blocks, counts(self.blocks), strict=True) if count > FREE]
        if sum(map(len, self.blocks)) + len(block) <= MOST:
            self.blocks.append(block)
