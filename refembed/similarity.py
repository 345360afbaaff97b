"""How alike vectors are: two of them, or every pair from two sets.

All five functions take a (..., D) and b (..., D) and give the shape of a without its last axis, then that of b
without its own: two vectors give a number, (N, D) and (M, D) a matrix (N, M). Sums are in double and in order, so a
pair has the same bits alone and in a matrix. To rank a large corpus, normalize once and multiply: `corpus @ query`.

    measure     of two zero vectors   of zero and b   of vectors that are the same
    cosine      1                     0               1
    dot         0                     0               |a|^2
    euclidean   0                     |b|             0
    manhattan   0                     sum |b_i|       0
    hamming     0                     the ones of b   0, exactly: bits are counted

`maxsim` compares a text's token vectors with another's.

`cosine` of float32 vectors is llama.cpp's common_embd_similarity_cos (common/common.cpp) bit for bit: products in
float, sums in double. Two zero vectors are alike (1), a zero vector and any other are not (0). One thing differs: the
squares of vectors longer than 1e19 or shorter than 1e-15 leave float32 or lose digits there; llama.cpp then gives
NaN, or takes a vector for zero, and refembed computes the pair in double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, I64, U8, Float
from refembed.errors import RequestError
from refembed.kernels.exact.sums import ordered_sum

__all__ = ["cosine", "dot", "euclidean", "hamming", "manhattan", "maxsim"]

COLUMNS = 4096  # vectors of the larger set taken at a time; changes no bits
ONES = np.array([i.bit_count() for i in range(256)], np.uint8)  # ones in each byte


def dot(a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
    """sum(a_i b_i): large for long vectors that point the same way.

    a, b     (..., D)   float32 or float64; anything else is taken as float64
    returns             float64 of the shape described at the top; a Python float for two vectors
    Raises RequestError for vectors of different lengths, not of numbers, not finite, or too large for a result.

    >>> dot([1, 2], [3, 4])  # 1*3 + 2*4
    11.0
    >>> dot([[1, 0], [0, 1]], [[3, 4], [5, 6], [7, 8]])  # two vectors with three
    array([[3., 5., 7.],
           [4., 6., 8.]])
    """
    return every_pair(a, b, lambda x, y: pair_sums(x.astype(np.float64), y.astype(np.float64), np.multiply))


def euclidean(a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
    """sqrt(sum((a_i - b_i)^2)), the straight way from a to b. Arguments, result and errors as of `dot`.

    >>> euclidean([1, 1], [4, 5])  # sqrt(9 + 16)
    5.0
    """

    def squares(x: Float, y: Float) -> Float:
        return cast(Float, (x - y) ** 2)

    return every_pair(a, b, lambda x, y: np.sqrt(pair_sums(x.astype(np.float64), y.astype(np.float64), squares)))


def manhattan(a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
    """sum(|a_i - b_i|), the way along the axes. Arguments, result and errors as of `dot`.

    >>> manhattan([1, 1], [4, 5])  # 3 + 4
    7.0
    """

    def gaps(x: Float, y: Float) -> Float:
        return np.abs(x - y)

    return every_pair(a, b, lambda x, y: pair_sums(x.astype(np.float64), y.astype(np.float64), gaps))


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
    """dot(a, b) / (|a| |b|), the cosine of the angle between them: 1 the same way, 0 at right angles, -1 opposite.

    Arguments, result and errors as of `dot`. For float32 vectors it is the float that llama.cpp returns, which can be
    one rounding beyond 1; in double it never is.

    >>> cosine([3, 4], [4, 3])  # (12 + 12) / (5 * 5)
    0.96
    >>> cosine([1, 0], [0, 5]), cosine([1, 0], [-2, 0]), cosine([0, 0], [0, 0])
    (0.0, -1.0, 1.0)
    """
    return every_pair(a, b, float_cosines)


def hamming(a: npt.ArrayLike, b: npt.ArrayLike) -> Any:
    """How many bits differ (Hamming 1950).

    a, b     (..., B)   eight bits a byte, as `np.packbits(x > 0, axis=-1)` lays them out: uint8, or int8, which is
                        taken as sentence-transformers' `binary`: every byte 128 less. Or booleans, one bit each
    returns             int64 of the shape described at the top; a Python int for two codes
    Raises RequestError for codes of different lengths and for anything else than bytes or booleans.

    >>> hamming(np.array([0b1010], np.uint8), np.array([0b0110], np.uint8))  # 1010 and 0110 differ in two bits
    2
    >>> hamming(np.array([True, False, True]), np.array([True, True, False]))
    2
    """
    x, y = check_bits(a, "the first"), check_bits(b, "the second")
    B = x.shape[-1]
    if y.shape[-1] != B:
        raise RequestError(
            f"the first codes have {B} bytes, the second {y.shape[-1]}", hint="codes of two models cannot be compared"
        )
    rows = [v.reshape(math.prod(v.shape[:-1]), B) for v in (x, y)]  # (N, B), (M, B)
    counts = bit_counts(rows[0], rows[1]).reshape(x.shape[:-1] + y.shape[:-1])
    return counts if counts.ndim else counts.item()


def maxsim(query: npt.ArrayLike, documents: Any) -> Any:
    """sum over the query's tokens of the largest dot product with a token of the document: late interaction.

    Khattab & Zaharia 2020, "ColBERT". For models that are trained for it; token vectors are those of
    `embed(text, pooling="none")`.

    query      (T_q, D) float32 or float64; anything else is taken as float64
    documents  (T_d, D) of one document; or a list of such, of several lengths
    returns    float64: a Python float for one document, (N) for a list
    Raises RequestError as `dot` does, and for a text without tokens.

    >>> maxsim([[1, 0], [0, 2]], [[3, 0], [1, 1], [0, -4]])  # max(3, 1, 0) + max(0, 2, -8)
    5.0
    >>> maxsim([[1, 0], [0, 2]], [[[3, 0]], [[1, 1], [0, 4]]])  # 3 + 0, 1 + 8
    array([3., 9.])
    """
    several = isinstance(documents, (list, tuple)) and bool(documents) and np.ndim(documents[0]) == 2
    scores = []
    for i, document in enumerate(documents if several else [documents]):
        which = f"document {i}" if several else "the document"
        shapes = [np.asarray(x).shape for x in (query, document)]
        for what, shape in zip(("the query", which), shapes, strict=True):
            if len(shape) != 2 or not shape[0]:
                hint = "(T, D), a row a token: embed(text, pooling='none')"
                raise RequestError(f"{what}: token vectors of shape {shape}", hint=hint)
        scores.append(float(dot(query, document).max(axis=1).sum()))
    return np.array(scores) if several else scores[0]


def bit_counts(a: U8, b: U8) -> I64:
    """Differing bits of every row of a (N, B) and of b (M, B): (N, M)."""
    if len(a) > len(b):  # the loop is over the smaller set
        return bit_counts(b, a).T
    counts = np.empty((len(a), len(b)), np.int64)
    for j in range(0, len(b), COLUMNS):
        for n, row in enumerate(a):
            counts[n, j : j + COLUMNS] = ONES[row ^ b[j : j + COLUMNS]].sum(axis=1, dtype=np.int64)
    return counts


def float_cosines(a: Float, b: Float) -> F64:
    """Cosines as llama.cpp has them: a (N, D), b (M, D) -> (N, M)."""
    if a.dtype == np.float64:
        return double_cosines(a, b)
    aa, bb = ordered_sum((a * a).T)[:, None], ordered_sum((b * b).T)  # (N, 1), (M)
    cosines = pair_sums(a, b, np.multiply) / (np.sqrt(aa) * np.sqrt(bb))
    sound = (aa > 1e-30) & (aa < 1e38) & (bb > 1e-30) & (bb < 1e38)
    if not sound.all():
        cosines = np.where(sound, cosines, double_cosines(a.astype(np.float64), b.astype(np.float64)))
    return cosines.astype(np.float32).astype(np.float64)


def double_cosines(a: Float, b: Float) -> F64:
    """Cosines from double throughout, whatever the vectors' lengths: a (N, D), b (M, D) -> (N, M)."""
    (a, a_zero), (b, b_zero) = to_largest_1(a), to_largest_1(b)
    aa, bb = ordered_sum((a * a).T)[:, None], ordered_sum((b * b).T)  # (N, 1), (M)
    cosines = np.clip(pair_sums(a, b, np.multiply) / np.sqrt(aa * bb), -1, 1)
    return np.where(a_zero[:, None] | b_zero, a_zero[:, None] & b_zero, cosines).astype(np.float64)


