"""Matrices as few rows of x read them: F16 or codes as the file has them, a half or a quarter of what float32 takes.

Few rows are done before W has come from memory, so they take as long as its bytes do. Each weight becomes the float32
that it stands for as it is multiplied, so the bits are those of panels of float32.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from refembed.arrays import F32, aligned
from refembed.gguf import Tensor
from refembed.kernels.fast.panels import DECODED
from refembed.kernels.llvm import gemm
from refembed.kernels.llvm.microkernel import CONVERTS_F16, Q8_BLOCK
from refembed.kernels.quant.row_blocks import NATIVE, Store
from refembed.kernels.threads import renew_after_fork


class CompactWeights:
    """Panels of F16, or of codes and scales, kept while the memory budget of `store` lasts."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kept: WeakKeyDictionary[Tensor, tuple[Any, ...] | None] = WeakKeyDictionary()
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, whose parent may have been packing (`threads.renew_after_fork`)."""
        self.packing = threading.Lock()

    def of(self, w: Tensor) -> tuple[Any, ...] | None:
        """A product and W as it reads it, kept. None where its type is not of that kind, or there is no room."""
        (n, k), P = w.shape, gemm.panel(4)
        with self.packing:
            if w not in self.kept:
                make = self.halves if w.type.name == "F16" else self.codes
                self.kept[w] = make(w, -(-n // P), k, P)
            return self.kept[w]

    def halves(self, w: Tensor, count: int, k: int, P: int) -> tuple[Any, ...] | None:
        """F16 as it is: panels (n/P, C, P) of int16."""
        if not CONVERTS_F16 or w.byteorder != NATIVE or not self.store.reserve(w, 2 * count * k * P):
            return None
        halves = aligned((count, k, P), np.int16)
        gemm.pack_rows(np.frombuffer(w.raw, np.int16).reshape(w.shape), halves, 0, count)
        return gemm.by_f16, halves

    def codes(self, w: Tensor, count: int, k: int, P: int) -> tuple[Any, ...] | None:
        """Codes (n/P, C, P) and scales (n/P, C/CODED, P) of types where a weight is code x scale."""
        names, nbytes = w.type.block.names or (), count * k * P * 9 // 8
        if w.type.weights != Q8_BLOCK or "d" not in names or w.type.block["d"].shape:
            return None
        if not self.store.reserve(w, nbytes):
            return None
        codes, scales = aligned((count, k, P), np.int8), aligned((count, k // Q8_BLOCK, P), np.float32)
        if self.pack(w, codes, scales):
            return gemm.by_q8, codes, scales
        self.store.reserve(w, -nbytes)
        return None

    def pack(self, w: Tensor, codes: Any, scales: F32) -> bool:
        """Fill both; False if the weights are not code x scale."""
        n, P, step = w.shape[0], codes.shape[2], max(DECODED // (w.shape[1] * codes.shape[2]), 1)
        d = w.raw.view(w.type.block.newbyteorder(w.byteorder))["d"].reshape(n, -1).astype(np.float32)
        for begin in range(0, len(codes), step):
            top, bottom = begin * P, min((begin + step) * P, n)
            rows = self.store.decode(w, top, bottom)
            if not gemm.pack_q8(rows, d[top:bottom], codes, scales, begin, min(begin + step, len(codes))):
                return False
        return True
