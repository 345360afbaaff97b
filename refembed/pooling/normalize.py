"""Normalizing: making vectors equally long, in one of several senses of length.

float32 vectors come out bit for bit as from llama.cpp's common_embd_normalize (common/common.cpp), corner cases too:

    zeros            stay zeros
    NaN somewhere    p = 2 and other p: NaN stays, all other numbers become 0; p = 0 looks past it
    infinity         becomes NaN, all other numbers 0
    very large       p = 2: a number beyond 1.8e19 has an infinite square, so the whole vector becomes 0
    very small       p = 2: numbers below 2.6e-23 have the square 0; p = 0 and 1: a length below 2.9e-39 has an infinite
                     factor, so numbers become infinite and zeros NaN
    large p          |x|^p underflows, e.g. for p = 400 and numbers near 0.1: the vector becomes 0

float64 vectors are computed in double throughout, each divided by its largest magnitude first, so that of this list
only zeros, NaN and infinity remain.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, Float
from refembed.errors import RequestError
from refembed.kernels.exact.sums import ordered_sum

LARGEST = 32760.0  # what p = 0 makes of the largest magnitude: near the end of int16
KNOWN = "-1 as it is, 0 largest magnitude, 1 taxicab, 2 Euclid, 3 and above p-norms"
ROWS_AT_A_TIME = 256  # normalized at a time; changes no bits


def normalize(x: npt.ArrayLike, p: int = 2) -> Float:
    """Scale each vector by one positive number.

    x        (..., D)   float32; anything else is taken as float64
    p                   llama.cpp's --embd-normalize:
                        -1  as it is
                         0  largest magnitude 32760
                         1  sum of magnitudes 1 (taxicab)
                         2  sum of squares 1 (Euclid)
                         p  (sum |x|^p)^(1/p) = 1
    returns  (..., D)   a new array; a vector's bits do not depend on its neighbors
    Raises RequestError for p below -1, a p that is not a whole number, and an x that is not of numbers.

    >>> normalize([3.0, 4.0])  # divided by sqrt(9 + 16) = 5
    array([0.6, 0.8])
    >>> normalize([1.0, -3.0], 1)  # divided by 1 + 3
    array([ 0.25, -0.75])
    >>> normalize([3.0, -4.0], 0)  # times 32760/4
    array([ 24570., -32760.])
    >>> normalize([3.0, 4.0, 5.0], 3).round(6)  # divided by the cube root of 27 + 64 + 125 = 216, which is 6
    array([0.5     , 0.666667, 0.833333])
    >>> normalize([3.0, 4.0], -1)  # as it is
    array([3., 4.])
    """
    p, x = check_p(p), check_vectors(x)
    result = np.empty_like(x, order="C")
    rows, out = x.reshape(-1, x.shape[-1] or 1), result.reshape(-1, x.shape[-1] or 1)  # (N, D), a view of result
    with np.errstate(all="ignore"):  # overflow, 1/0 and NaN mean what they mean in C
        for i in range(0, len(rows), ROWS_AT_A_TIME):
            out[i : i + ROWS_AT_A_TIME] = normalize_rows(rows[i : i + ROWS_AT_A_TIME], p)
    return result


def normalize_rows(x: Float, p: int) -> Float:
    """x (N, D) times a factor for each row."""
    if p == -1:
        return x
    if x.dtype == np.float64:
        largest = magnitude(x)[:, None]
        x = x / np.where(largest > 0, largest, 1)
    length = LENGTHS.get(p, p_norm)(x, p)  # (N), double
    factor = np.where(length > 0, 1 / length, 0)  # NaN is not > 0
    return cast(Float, x * factor.astype(x.dtype)[:, None])


def magnitude(x: Float) -> Float:
    """max |x| of each row: (N, D) -> (N); looks past NaN, as a comparison does (np.fmax not past a signaling one)."""
    size = np.abs(x)
    return cast(Float, np.max(size, axis=1, initial=0, where=~np.isnan(size)))


def p_norm(x: Float, p: int) -> F64:
    """(sum |x|^p)^(1/p) of each row, all in double: (N, D) -> (N)."""
    total = ordered_sum(power(np.abs(x), p).T)
    return power(total, 1 / p)


LENGTHS: dict[int, Callable[[Float, int], F64]] = {  # p -> lengths of the rows of x (N, D), (N)
    0: lambda x, p: magnitude(x).astype(np.float64) / LARGEST,
    1: lambda x, p: ordered_sum(np.abs(x).T),
    2: lambda x, p: np.sqrt(ordered_sum((x * x).T)),  # the squares are rounded to the dtype of x, the sum is in double
}


def power(x: Float, exponent: float) -> F64:
    """x^exponent in double as the C library has it; np.power differs in the last bit of one number in twenty."""
    return np.asarray(C_POW(x.astype(np.float64), exponent), np.float64)


def c_pow(x: float, exponent: float) -> float:
    """C's pow for x >= 0: infinity where Python's raises."""
    try:
        return math.pow(x, exponent)
    except OverflowError:
        return math.inf


C_POW = np.frompyfunc(c_pow, 2, 1)


def check_p(p: Any) -> int:
    """A norm as a whole number from -1, or RequestError."""
    if isinstance(p, (bool, np.bool_)):
        raise RequestError(f"normalize {p}: name the norm", hint="2 makes vectors of length 1, -1 leaves them alone")
    try:
        whole = operator.index(p)
    except TypeError:
        raise RequestError(f"normalize {p!r}: not a whole number", hint=KNOWN) from None
    if whole < -1:
        raise RequestError(f"normalize {whole}: there is no such norm", hint=KNOWN)
    return whole


def check_vectors(x: npt.ArrayLike) -> Float:
    """Vectors as float32 or float64, or RequestError."""
    try:
        array = np.asarray(x)
    except ValueError as error:  # a list of lists of several lengths
        raise RequestError(f"not vectors of one length: {error}") from None
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise RequestError(f"a vector is a list of numbers, not {array.dtype} of shape {array.shape}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
