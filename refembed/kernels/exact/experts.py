"""Mixture of experts: every token through a few matrices of many (Shazeer et al. 2017).

Mirrors ggml_mul_mat_id. Which experts a token takes, and what each weighs, is the architecture's business.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor


def experts(x: Float, w: Tensor, chosen: I64, product: Callable[[Float, Tensor], Float]) -> Float:
    """Multiply each token by the matrices of its experts.

    x        (T, C), one row for all its experts; or (T, k, C), one for each
    w        (X, N, C)
    chosen   (T, k)   numbers of experts, 0 to X - 1
    product  x (n, C), W (N, C) -> x Wᵀ (n, N), each row by itself
    returns  (T, k, N)

    Two experts of one row each, (1, 1) and (10, 0); the token (1, 2) takes the second, then the first:

    >>> from refembed.gguf import BY_NAME
    >>> raw = np.array([1, 1, 10, 0], np.float32).view(np.uint8)
    >>> w = Tensor("blk.0.ffn_up_exps.weight", (2, 1, 2), BY_NAME["F32"], raw, 0, "<")
    >>> experts(np.array([[1.0, 2.0]]), w, np.array([[1, 0]]), lambda x, w_e: x @ w_e.dequantize().T)
    array([[[10.],
            [ 3.]]])
    """
    T, k = chosen.shape
    rows = np.broadcast_to(x[:, None] if x.ndim == 2 else x, (T, k, x.shape[-1]))
    out = np.empty((T, k, w.shape[1]), x.dtype)
    for e in np.unique(chosen):
        t, rank = np.nonzero(chosen == e)
        out[t, rank] = product(rows[t, rank], w.entry(int(e)))
    return out
