"""Weights as products read them: as they lie in the mapped file, decoded and kept, or decoded a panel at a time.

A panel is some rows of W, few enough that its numbers fit into WORKSPACE. Matrices are decoded once and kept while
that costs less than the memory budget; from then on each product decodes panel after panel into the same workspace.
Decoding is quick (4 to 12 weights a nanosecond on two cores), so that with 100 tokens or more it is hardly felt.
Unless the caller names a budget it is a quarter of the machine's memory; "mapped" is 0, nothing kept.
A product is cut into the same panels whatever is kept: the budget changes no bits.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from refembed.arrays import Float, aligned
from refembed.errors import RequestError
from refembed.gguf import Tensor
from refembed.kernels.quant.dequant import dequantize
from refembed.kernels.threads import renew_after_fork

MAPPED = "mapped"
CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may take: bytes, or "max"
WORKSPACE = 1 << 22  # numbers in a panel
# at most so many rows in a panel, and a multiple of this: of any `products.panel`
MAX_BLOCK_ROWS, BLOCK_ROW_STEP = 2016, 96
NATIVE = "<" if sys.byteorder == "little" else ">"


@cache
def row_blocks(n: int, k: int) -> tuple[tuple[int, int], ...]:
    """begin, end of the panels of W (n, k)."""
    rows = max(min(MAX_BLOCK_ROWS, WORKSPACE // max(k, 1)) // BLOCK_ROW_STEP * BLOCK_ROW_STEP, BLOCK_ROW_STEP)
    return tuple((begin, min(begin + rows, n)) for begin in range(0, n, rows))


@cache
def comfortable() -> int:
    """A quarter of the memory that this process may use, in bytes; 256 MiB where the system does not say."""
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):  # no sysconf on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ValueError, OSError):  # no such file, or no number in it
        limits.append(int(CGROUP.read_text()))
    return min(limits, default=1 << 30) // 4


def in_bytes(budget: int | str | None) -> int:
    """A memory budget: bytes, "mapped" or None. RequestError for any other."""
    if budget is None:
        return comfortable()
    if budget == MAPPED:
        return 0
    if isinstance(budget, str) or budget < 0:
        raise RequestError(f"memory budget {budget!r}: a number of bytes, or {MAPPED!r}")
    return budget


class Budget:
    """Bytes that what is made of tensors may take. What a tensor has taken is given back when the tensor is gone."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.taken: WeakKeyDictionary[Tensor, int] = WeakKeyDictionary()
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, whose parent may have been reserving (`threads.renew_after_fork`)."""
        self.lock = threading.Lock()

    @property
    def room(self) -> int:
        """Bytes that are left."""
        return self.nbytes - sum(self.taken.values())

    def reserve(self, w: Tensor, nbytes: int) -> bool:
        """Take so many bytes for what is made of w, if there are as many. Below 0: give them back."""
        with self.lock:
            if nbytes > self.room:
                return False
            self.taken[w] = self.taken.get(w, 0) + nbytes
            return True


class Store:
    """Weights in one dtype.

    budget  bytes of decoded matrices to keep, or "mapped"; None: `comfortable`. Norms, biases and other small tensors
            are kept anyway
    Raises RequestError for any other budget.
    """

    def __init__(self, dtype: type[np.floating[Any]], budget: int | str | None = None) -> None:
        self.dtype = dtype
        self.budget = Budget(in_bytes(budget))
        self.kept: WeakKeyDictionary[Tensor, Float] = WeakKeyDictionary()  # whole tensors, as long as theirs are in use
        self.own = threading.local()  # workspaces: each thread has its own

    def whole(self, w: Tensor) -> Float:
        """A small tensor, decoded once and kept."""
        if w not in self.kept:
            x = aligned(w.shape, self.dtype)
            x[...] = w.dequantize()
            self.kept[w] = x  # writable: one compiled kernel serves all
        return self.kept[w]

    def reserve(self, w: Tensor, nbytes: int) -> bool:
        """Take so many bytes out of the budget for as long as w is in use, if it has them (`Budget.reserve`)."""
        return self.budget.reserve(w, nbytes)

    def mapped(self, w: Tensor) -> bool:
        """Whether the file holds the very numbers."""
        return w.type.name == "F32" and w.byteorder == NATIVE and self.dtype is np.float32

    def matrix(self, w: Tensor, *, keep: bool = True) -> Float | None:
        """W (N, C) where it is in memory whole: mapped, or kept, as it is from now on if there is room."""
        if w not in self.kept:
            size = math.prod(w.shape) * np.dtype(self.dtype).itemsize
            if not self.mapped(w) and not (keep and self.reserve(w, size)):
                return None
            self.kept[w] = w.dequantize().astype(self.dtype, copy=False)
        return self.kept[w]

    def panels(self, w: Tensor, *, keep: bool = True) -> Iterator[tuple[int, int, Float]]:
        """begin, end and rows begin:end of W (N, C), one panel after the other; each is valid until the next."""
        whole, (n, k) = self.matrix(w, keep=keep), w.shape
        for begin, end in row_blocks(n, k):
            yield begin, end, self.decode(w, begin, end) if whole is None else whole[begin:end]

    def rows(self, w: Tensor, begin: int, end: int) -> Float:
        """Rows begin:end of W (N, C), mapped or decoded; valid until the next."""
        whole = self.matrix(w, keep=False)
        return self.decode(w, begin, end) if whole is None else whole[begin:end]

    def decode(self, w: Tensor, begin: int, end: int) -> Float:
        """Rows begin:end of W, decoded into the workspace."""
        n, k = w.shape
        step, size = w.nbytes // n, (end - begin) * k
        out = self.workspace("decoded", size, np.float32)
        x = dequantize(w.raw[begin * step : end * step], w.type, w.byteorder, out=out)
        if self.dtype is not np.float32:
            wide = self.workspace("wide", size, self.dtype)
            wide[:] = x
            x = wide
        return x.reshape(end - begin, k)

    def workspace(self, name: str, size: int, dtype: Any) -> Float:
        """An array (size) that is used again and again."""
        if len(getattr(self.own, name, ())) < size:
            setattr(self.own, name, np.empty(size, dtype))
        array: Float = getattr(self.own, name)[:size]
        return array
