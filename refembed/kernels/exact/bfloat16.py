"""Products of numbers rounded to bfloat16, added in float32: what `bf16` computes.

    y[t, n] = sum over pairs of channels:  (y + x[t, 2k+1] w[n, 2k+1]) + x[t, 2k] w[n, 2k]

A bfloat16 has 8 bits of mantissa, so a product has 16 and is exact; each of the two sums is rounded to float32. That is
what the instruction VDPBF16PS does. It also takes numbers below 2^-126 for 0; so that no product or sum ever
comes near them, numbers below LEAST become 0 when they are rounded. A number of y then depends on its row of x and its
row of w alone, to the bit, with the instruction or without. llvm/bfloat16.py computes this; here it is written down.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import F32
from refembed.kernels.exact.integer import fused

LEAST = np.float32(2.0**-55)  # products of larger ones are multiples of 2^-124, and so are all their sums


def nearest_bfloat16(x: F32) -> F32:
    """Numbers with 8 bits of mantissa, the nearest, halves to even; as float32. NaN is NaN.

    >>> nearest_bfloat16(np.array([1 + 2**-8, 3e-38], np.float32)).tolist()[0]  # between 1 and 1 + 2/2^8: to even
    1.0
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32))


def round_bfloat16(x: F32) -> F32:
    """Numbers rounded to bfloat16 (`nearest_bfloat16`); below LEAST they are 0.

    >>> round_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8, 1e-30], np.float32))  # 1 and 1 + 4/2^8, halves to even; 0
    array([1.      , 1.015625, 0.      ], dtype=float32)
    """
    y = nearest_bfloat16(x)
    return np.where(np.abs(y) < LEAST, np.float32(0), y)


def multiply_bfloat16(x: F32, w: F32, bias: F32 | None = None) -> F32:
    """x Wᵀ + bias for numbers rounded by `round_bfloat16`.

    x        (T, C)
    w        (N, C)
    bias     (N), added at last; or None
    returns  (T, N) float32

    >>> multiply_bfloat16(np.array([[1, 2, 3]], np.float32), np.array([[1, 1, 1], [0, 0, 5]], np.float32))
    array([[ 6., 15.]], dtype=float32)
    """
    C = x.shape[1]
    y = np.zeros((len(x), len(w)), np.float32)
    with np.errstate(all="ignore"):
        for k in range(0, C, 2):
            for c in (k + 1, k) if k + 1 < C else (k,):
                y = fused(x[:, c, None], w[None, :, c], y)
        return y if bias is None else y + bias
