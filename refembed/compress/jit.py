"""Numba versions of `plain`: each takes `out` and a range of rows, so that cores can share them."""

# mypy: disallow-untyped-decorators=False, disallow-untyped-defs=False, disallow-untyped-calls=False
# (as in refembed/kernels/llvm/jit.py: numba.njit has no types, and Numba infers those of kernels)

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from refembed.kernels.llvm.jit import njit


@intrinsic
def popcount(typing_context, word):
    """How many bits of a uint64 are ones: one instruction on most processors."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@njit()
def hamming(query, codes, out, begin, end):
    """Bits that differ: query (W), codes (N, W) uint64; rows begin:end of out (N) int32."""
    for n in range(begin, end):
        total = np.uint64(0)
        for w in range(len(query)):
            total += popcount(query[w] ^ codes[n, w])  # type: ignore[call-arg]  # Numba passes the typing context
        out[n] = total


@njit(fastmath={"reassoc", "contract", "nsz"})  # LLVM may add in lanes; a row's result depends on that row alone
def dot_codes(query, codes, out, begin, end):
    """sum_d query_d codes_nd: query (D) float32, codes (N, D) bytes; rows begin:end of out (N) float32."""
    for n in range(begin, end):
        total = np.float32(0)
        for d in range(len(query)):
            total += query[d] * np.float32(codes[n, d])
        out[n] = total


@njit()
def sum_table(table, codes, out, begin, end):
    """sum_m table[m, codes_nm] in order of m: table (M, K), codes (N, M); rows begin:end of out (N) float32."""
    for n in range(begin, end):
        total = np.float32(0)
        for m in range(codes.shape[1]):
            total += table[m, codes[n, m]]
        out[n] = total


@njit()
def nearest(x, columns, codes, squares, begin, end):
    """The nearest of columns (d, K) to rows begin:end of x (N, d): codes (N) uint8 and squared distances (N)."""
    K = columns.shape[1]
    sums = np.empty(K, np.float32)
    for n in range(begin, end):
        sums[:] = 0
        for d in range(x.shape[1]):
            value = x[n, d]
            for k in range(K):
                gap = value - columns[d, k]
                sums[k] += gap * gap
        best = 0
        for k in range(1, K):
            if sums[k] < sums[best]:
                best = k
        codes[n], squares[n] = best, sums[best]
