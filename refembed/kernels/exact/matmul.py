"""The product of `exact`: x Wᵀ, with rows that do not depend on their neighbors.

What is computed is `x @ w.T`. BLAS picks its inner kernel by the height of x, and in some kernels by a row's place in a
block, so the last bits of a row can change with the batch around it. Two measures keep them:

    1. BLAS sees few heights only: x is cut into tiles whose heights are powers of two, from LEAST to MOST rows, the
       last one padded with zeros.
    2. Whether that is enough on this machine is measured, not assumed: once for each shape of W, `rows_stand_alone`
       multiplies one and the same row at every place of a tile of every height. Where bits differ (OpenBLAS' Haswell
       kernels, for some) llvm/gemm.py multiplies. There an element is one chain of multiply-adds in order of k, so a
       row stands alone by construction.

docs/batch-invariance.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import Float
from refembed.kernels import blas

LEAST, MOST = 8, 1024  # rows of one BLAS call; more at once would be quicker by a few percent, and slower to probe
SMALL = 1 << 20  # multiplications; below 1e6 OpenBLAS may take its small-matrix kernels, so small W get taller tiles


@cache
def heights(n: int, k: int) -> tuple[int, ...]:
    """Heights of the tiles that BLAS is given for W (n, k), the tallest first."""
    least = LEAST
    while least * n * k < SMALL:
        least *= 2
    most = max(least, MOST)
    return tuple(least << i for i in reversed(range((most // least).bit_length())))


def tiles(rows: int, n: int, k: int) -> Iterator[tuple[int, int]]:
    """(begin, height) of each tile of x (rows, k); the last may reach beyond the last row.

    >>> list(tiles(20, 1024, 1024))  # 16 rows, then 4, padded to 8
    [(0, 16), (16, 8)]
    """
    begin = 0
    for height in heights(n, k):
        while rows - begin >= height:
            yield begin, height
            begin += height
    if begin < rows:
        yield begin, heights(n, k)[-1]


@cache
def rows_stand_alone(n: int, k: int, dtype: type[np.floating[Any]], *threads: int) -> bool:
    """True if this machine's BLAS gives a row of x the same bits at any place of any tile, for W (n, k).

    threads  `blas.chosen`: with another number, BLAS is tried anew
    """
    rng = np.random.default_rng(0)
    w = rng.random((n, k), dtype) - dtype(0.5)  # every bit random: products of short numbers would round alike anyhow
    row = rng.random((1, k), dtype) - dtype(0.5)
    first = None
    for height in heights(n, k):
        y = np.repeat(row, height, axis=0) @ w.T  # (height, n), all rows equal
        first = y[0] if first is None else first
        if not (y == first).all():
            return False
    return True


def matmul(x: Float, w: Float, out: Float) -> None:
    """x (T, k) times w (n, k) transposed, into out (T, n).

    >>> out = np.empty((1, 2))
    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), out)  # 1*3 + 2*4, 1*5 + 2*6
    >>> out
    array([[11., 17.]])
    """
    if rows_stand_alone(*w.shape, np.float64, *blas.chosen):
        by_blas(x, w, out)
    else:
        from refembed.kernels.llvm import gemm  # imports Numba, which other machines need not

        out[:] = gemm.matmul(x, w)


def by_blas(x: Float, w: npt.NDArray[Any], out: Float) -> None:
    """x (T, k) times w (n, k) transposed, in tiles, into out (T, n)."""
    n, k = w.shape
    for begin, height in tiles(len(x), n, k):
        part, target = x[begin : begin + height], out[begin : begin + height]
        if len(part) == height:
            np.matmul(part, w.T, out=target)
        else:
            padded = np.zeros((height, k), x.dtype)
            padded[: len(part)] = part
            target[:] = np.matmul(padded, w.T)[: len(part)]
