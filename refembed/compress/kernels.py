"""The four inner loops of searching and encoding, as a caller sees them. Their Numba versions in `jit` do the work.

`plain` has the definitions in NumPy, under the same names and with the same arguments. Tests compare the two:
`hamming`, `sum_table` and `nearest` bit for bit, `dot_codes` to float32's rounding: its compiled version adds in
lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, I32, U8
from refembed.kernels.threads import parallel_for


def hamming(query: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint64]) -> I32:
    """Bits that differ: query (W), codes (N, W) uint64 -> (N) int32."""
    from refembed.compress import jit

    out = np.empty(len(codes), np.int32)
    parallel_for(jit.hamming, query, codes, out, rows=len(codes), size=codes.size)
    return out


def dot_codes(query: F32, codes: npt.NDArray[Any]) -> F32:
    """sum_d query_d codes_nd: query (D) float32, codes (N, D) int8 or uint8 -> (N) float32."""
    from refembed.compress import jit

    out = np.empty(len(codes), np.float32)
    parallel_for(jit.dot_codes, query.astype(np.float32), codes, out, rows=len(codes), size=codes.size)
    return out


def sum_table(table: F32, codes: U8) -> F32:
    """sum_m table[m, codes_nm] in order of m: table (M, K) float32, codes (N, M) uint8 -> (N) float32."""
    from refembed.compress import jit

    out = np.empty(len(codes), np.float32)
    parallel_for(jit.sum_table, table, codes, out, rows=len(codes), size=codes.size)
    return out


def nearest(x: F32, book: F32) -> tuple[U8, F32]:
    """The first k with the least |x_n - book_k|^2, squares added in order: x (N, d), book (K, d) -> (N) uint8, (N)."""
    from refembed.compress import jit

    codes, squares = np.empty(len(x), np.uint8), np.empty(len(x), np.float32)
    columns = np.ascontiguousarray(book.T)  # (d, K)
    parallel_for(jit.nearest, x, columns, codes, squares, rows=len(x), size=len(x) * book.size)
    return codes, squares
