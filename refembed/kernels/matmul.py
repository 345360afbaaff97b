"""x Wᵀ with rows that do not depend on their neighbours.

BLAS picks its inner kernel by the height of x, and in some kernels by a row's place in a block, so the last bits of a
row can change with the batch around it. Two measures keep them:

    1. x is cut into tiles of at most TILE rows, each padded with zeros to a multiple of GRANULE rows and, for small W, to
       SMALL multiplications, below which OpenBLAS switches to other kernels.
    2. Whether that is enough on this machine is measured, not assumed: `rows_stand_alone` multiplies one and the same
       row at every place of tiles of many heights, once for each shape of W. Where bits differ (OpenBLAS' Haswell sgemm,
       for one) the caller uses a kernel of our own, which is slower and sums every element in order of k.

docs/batch-invariance.md has the measurements.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import Float

TILE = 512  # rows of one BLAS call at most, so that `rows_stand_alone` can try every height that occurs
GRANULE = 16  # heights are multiples of this
SMALL = 1 << 21  # fewer multiplications than this, and OpenBLAS may take its small-matrix kernels (limit: 1e6)


def padded_height(rows: int, n: int, k: int) -> int:
    """Rows that BLAS is given for `rows` rows of x (rows, k) and W (n, k)."""
    least = -(-SMALL // max(1, n * k))
    return -(-max(rows, least) // GRANULE) * GRANULE


@cache
def rows_stand_alone(n: int, k: int, dtype: type[np.floating[Any]]) -> bool:
    """True if this machine's BLAS gives a row the same bits at any place of any padded tile of x (T, k) times W (n, k)."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((n, k)).astype(dtype)
    row = rng.standard_normal((1, k)).astype(dtype)
    first = None
    for rows in (1, 3 * GRANULE, 7 * GRANULE, TILE // 2 - GRANULE, TILE):
        y = np.repeat(row, padded_height(rows, n, k), axis=0) @ w.T  # (height, n), all rows equal
        first = y[0] if first is None else first
        if not np.array_equal(y, np.broadcast_to(first, y.shape)):
            return False
    return True


def matmul(x: Float, w: npt.NDArray[Any]) -> Float:
    """x (T, k) times w (n, k) transposed, by BLAS in padded tiles: (T, n)."""
    n, k = w.shape
    if len(x) <= TILE and padded_height(len(x), n, k) == len(x):
        return x @ w.T
    out = np.empty((len(x), n), x.dtype)
    for begin in range(0, len(x), TILE):
        part = x[begin : begin + TILE]
        height = padded_height(len(part), n, k)
        if height == len(part):
            np.matmul(part, w.T, out=out[begin : begin + TILE])
            continue
        padded = np.zeros((height, k), x.dtype)
        padded[: len(part)] = part
        out[begin : begin + TILE] = (padded @ w.T)[: len(part)]
    return out
