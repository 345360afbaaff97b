"""Matrices in panels of bfloat16 pairs, and activations as pairs: what `bf16` multiplies (exact/bfloat16.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refembed.arrays import F32, I32
from refembed.gguf import Tensor
from refembed.kernels.fast.also_rounding import ALSO_ROUNDING
from refembed.kernels.fast.panels import Panels
from refembed.kernels.fast.rounding import RoundedProducts
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.llvm import bfloat16
from refembed.kernels.llvm.bfloat16_tile import ROWS, P
from refembed.kernels.quant.row_blocks import Store

PAIRS = 32  # pairs of a panel that a row meets in the time of an element, as `parallel_for` counts them


class BFloat16Products(RoundedProducts):
    """Products with matrices of any type, rounded to bfloat16 and kept in panels while the memory budget lasts.

    empty  makes the arrays of activations
    """

    def __init__(self, store: Store, empty: Callable[[tuple[int, ...]], F32]) -> None:
        super().__init__(store, empty)
        self.round, self.also_rounding = bfloat16.round_pairs, ALSO_ROUNDING[0]
        self.panels = Panels(store, np.int32, self.shape, self.pack)

    def takes(self, w: Tensor) -> bool:
        """All of them."""
        return True

    def words(self, channels: int) -> int:
        """Pairs."""
        return (channels + 1) // 2

    def multiply(self, codes: F32, w: Tensor, bias: F32) -> F32:
        """x Wᵀ + bias (T, N), for the pairs of x."""
        self.used = True
        out = self.empty((len(codes), w.shape[0]))
        for first, panels in self.panels.parts(w):
            by_rows = len(codes) >= bfloat16.HIGH
            rows, grain = (len(codes), ROWS) if by_rows else (len(panels), 1)
            spinning_pool.parallel_for(
                bfloat16.product_bf16, codes, panels, bias, out, first, int(by_rows),
                rows=rows, size=len(codes) * panels.size // PAIRS, grain=grain,
            )  # fmt: skip
        return out

    def shape(self, n: int, w: Tensor) -> tuple[int, int, int]:
        """Of the panels of n rows of W."""
        return -(-n // P), (w.shape[1] + 1) // 2, P

    def pack(self, w: Tensor, top: int, bottom: int, panels: I32, begin: int, end: int) -> None:
        """Rows top:bottom of W into panels begin:end."""
        rows: Any = self.store.rows(w, top, bottom)
        bfloat16.pack_pairs(rows, panels, begin, end)