def to_largest_1(x: Float) -> tuple[Float, npt.NDArray[np.bool_]]:
    """x (N, D) with the largest magnitude of each row made 1, and which rows are zero (N)."""
    largest = np.abs(x).max(axis=1, initial=0)
    return x / np.where(largest > 0, largest, 1)[:, None], largest == 0


def pair_sums(a: Float, b: Float, terms: Callable[[Float, Float], npt.NDArray[Any]]) -> F64:
    """Sum over i of terms(a_i, b_i), in double and in order, for every row of a (N, D) and of b (M, D): (N, M).

    terms  symmetric in its arguments, and computed in the dtype of a and b
    """
    if len(a) > len(b):  # the loop is over the smaller set
        return pair_sums(b, a, terms).T
    sums = np.empty((len(a), len(b)))
    for j in range(0, len(b), COLUMNS):
        columns = np.ascontiguousarray(b[j : j + COLUMNS].T)  # (D, up to COLUMNS)
        for n, row in enumerate(a):
            sums[n, j : j + COLUMNS] = ordered_sum(terms(row[:, None], columns))
    return sums


def every_pair(a: npt.ArrayLike, b: npt.ArrayLike, measure: Callable[[Float, Float], F64]) -> Any:
    """Check, lay out as rows, measure, and give the result its shape."""
    x, y = check_vectors(a, "the first"), check_vectors(b, "the second")
    D = x.shape[-1]
    if y.shape[-1] != D:
        hint = "vectors of two models cannot be compared"
        raise RequestError(f"the first vectors have {D} numbers, the second {y.shape[-1]}", hint=hint)
    dtype = np.result_type(x, y)
    rows = [v.reshape(math.prod(v.shape[:-1]), D).astype(dtype) for v in (x, y)]  # (N, D), (M, D)
    with np.errstate(all="ignore"):
        result = measure(rows[0], rows[1]).reshape(x.shape[:-1] + y.shape[:-1])
    if not np.isfinite(result).all():
        raise RequestError("the vectors are too large: their result is not a number in double")
    return result if result.ndim else result.item()


def check_vectors(x: npt.ArrayLike, which: str) -> Float:
    """Vectors as float32 or float64, or RequestError."""
    try:
        array = np.asarray(x)
    except ValueError as error:  # a list of lists of several lengths
        raise RequestError(f"{which} are not vectors of one length: {error}") from None
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise RequestError(f"{which}: a vector is a list of numbers, not {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise RequestError(f"{which} vectors have NaN or infinity in them", hint="nothing is like what is not a number")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def check_bits(x: npt.ArrayLike, which: str) -> U8:
    """Codes as packed uint8, or RequestError."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise RequestError(f"{which} are not codes of one length: {error}") from None
    if array.dtype not in (np.uint8, np.int8, np.bool_) or array.ndim == 0:
        hint = "np.packbits(x > 0, axis=-1) makes bits of a vector, refembed.compress more than that"
        raise RequestError(f"{which}: a code is bytes or booleans, not {array.dtype} of shape {array.shape}", hint=hint)
    if array.dtype == np.bool_:
        return np.packbits(array, axis=-1)
    return array if array.dtype == np.uint8 else array.view(np.uint8) ^ np.uint8(0x80)
