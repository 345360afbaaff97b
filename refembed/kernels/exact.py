"""The `exact` numerics: textbook formulas in float64 from dequantised weights. The number the formulas mean.

What is left of rounding is about 1e-15 relative per operation; every other numerics is measured against this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refembed.arrays import F64, I64, Float
from refembed.gguf import Tensor
from refembed.kernels import activations, attention, norms
from refembed.kernels.matmul import matmul, rows_stand_alone
from refembed.kernels.ops import NOBODY, See


class Exact:
    """`Ops` in float64. Weights are decoded once and kept, in 8 bytes each."""

    name = "exact"
    dtype: type[np.floating[Any]] = np.float64

    def __init__(self) -> None:
        self.decoded: dict[str, F64] = {}

    def weight(self, w: Tensor) -> F64:
        """The decoded tensor, kept for the next call."""
        if w.name not in self.decoded:
            self.decoded[w.name] = w.dequantize().astype(np.float64)
        return self.decoded[w.name]

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, decoded alone."""
        return w.rows(np.asarray(ids, np.int64)).astype(np.float64)

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, see: See = NOBODY, product: str = "") -> Float:
        """y = x Wᵀ + b."""
        weight = self.weight(w)  # (N, C)
        if rows_stand_alone(*weight.shape, np.float64):
            y = matmul(x, weight)  # (T, N)
        else:
            from refembed.kernels import jit

            y = jit.matmul(x, weight)
        return y if b is None else see(product, y) + self.weight(b)

    def layer_norm(self, x: Float, w: Tensor, b: Tensor | None, eps: float, see: See = NOBODY) -> Float:
        """y = (x - E[x]) / sqrt(Var[x] + eps) w + b."""
        y = see("norm", norms.layer_norm(x, eps)) * self.weight(w)
        return y if b is None else see("norm_w", y) + self.weight(b)

    def gelu(self, x: Float) -> Float:
        """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        return activations.gelu(x)

    def attention(
        self, q: Float, k: Float, v: Float, n_head: int, offsets: I64, scale: float, see: See = NOBODY
    ) -> Float:
        """y = softmax(scale q kᵀ) v, each sequence and head on its own."""
        return attention.attention(q, k, v, n_head, offsets, scale, see)
