"""Quantized weights in panels of codes, and activations as codes: what `fast` and `int8` multiply (exact/integer.py).

Codes of activations are an array of float32 like any other activation, so that they live in the same buffers and are
part of captured graphs; the kernels read its bits.
"""

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
from refembed.kernels.llvm import integer
from refembed.kernels.llvm.integer_tile import ROWS, P, words_of
from refembed.kernels.quant.codes import BLOCK, HALVES, MINIMA, has_codes, scales_of
from refembed.kernels.quant.row_blocks import Store

NO_MINIMA = np.empty((0, 0), np.float32)
MACS = 64  # words of a panel that a row meets in the time of an element, as `parallel_for` counts them


def kind_of(w: Tensor) -> tuple[int, int]:
    """Whether each 16 weights have a scale of their own; whether they have minima. As the kernels take it: 0 or 1."""
    return int(w.type.name in HALVES), int(w.type.name in MINIMA)


class IntegerProducts(RoundedProducts):
    """Products with the quantized matrices of a model, which are kept in panels while the memory budget lasts.

    bits   of an activation's code: 8 or 16
    empty  makes the arrays of activations
    """

    def __init__(self, bits: int, store: Store, empty: Callable[[tuple[int, ...]], F32]) -> None:
        super().__init__(store, empty)
        self.bits, self.kernels = bits, integer.KERNELS[bits]
        self.round, self.also_rounding = self.kernels.quantize, ALSO_ROUNDING[bits]
        self.panels = Panels(store, np.int32, self.shape, self.pack)

    def takes(self, w: Tensor) -> bool:
        """Whether W is quantized."""
        return has_codes(w)

    def words(self, channels: int) -> int:
        """Codes and scales."""
        return channels // BLOCK * words_of(self.bits) if channels % BLOCK == 0 else 0

    def multiply(self, codes: F32, w: Tensor, bias: F32) -> F32:
        """x Wᵀ + bias (T, N), for the codes of x."""
        self.used = True
        out, kind = self.empty((len(codes), w.shape[0])), kind_of(w)
        for first, panels in self.panels.parts(w):
            by_rows = len(codes) >= integer.HIGH
            rows, grain = (len(codes), ROWS) if by_rows else (len(panels), 1)
            size = len(codes) * panels.size * self.bits // (8 * MACS)
            spinning_pool.parallel_for(
                self.kernels.product,
                codes,
                panels,
                *kind,
                bias,
                out,
                first,
                int(by_rows),
                rows=rows,
                size=size,
                grain=grain,
            )
        return out

    def shape(self, n: int, w: Tensor) -> tuple[int, int, int]:
        """Of the panels of n rows of W."""
        halves, minima = kind_of(w)
        height = integer.height_of(1 + halves, bool(minima))
        return -(-n // P), w.shape[1] // BLOCK * height, P

    def pack(self, w: Tensor, top: int, bottom: int, panels: I32, begin: int, end: int) -> None:
        """Rows top:bottom of W into panels begin:end."""
        s, m = scales_of(w, top, bottom)
        rows: Any = self.store.decode(w, top, bottom)
        integer.pack_codes(rows, s, NO_MINIMA if m is None else m, panels, begin, end)
