"""Products of whole numbers: quantized weights times activations that are rounded to codes of 8 or 16 bits.

    x[t, 32 b + i] ~ d[t, b] q[t, b, i]             d = max |x| / 127 of the block, or / 32512 for 16 bits
    w[n, 32 b + i] = s u + m, or s (u - 128)        s, m for each 16 or 32 weights, u a byte (quant/codes.py)

    y[t, n] = sum over groups g of 16 or 32:  d s (sum q u  or  sum q (u - 128))  +  m d sum q

The sums over a group are of whole numbers, so they are exact in any order. Groups are added in order, in float32, each
by one fused multiply-add, or two where there is a minimum; d s and d sum q are rounded before. So a number of y depends
on its row of x and its row of w alone, to the bit. `fast` and `int8` compute this in compiled kernels
(llvm/integer.py); here it is written down.

A code of 16 bits is stored as two bytes, 256 h + l with both from -128 to 127: hence 32512 = 127 x 256.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, I32, U8
from refembed.kernels.quant.codes import BLOCK, MIDDLE, Scales

LARGEST = {8: 127, 16: 32512}  # the largest code of so many bits
LEAST = np.float32(1e-33)  # a block whose numbers are all smaller has codes 0; LARGEST / LEAST is still a float32


def quantize_rows(x: F32, bits: int) -> tuple[I32, F32]:
    """Each 32 numbers of a row as a scale and codes.

        d = max |x| / LARGEST        q = x (LARGEST / max |x|), rounded to the nearest whole number, halves to even

    x        (T, C), C a multiple of 32
    bits     8 or 16
    returns  q (T, C) from -LARGEST to LARGEST; d (T, C/32) float32. A block with an infinity or NaN has d = NaN and
             codes 0, so all products of its row are NaN

    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = [254, -2, 1]
    >>> q, d = quantize_rows(x, 8)
    >>> q[0, :4], d  # d = 254/127; -2/2, 1/2 to the even neighbor
    (array([127,  -1,   0,   0], dtype=int32), array([[2.]], dtype=float32))
    """
    blocks = x.reshape(len(x), x.shape[1] // BLOCK, BLOCK)
    high, top = np.abs(blocks).max(axis=2), np.float32(LARGEST[bits])  # NaN where there is one
    with np.errstate(all="ignore"):
        usual = (high >= LEAST) & np.isfinite(high)
        inverse = np.divide(top, high, out=np.zeros_like(high), where=usual)
        q = np.rint(np.where(usual[:, :, None], blocks * inverse[:, :, None], np.float32(0)))
    d = np.where(np.isfinite(high), high / top, np.float32(np.nan))
    return q.astype(np.int32).reshape(x.shape), d


def multiply_codes(q: I32, d: F32, u: U8, scales: Scales, bias: F32 | None = None) -> F32:
    """The products of rows of codes with a matrix of codes.

    q, d     (T, C), (T, C/32), as `quantize_rows` gives them
    u        (N, C)
    scales   s, m (N, C/16) or (N, C/32); m may be None
    bias     (N), added at last; or None
    returns  (T, N) float32

    >>> q, d = np.ones((1, 32), np.int32), np.array([[0.5]], np.float32)
    >>> u = np.full((2, 32), 129, np.uint8)
    >>> multiply_codes(q, d, u, Scales(np.array([[1], [3]], np.float32)))  # 32 x (129 - 128) x 0.5, and three times it
    array([[16., 48.]], dtype=float32)
    """
    group = q.shape[1] // scales.s.shape[1]
    y = np.zeros((len(q), len(u)), np.float32)
    with np.errstate(all="ignore"):
        for g in range(scales.s.shape[1]):
            some = slice(g * group, (g + 1) * group)
            codes, weights, d_g = q[:, some].astype(np.int64), u[:, some].astype(np.int64), d[:, g * group // BLOCK]
            middle = MIDDLE if scales.m is None else 0
            y = fused(codes @ (weights - middle).T, d_g[:, None] * scales.s[None, :, g], y)
            if scales.m is not None:
                y = fused(d_g[:, None] * codes.sum(axis=1)[:, None].astype(np.float32), scales.m[None, :, g], y)
        return y if bias is None else y + bias


def fused(a: npt.NDArray[Any], b: F32, c: F32) -> F32:
    """a b + c in float32, rounded once; a is rounded to float32 before.

    In double a b is exact, and the sum is rounded to odd there: its last bit says whether anything was cut off, so that
    the second rounding, to float32, is the only one that counts (Boldo & Melquiond 2008).

    >>> a = np.array([1 + 2**-12], np.float32)
    >>> fused(a, a, np.array([-1], np.float32)) * 2**24  # a^2 = 1 + 2^-11 + 2^-24, one bit more than float32 has
    array([8193.], dtype=float32)
    """
    a64, b64, c64 = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b, c))
    product = a64 * b64
    total = product + c64
    seen = total - product
    error = (product - (total - seen)) + (c64 - seen)  # total + error is a b + c (Knuth's two-sum)
    bits = total.view(np.int64)
    outward = (error > 0) == (total > 0)  # whether the true sum is further from 0
    inexact = (error != 0) & np.isfinite(error) & (bits & 1 == 0)
    odd = np.where(inexact, bits + np.where(outward, 1, -1), bits)
    return odd.view(np.float64).astype(np.float32)
