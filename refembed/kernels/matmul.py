"""x Wᵀ with rows that do not depend on their neighbours, and sums that stay short.

BLAS picks its inner kernel by the height of x, and in some kernels by a row's place in a block, so the last bits of a
row can change with the batch around it. Two measures keep them:

    1. BLAS sees few heights only: x is cut into tiles whose heights are powers of two, from LEAST to MOST rows, the
       last one padded with zeros.
    2. Whether that is enough on this machine is measured, not assumed: once for each shape of W, `rows_stand_alone`
       multiplies one and the same row at every place of a tile of every height. Where bits differ (OpenBLAS' Haswell
       sgemm, for one) the caller uses a kernel of our own, which is slower and sums every element in order of k.

BLAS adds up to k products one after the other, and rounding grows with the length of such a sum. In float32, k is cut
into blocks of at most BLOCK, and the blocks' sums are added.

docs/batch-invariance.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import Float

LEAST, MOST = 8, 1024  # rows of one BLAS call; more at once would be quicker by a few per cent, and slower to probe
SMALL = 1 << 20  # multiplications; below 1e6 OpenBLAS may take its small-matrix kernels, so small W get taller tiles
BLOCK = 128  # products of float32 that are added one after the other; `jit.matmul_rows` has the same blocks

Add = Callable[[Float, Float], object]  # out, part: out += part


@cache
def heights(n: int, k: int) -> tuple[int, ...]:
    """Heights of the tiles that BLAS is given for W (n, k), the tallest first."""
    least = LEAST
    while least * n * k < SMALL:
        least *= 2
    most = max(least, MOST)
    return tuple(least << i for i in reversed(range((most // least).bit_length())))


def tiles(rows: int, n: int, k: int) -> Iterator[tuple[int, int]]:
    """(begin, height) of each tile of x (rows, k); the last may reach beyond the last row."""
    begin = 0
    for height in heights(n, k):
        while rows - begin >= height:
            yield begin, height
            begin += height
    if begin < rows:
        yield begin, heights(n, k)[-1]


@cache
def blocks(k: int, itemsize: int) -> tuple[tuple[int, int], ...]:
    """begin, end of the blocks of k that are summed apart: one block in float64, which has digits to spare.

    itemsize  bytes of a number
    """
    step = BLOCK if itemsize == 4 else max(k, 1)
    return tuple((begin, min(begin + step, k)) for begin in range(0, k, step))


@cache
def rows_stand_alone(n: int, k: int, dtype: type[np.floating[Any]]) -> bool:
    """True if this machine's BLAS gives a row of x the same bits at any place of any tile, for W (n, k)."""
    rng = np.random.default_rng(0)
    w = rng.random((n, k), dtype) - dtype(0.5)  # every bit random: products of short numbers would round alike anyhow
    row = rng.random((1, k), dtype) - dtype(0.5)
    widths = {end - begin: (begin, end) for begin, end in blocks(k, np.dtype(dtype).itemsize)}
    for begin, end in widths.values():
        first = None
        for height in heights(n, k):
            y = np.repeat(row, height, axis=0)[:, begin:end] @ w[:, begin:end].T  # (height, n), all rows equal
            first = y[0] if first is None else first
            if not (y == first).all():
                return False
    return True


def add(out: Float, part: Float) -> None:
    """out += part."""
    out += part


def matmul(x: Float, w: npt.NDArray[Any], out: Float | None = None, add: Add = add) -> Float:
    """x (T, k) times w (n, k) transposed, by BLAS in tiles: (T, n).

    out  where to put the product; None makes an array
    add  adds the sum of a block: a way to share that among cores
    """
    n, k = w.shape
    out = np.empty((len(x), n), x.dtype) if out is None else out
    edges = blocks(k, x.itemsize)
    scratch = np.empty((min(len(x), MOST), n), x.dtype) if len(edges) > 1 else out
    for begin, height in tiles(len(x), n, k):
        part, target = x[begin : begin + height], out[begin : begin + height]
        if len(part) == height:
            multiply(part, w, edges, target, scratch[:height], add)
        else:
            padded = np.zeros((height, k), x.dtype)
            padded[: len(part)] = part
            y = np.empty((2, height, n), x.dtype)
            multiply(padded, w, edges, y[0], y[1], add)
            target[:] = y[0, : len(part)]
    return out


def multiply(
    x: Float, w: npt.NDArray[Any], edges: tuple[tuple[int, int], ...], out: Float, scratch: Float, add: Add
) -> None:
    """x wᵀ of one tile, block of k by block of k."""
    for begin, end in edges:
        y = out if begin == 0 else scratch
        np.matmul(x[:, begin:end], w[:, begin:end].T, out=y)
        if begin:
            add(out, y)
