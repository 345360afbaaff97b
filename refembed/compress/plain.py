"""The definitions that `jit` is compared with: same names, arguments and results, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, U8

ONES = np.array([i.bit_count() for i in range(256)], np.uint8)  # ones in each byte


def hamming(query: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Bits that differ: query (W), codes (N, W) uint64 -> (N) int32."""
    return ONES[(codes ^ query).view(np.uint8)].sum(axis=1, dtype=np.int32)


def dot_codes(query: F32, codes: npt.NDArray[Any]) -> F32:
    """sum_d query_d codes_nd: query (D) float32, codes (N, D) int8 or uint8 -> (N) float32."""
    return codes.astype(np.float32) @ query


def sum_table(table: F32, codes: U8) -> F32:
    """sum_m table[m, codes_nm] in order of m: table (M, K) float32, codes (N, M) uint8 -> (N) float32."""
    total = np.zeros(len(codes), np.float32)
    for row, column in zip(table, codes.T, strict=True):
        total += row[column]
    return total


def nearest(x: F32, book: F32) -> tuple[U8, F32]:
    """The first k with the least |x_n - book_k|^2, squares added in order: x (N, d), book (K, d) -> (N) uint8, (N)."""
    squares = np.zeros((len(x), len(book)), np.float32)
    for x_d, book_d in zip(x.T, book.T, strict=True):
        gaps = x_d[:, None] - book_d
        squares += gaps * gaps
    codes = squares.argmin(axis=1)
    return codes.astype(np.uint8), squares[np.arange(len(x)), codes]
