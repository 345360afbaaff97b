"""Product quantization: a vector is cut into M parts, and each part is stored as the number of the centroid next to it.

    Jegou, Douze & Schmid 2011, Product Quantization for Nearest Neighbor Search

    x = (x_1 ... x_M),  code = (c_1 ... c_M),  c_m = argmin_k |x_m - C_m[k]|^2 (the first of equals), one byte each
    decode(code) = (C_1[c_1] ... C_M[c_M])

The asymmetric distance of a query y (the paper's section III) compares floats with codes: all |y_m - C_m[k]|^2 go
into a table (M, K) once a query, and a vector costs M look-ups:  |y - decode(code)|^2 = sum_m table[m, c_m].

The centroids are found by k-means: k-means++ seeds (Arthur & Vassilvitskii 2007), then Lloyd's steps until no vector
changes its centroid. A centroid that no vector is next to takes the place of the vector that is worst off. With the
same seed and vectors, centroids are the same bits.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, U8, Float
from refembed.compress import kernels
from refembed.compress.codec import Codec, Codes, as_rows, check_finite
from refembed.errors import RequestError
from refembed.kernels.exact.sums import ordered_sum

K = 256  # centroids a part: a byte says which
LARGEST = 1e15
STEPS = 25  # of Lloyd's, at most
SAMPLE = 65_536  # vectors that are trained on, at most


class ProductQuantizer(Codec):
    """Codebooks and what follows from them.

    codebooks   (M, K, D/M) float32   M parts, K <= 256 centroids each

    No other code is nearer: |x - decode(encode(x))| <= |x - decode(c)| for every c, up to float32's rounding of
    squares. encode(decode(c)) decodes to the same vector. Numbers beyond 1e15 are refused: their squares leave float32.
    """

    stored: ClassVar = ("codebooks",)

    def __init__(self, codebooks: npt.ArrayLike) -> None:
        books = np.ascontiguousarray(codebooks, dtype=np.float32)
        if books.ndim != 3 or not 1 <= books.shape[1] <= K or 0 in books.shape or not np.isfinite(books).all():
            raise RequestError(f"codebooks are (M, K, D/M) finite numbers, K up to {K}, not of shape {books.shape}")
        self.codebooks, (self.M, self.K, self.d) = books, books.shape
        self.scheme, self.dimensions = f"pq:{self.M}", self.M * self.d
        self.code_dtype, self.code_shape = np.dtype("u1"), (self.M,)

    @classmethod
    def fit(cls, x: npt.ArrayLike, M: int | None = None, *, seed: int = 0, steps: int = STEPS) -> ProductQuantizer:
        """Centroids from vectors x (N, D).

        M      parts, a divisor of D; None: the largest one up to D/4, 16 times fewer bytes where D divides by 4
        seed   of k-means, and of the sample that is taken from more than 65,536 vectors
        Fewer than 256 vectors give a centroid each, and come back as they are. Raises RequestError for no vectors, and
        for an M that does not divide D.
        """
        rows, _ = as_rows(x)
        D = rows.shape[1]
        M = default_parts(D) if M is None else M
        if M < 1 or D % M:
            divisors = ", ".join(str(m) for m in range(1, D + 1) if D % m == 0)
            raise RequestError(
                f"pq:{M}: vectors of {D} numbers do not divide into {M} parts", hint=f"one of {divisors}"
            )
        if not len(rows):
            raise RequestError("product quantization learns from vectors, and there are none")
        rng = np.random.default_rng(seed)
        if len(rows) > SAMPLE:
            rows = rows[np.sort(rng.choice(len(rows), SAMPLE, replace=False))]
        parts = check_size(rows).reshape(len(rows), M, D // M)
        books = [k_means(np.ascontiguousarray(parts[:, m]), min(K, len(rows)), rng, steps) for m in range(M)]
        return cls(np.stack(books))

    def encode_rows(self, x: Float) -> Codes:
        """The nearest centroid of each part."""
        parts = check_size(x).reshape(len(x), self.M, self.d)
        codes = np.empty((len(x), self.M), np.uint8)
        for m, book in enumerate(self.codebooks):
            codes[:, m] = kernels.nearest(np.ascontiguousarray(parts[:, m]), book)[0]
        return codes

    def decode_rows(self, codes: Codes) -> F32:
        """The centroids."""
        return self.codebooks[np.arange(self.M), codes].reshape(len(codes), self.dimensions)

    def check_codes(self, codes: Codes) -> U8:
        """As of any codec; and there is a centroid for each."""
        if super().check_codes(codes).size and int(codes.max()) >= self.K:
            raise RequestError(f"a code names centroid {int(codes.max())}, and there are {self.K}")
        return codes

    def table(self, query: F32) -> F32:
        """|y_m - C_m[k]|^2 of query y (D): (M, K)."""
        gaps = query.astype(np.float32).reshape(self.M, 1, self.d) - self.codebooks  # (M, K, d)
        return ordered_sum(np.moveaxis(gaps * gaps, 2, 0)).astype(np.float32)

    def scores(self, query: F32, prepared: Codes) -> F32:
        """Minus the asymmetric squared distance."""
        return -kernels.sum_table(self.table(query), prepared)


def check_size(x: Float) -> F32:
    """Vectors as float32, or RequestError where their squares would not fit."""
    if np.abs(check_finite(x)).max(initial=0) > LARGEST:
        raise RequestError(f"numbers beyond {LARGEST:g} are too large for pq", hint="normalize the vectors")
    return x.astype(np.float32)


def default_parts(D: int) -> int:
    """The largest divisor of D that is at most D/4, or 1."""
    return max((m for m in range(1, D // 4 + 1) if D % m == 0), default=1)


def k_means(x: F32, K: int, rng: np.random.Generator, steps: int) -> F32:
    """K centroids (K, d) of vectors x (N, d), N >= K."""
    book = first_centroids(x, K, rng)
    codes = np.full(len(x), -1)
    for _ in range(steps):
        before, (codes, squares) = codes, kernels.nearest(x, book)
        if np.array_equal(before, codes):
            break
        book = means(x, codes, squares, book)
    return book


def first_centroids(x: F32, K: int, rng: np.random.Generator) -> F32:
    """k-means++: each next one is drawn from the vectors, by its squared distance to the nearest so far."""
    if len(x) == K:
        return x.copy()
    book = np.empty((K, x.shape[1]), np.float32)
    chosen = int(rng.integers(len(x)))
    squares = np.full(len(x), np.inf)
    for k in range(K):
        book[k] = x[chosen]
        gaps = (x - book[k]).astype(np.float64)
        squares = np.minimum(squares, (gaps * gaps).sum(axis=1))
        total = squares.cumsum()
        at = rng.random() * total[-1]
        chosen = min(int(np.searchsorted(total, at, side="right")), len(x) - 1)
    return book


def means(x: F32, codes: npt.NDArray[np.integer], squares: F32, book: F32) -> F32:
    """The mean of the vectors next to each centroid, added in double; a centroid with none goes where it is needed."""
    counts = np.bincount(codes, minlength=len(book))
    sums = np.stack([np.bincount(codes, weights=column, minlength=len(book)) for column in x.T], axis=1)  # (K, d)
    moved = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    moved[empty] = x[np.argsort(-squares, kind="stable")[: len(empty)]]
    return moved
