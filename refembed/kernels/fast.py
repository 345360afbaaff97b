"""The `fast` numerics: float32, BLAS for matrices, fused Numba for the rest.

Weights that are float32 in the file are used where they lie, mapped; others are decoded once and kept. Every kernel
works row by row (attention: sequence by sequence), so the cores can share the rows without changing a bit.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.gguf import Tensor
from refembed.kernels import jit
from refembed.kernels.attention import heads
from refembed.kernels.matmul import matmul, rows_stand_alone
from refembed.kernels.ops import NOBODY, See

WORTH_SHARING = 1 << 18  # elements; below this a second core costs more to wake than it saves


@cache
def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def workers() -> ThreadPoolExecutor:
    """One thread a core, made when first needed. Kernels release the GIL."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="refembed")


def share(kernel: Callable[..., Any], *arguments: Any, rows: int, size: int) -> None:
    """Run kernel(*arguments, begin, end) over rows 0:rows, in as many parts as there are cores where it is worth it."""
    parts = min(cores(), rows) if size >= WORTH_SHARING else 1
    if parts == 1:
        kernel(*arguments, 0, rows)
        return
    edges = [rows * i // parts for i in range(parts + 1)]
    jobs = [workers().submit(kernel, *arguments, a, b) for a, b in itertools.pairwise(edges)]
    for job in jobs:
        job.result()


class Fast:
    """`Ops` in float32."""

    name = "fast"
    dtype: type[np.floating[Any]] = np.float32

    def __init__(self, *, batch_invariant: bool = True) -> None:
        self.batch_invariant = batch_invariant
        self.decoded: dict[str, F32] = {}
        self.packed: dict[str, Float] = {}

    def weight(self, w: Tensor) -> F32:
        """The tensor in float32: the mapped bytes themselves where they are float32, else decoded once and kept."""
        if w.name not in self.decoded:
            x = w.dequantize()
            self.decoded[w.name] = x.copy() if x.ndim == 1 else x  # small ones writable: one compiled kernel serves all
        return self.decoded[w.name]

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, decoded alone."""
        return w.rows(np.asarray(ids, np.int64))

    def product(self, x: Float, w: Tensor) -> Float:
        """x Wᵀ (T, N), with rows that stand alone unless the caller gave that up."""
        weight = self.weight(w)  # (N, C)
        if not self.batch_invariant:
            return x @ weight.T
        if rows_stand_alone(*weight.shape, np.float32):
            return matmul(x, weight)
        return self.in_order(x, w, weight)

    def in_order(self, x: Float, w: Tensor, weight: F32) -> Float:
        """x Wᵀ by the kernel of our own, where BLAS mixes rows: each element summed in order of k."""
        if w.name not in self.packed:
            self.packed[w.name] = jit.pack(weight)
        panels = self.packed[w.name]
        rows = np.zeros((-(-len(x) // 4) * 4, panels.shape[1]), np.float32)
        rows[: len(x), : x.shape[1]] = x
        out = np.empty((len(rows), len(panels) * jit.PANEL), np.float32)

        def fours(begin: int, end: int) -> None:
            jit.matmul_rows(rows, panels, out, 4 * begin, 4 * end)

        share(fours, rows=len(rows) // 4, size=out.size)
        return out[: len(x), : len(weight)]

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, see: See = NOBODY, product: str = "") -> Float:
        """y = x Wᵀ + b."""
        y = self.product(x, w)
        if b is None:
            return y
        if see.listening:
            return see(product, y) + self.weight(b)
        y += self.weight(b)
        return y

    def layer_norm(self, x: Float, w: Tensor, b: Tensor | None, eps: float, see: See = NOBODY) -> Float:
        """y = (x - E[x]) / sqrt(Var[x] + eps) w + b, in one pass where nobody looks."""
        weight, out = self.weight(w), np.empty_like(x)
        zeros = np.zeros_like(weight)
        bias = zeros if b is None else self.weight(b)
        if not see.listening:
            share(jit.layer_norm, x, weight, bias, eps, out, rows=len(x), size=x.size)
            return out
        share(jit.layer_norm, x, np.ones_like(weight), zeros, eps, out, rows=len(x), size=x.size)
        y = see("norm", out) * weight
        return y if b is None else see("norm_w", y) + bias

    def gelu(self, x: Float) -> Float:
        """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        out = np.empty_like(x)
        share(jit.gelu, x, out, rows=len(x), size=x.size)
        return out

    def attention(
        self, q: Float, k: Float, v: Float, n_head: int, offsets: I64, scale: float, see: See = NOBODY
    ) -> Float:
        """y = softmax(scale q kᵀ) v, each sequence and head on its own."""
        out, factor = np.empty_like(q), np.float32(scale)
        if not see.listening:
            longest = int(np.diff(offsets).max())
            share(
                jit.attention, q, k, v, n_head, offsets, factor, out, rows=len(offsets) - 1, size=longest * q.size // 8
            )
            return out
        for begin, end in itertools.pairwise(offsets):
            qh, kh, vh = (heads(x[begin:end], n_head) for x in (q, k, v))
            self.seen(qh, kh, vh, factor, out[begin:end], see)
        return out

    def seen(self, q: Float, k: Float, v: Float, scale: np.float32, out: Float, see: See) -> None:
        """Attention of one sequence with its inner tensors shown: the same arithmetic, one step at a time."""
        H, n, D = q.shape
        kt = np.ascontiguousarray(k.transpose(0, 2, 1))  # (H, D, n)
        v = np.ascontiguousarray(see("v_cont", v.transpose(0, 2, 1)).transpose(0, 2, 1))  # (H, n, D)
        kq = np.empty((H, n, n), q.dtype)
        for h in range(H):
            jit.scores_of(q[h], kt[h], kq[h])
        p = see("kq", kq).copy()
        for h in range(H):
            jit.softmax_of(p[h], scale)
        p = see("kq_soft_max", p)
        kqv = np.empty((H, n, D), q.dtype)
        for h in range(H):
            jit.mix_of(p[h], v[h], kqv[h])
        out[:] = see("kqv", kqv).transpose(1, 0, 2).reshape(n, H * D)
