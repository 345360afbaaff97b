"""Quantized weights in panels of codes, and activations as codes: what `fast` and `int8` multiply (exact/integer.py).

Codes of activations are an array of float32 like any other activation, so that they live in the same buffers and are
part of captured graphs; the kernels read its bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from refembed.arrays import F32, I32
from refembed.gguf import Tensor
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.llvm import gemm, integer
from refembed.kernels.llvm.integer_tile import ROWS, P, words_of
from refembed.kernels.quant.codes import BLOCK, HALVES, MINIMA, scales_of
from refembed.kernels.quant.row_blocks import Store, row_blocks
from refembed.kernels.threads import parallel_map, renew_after_fork

NO_MINIMA = np.empty((0, 0), np.float32)
DECODED = 1 << 18  # numbers that are decoded at a time, to be packed while they are in the cache
MACS = 64  # words of a panel that a row meets in the time of an element, as `parallel_for` counts them


def kind_of(w: Tensor) -> tuple[int, int]:
    """Whether each 16 weights have a scale of their own; whether they have minima. As the kernels take it: 0 or 1."""
    return int(w.type.name in HALVES), int(w.type.name in MINIMA)


class IntegerProducts:
    """Products with the quantized matrices of a model, which are kept in panels while the memory budget lasts.

    bits   of an activation's code: 8 or 16
    empty  makes the arrays of activations
    """

    def __init__(self, bits: int, store: Store, empty: Callable[[tuple[int, ...]], F32]) -> None:
        self.bits, self.store, self.empty = bits, store, empty
        self.kernels = integer.KERNELS[bits]
        self.kept: dict[str, I32] = {}
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, whose parent may have been packing (`threads.renew_after_fork`)."""
        self.packing = threading.Lock()  # texts may run side by side

    def codes(self, x: F32) -> F32:
        """Activations (T, C) as codes and scales: (T, C/32 words)."""
        x = np.ascontiguousarray(x)
        out = self.empty((len(x), x.shape[1] // BLOCK * words_of(self.bits)))
        spinning_pool.parallel_for(self.kernels.quantize, x, out, rows=len(x), size=x.size)
        return out

    def multiply(self, codes: F32, w: Tensor, bias: F32) -> F32:
        """x Wᵀ + bias (T, N), for the codes of x."""
        out, kind = self.empty((len(codes), w.shape[0])), kind_of(w)
        for first, panels in self.panels(w):
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

    def panels(self, w: Tensor) -> Iterator[tuple[int, I32]]:
        """The first of W's rows and panels from there on: all where they are kept; else some, valid until the next."""
        n, k = w.shape
        if (whole := self.all_panels(w)) is not None:
            yield 0, whole
            return
        if spinning_pool.own.graph is not None:  # what it would read will soon be overwritten
            spinning_pool.own.graph.invalidate()
        for begin, end in row_blocks(n, k):
            shape = self.shape(end - begin, w)
            some: Any = self.store.workspace("codes", int(np.prod(shape)), np.int32).reshape(shape)
            self.pack(w, begin, some)
            yield begin, some

    def all_panels(self, w: Tensor) -> I32 | None:
        """W in panels, kept; None where there is no room."""
        if (kept := self.kept.get(w.name)) is not None:
            return kept
        with self.packing:
            whole = self.kept.get(w.name)
            shape = self.shape(w.shape[0], w)
            if whole is None and self.store.reserve(4 * int(np.prod(shape))):
                whole = gemm.aligned(shape, np.int32)
                self.pack(w, 0, whole)
                self.kept[w.name] = whole
        return whole

    def shape(self, n: int, w: Tensor) -> tuple[int, int, int]:
        """Of the panels of n rows of W."""
        halves, minima = kind_of(w)
        height = integer.height_of(1 + halves, bool(minima))
        return -(-n // P), w.shape[1] // BLOCK * height, P

    def pack(self, w: Tensor, first: int, panels: I32) -> None:
        """Rows of W from `first` on into panels, decoded a few at a time, by all cores."""
        n, step = w.shape[0], max(DECODED // (w.shape[1] * P), 1)

        def some(begin: int) -> None:
            end = min(begin + step, len(panels))
            top, bottom = first + begin * P, min(first + end * P, n)
            s, m = scales_of(w, top, bottom)
            rows: Any = self.store.decode(w, top, bottom)
            integer.pack_codes(rows, s, NO_MINIMA if m is None else m, panels, begin, end)

        parallel_map([partial(some, begin) for begin in range(0, len(panels), step)])
