"""Products with rounded activations, and norms and GELU that also leave their results rounded for them.

A row that has just been computed is in the first cache; rounded later, it has to be read once more.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.gguf import Tensor
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.quant.row_blocks import Store


class Latest(threading.local):
    """An activation of each thread that was rounded as it was computed."""

    array: F32 | None = None
    codes: F32 | None = None


class RoundedProducts(ABC):
    """Products with activations that are rounded once for all matrices they meet, and kept as an array of float32.

    empty  makes the arrays of activations
    """

    round: Callable[..., Any]  # a kernel (x, codes, begin, end)
    also_rounding: Mapping[Any, Any]  # a kernel (..., out, begin, end) -> the same (..., out, codes, begin, end)
    used = False  # whether a matrix has been multiplied: if not, nothing is rounded ahead

    def __init__(self, store: Store, empty: Callable[[tuple[int, ...]], F32]) -> None:
        self.store, self.empty, self.latest = store, empty, Latest()

    @abstractmethod
    def takes(self, w: Tensor) -> bool:
        """Whether W is multiplied this way."""

    @abstractmethod
    def words(self, channels: int) -> int:
        """Numbers of float32 that a rounded row takes; 0 where such rows are not rounded."""

    @abstractmethod
    def multiply(self, codes: F32, w: Tensor, bias: F32) -> F32:
        """x Wᵀ + bias (T, N)."""

    def codes(self, x: F32) -> F32:
        """x (T, C) rounded, as `multiply` reads it: (T, words)."""
        if x is self.latest.array and self.latest.codes is not None:
            return self.latest.codes
        x = np.ascontiguousarray(x)
        out = self.empty((len(x), self.words(x.shape[1])))
        spinning_pool.parallel_for(self.round, x, out, rows=len(x), size=x.size)
        return out

    def compute(self, kernel: Callable[..., Any], *arguments: Any, out: F32) -> None:
        """kernel(*arguments, out) for all rows of out (T, C); `codes` will find them rounded.

        So nothing may change out before it is rounded.
        """
        words = self.words(out.shape[1])
        if not self.used or not words:
            spinning_pool.parallel_for(kernel, *arguments, out, rows=len(out), size=out.size)
            return
        codes = self.empty((len(out), words))
        both = self.also_rounding[kernel]
        spinning_pool.parallel_for(both, *arguments, out, codes, rows=len(out), size=out.size)
        self.latest.array, self.latest.codes = out, codes
